// The handler of web requests and the engine in other runtimes, whose programs are not installed with this repository:
// README_MOE_BUN and README_MOE_DENO name them. They load the built packages.

import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { chunksOf } from "../support/sse.ts";

const ROOT = join(import.meta.dirname, "..", "..");
const PROGRAM = join(ROOT, "test", "support", "programs", "serve-elsewhere.ts");

const RUNTIMES = [
  { name: "Bun", program: process.env["README_MOE_BUN"], flags: [] },
  {
    name: "Deno",
    program: process.env["README_MOE_DENO"],
    flags: ["run", "--allow-all", "--no-lock", "--node-modules-dir=manual"],
  },
];

for (const { name, program, flags } of RUNTIMES) {
  if (program === undefined) console.log(`Not run in ${name}: README_MOE_${name.toUpperCase()} names no program`);
  test.skipIf(program === undefined)(`${name} serves a model`, async () => {
    const { stdout } = await promisify(execFile)(program ?? "", [...flags, PROGRAM], { cwd: ROOT });
    const told = JSON.parse(stdout.trim().split("\n").at(-1) ?? "") as { text: string; stream: string; bound: string };
    expect(told).toMatchObject({ left: "abort", clients: ["address:127.0.0.1"], numEnded: 0 });
    expect(["yes", "no"]).toContain(told.bound);
    const texts = chunksOf(told.stream).flatMap(({ choices }) => choices.map(({ text }) => text));
    expect(texts.join("")).toBe(told.text);
  });
}
