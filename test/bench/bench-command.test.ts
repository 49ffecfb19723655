// `npm run bench` as a developer calls it. The other files of this folder test its parts.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { outcomeOf, startNode } from "../support/node-process.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const ROOT = join(import.meta.dirname, "..", "..");
const POCKET = join(ROOT, "models", "pocket");

const runBench = (args: readonly string[]): ReturnType<typeof outcomeOf> =>
  outcomeOf(startNode([join(ROOT, "bench", "main.ts"), ...args]));

describe("npm run bench", () => {
  test("measures our engine without peers, and continues in its folder", async () => {
    const out = join(await temporaryFolder(), "results");
    const sizes = ["--set", "peers=", "precisions=int8", "concurrency=1,2", "contexts=64"];
    const args = ["engine", POCKET, "--quick", "--threads", "1", "--out", out, ...sizes];
    const first = await runBench(args);
    expect(first).toMatchObject({ code: 0 });
    expect(first.stdout).toMatch(/\| readme-moe int8 +\|.*\d/);
    expect(first.stdout).not.toMatch(/not measured|best peer|transformers.js/);
    expect(await readFile(join(out, "summary.md"), "utf8")).toBe(first.stdout);
    const samples = await readFile(join(out, "engine", "samples.csv"), "utf8");
    for (const metric of ["load, ms", "new tokens, tok/s", "first token, ms", "prefill, tok/s", "peak memory, MB"]) {
      expect(samples).toContain(`"${metric}"`);
    }
    const again = await runBench(args);
    expect(again.code).toBe(0);
    expect(await readFile(join(out, "engine", "samples.csv"), "utf8")).toBe(samples);
  });

  test("refuses a wrong call with a message", async () => {
    const outcomes = await Promise.all([
      runBench(["speed", POCKET]),
      runBench(["engine", POCKET, "--set", "concurrency"]),
      runBench(["engine", POCKET, "--set", "engines.concurrency=1"]),
      runBench(["engine", POCKET, "--rounds", "0"]),
    ]);
    expect(outcomes.map(({ code }) => code)).toEqual([1, 1, 1, 1]);
    const messages = [
      /no suite 'speed'; there are engine/,
      /Expected `--set`/,
      /no suite 'engines'; there are engine/,
      /from 1 up/,
    ];
    for (const [index, message] of messages.entries()) expect(outcomes[index]?.stderr).toMatch(message);
  });

  test("fails when a suite fails, and prints the reason", async () => {
    const out = join(await temporaryFolder(), "results");
    const { code, stdout, stderr } = await runBench(["engine", "./no-such-model", "--quick", "--out", out]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/error: suites that failed: engine/);
    expect(stdout).toMatch(/Failed: .*no-such-model: no such file/);
  });
});
