// A process that exits while its engine works: with the code it said, not with a crash of the runtime.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { expect, test } from "vitest";

const ROOT = join(import.meta.dirname, "..", "..");

const PROGRAM = `
  import { ReadMeEngine } from "@readme-moe/engine";
  const engine = await ReadMeEngine.open("models/pocket", { isolation: process.argv[1], threads: 2 });
  const stream = engine.generate({ prompt: "a", params: { maxTokens: 900, ignoreEos: true } });
  for (let i = 0; i < Number(process.argv[2]); i++) await stream.next();
  if (process.argv[3] === "killed") engine.kill();
  process.exit(3);
`;

test.for([
  ["thread", "1", "running"],
  ["thread", "9", "running"],
  ["thread", "17", "running"],
  ["thread", "5", "killed"],
  ["process", "5", "running"],
] as const)("in a %s, after %s chunks, its engine %s", async (args) => {
  const node = ["--conditions=@readme-moe/source", "--import", "tsx", "--input-type=module", "-e", PROGRAM, ...args];
  const child = spawn(process.execPath, node, { cwd: ROOT, stdio: ["ignore", "ignore", "pipe"] });
  let complaints = "";
  child.stderr.on("data", (text: Buffer) => (complaints += text.toString()));
  const [code, signal] = (await once(child, "close")) as [number | null, string | null];
  expect({ code, signal, complaints }).toEqual({ code: 3, signal: null, complaints: "" });
});
