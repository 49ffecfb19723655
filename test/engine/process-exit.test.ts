// A process that exits while its engine works exits with its own code, without a crash of the runtime. A process without
// further work is not kept running by its engine.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { expect, test } from "vitest";
import { NODE_FLAGS } from "../support/run-cli.ts";

const ROOT = join(import.meta.dirname, "..", "..");

const PROGRAM = `
  import { ReadMeEngine } from "@readme-moe/engine";
  const engine = await ReadMeEngine.open("models/pocket", { precision: "fp32", isolation: process.argv[1], threads: 2 });
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
  const node = [...NODE_FLAGS, "--input-type=module", "-e", PROGRAM, ...args];
  expect(await endOf(node)).toEqual({ code: 3, signal: null, complaints: "", words: "" });
});

// One answer is read to its end, and one is still open at the end of the program.
const FORGETFUL = `
  import { ReadMeEngine } from "@readme-moe/engine";
  const engine = await ReadMeEngine.open("models/pocket", { precision: "fp32", isolation: process.argv[1] });
  const answer = async (maxTokens) => {
    let tokens = 0;
    for await (const chunk of engine.generate({ prompt: "a", params: { maxTokens, ignoreEos: true } })) tokens += chunk.tokens.length;
    return tokens;
  };
  process.stdout.write(String(await answer(3)) + " ");
  const ids = await engine.tokenize("The ship was");
  process.stdout.write((await engine.detokenize(ids)).trim() + " ");
  void answer(40).then((tokens) => process.stdout.write(String(tokens)));
`;

test.for(["thread", "process"] as const)(
  "an engine in a %s that is not disposed lets the program end once its answers are there",
  async (isolation) => {
    const node = [...NODE_FLAGS, "--input-type=module", "-e", FORGETFUL];
    // Its output closes only when the engine's process, which shares it, has ended too.
    expect(await endOf([...node, isolation])).toEqual({
      code: 0,
      signal: null,
      complaints: "",
      words: "3 The ship was 40",
    });
  },
);

test("an engine's process starts with flags of the program whose values follow them", async () => {
  const node = [...NODE_FLAGS, "--input-type", "module", "--inspect-port", "0", "-e"];
  expect(await endOf([...node, FORGETFUL, "process"])).toMatchObject({ code: 0, words: "3 The ship was 40" });
});

async function endOf(
  args: readonly string[],
): Promise<{ code: number | null; signal: string | null; complaints: string; words: string }> {
  const child = spawn(process.execPath, args, { cwd: ROOT, stdio: ["ignore", "pipe", "pipe"] });
  let [complaints, words] = ["", ""];
  child.stderr.on("data", (text: Buffer) => (complaints += text.toString()));
  child.stdout.on("data", (text: Buffer) => (words += text.toString()));
  const [code, signal] = (await once(child, "close")) as [number | null, string | null];
  return { code, signal, complaints, words };
}
