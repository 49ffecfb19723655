// `readme-moe bench` as a user calls it. What it makes of measurements is tested in `test/bench`.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { runCli } from "../support/run-cli.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const POCKET = join(import.meta.dirname, "..", "..", "models", "pocket");

describe("bench", () => {
  test("measures our engine without any peer, and goes on in its folder", async () => {
    const out = join(await temporaryFolder(), "results");
    const sizes = ["--set", "precisions=int8", "concurrency=1,2", "contexts=64"];
    const args = ["bench", "engine", POCKET, "--quick", "--threads", "1", "--out", out, ...sizes];
    const first = await runCli(args);
    expect(first).toMatchObject({ code: 0 });
    expect(first.stdout).toMatch(/\| readme-moe int8 +\|.*\d/);
    expect(first.stdout).not.toMatch(/not measured|best peer|transformers/);
    expect(await readFile(join(out, "summary.md"), "utf8")).toBe(first.stdout);
    const samples = await readFile(join(out, "engine", "samples.csv"), "utf8");
    for (const metric of ["load, ms", "new tokens, tok/s", "first token, ms", "prefill, tok/s", "peak memory, MB"]) {
      expect(samples).toContain(`"${metric}"`);
    }
    const again = await runCli(args);
    expect(again.code).toBe(0);
    expect(await readFile(join(out, "engine", "samples.csv"), "utf8")).toBe(samples);
  }, 180_000);

  test("says what is wrong with a call", async () => {
    const outcomes = await Promise.all([
      runCli(["bench", "speed", POCKET]),
      runCli(["bench", "engine"]),
      runCli(["bench", "engine", POCKET, "--set", "concurrency"]),
      runCli(["bench", "engine", POCKET, "--set", "engines.concurrency=1"]),
      runCli(["bench", "engine", POCKET, "--rounds", "0"]),
    ]);
    expect(outcomes.map(({ code }) => code)).toEqual([2, 2, 2, 2, 2]);
    const messages = [
      /no suite 'speed'; there are engine/,
      /missing required argument 'model'/,
      /Expected `--set`/,
      /no suite 'engines'; there are engine/,
      /from 1 up/,
    ];
    for (const [index, message] of messages.entries()) expect(outcomes[index]?.stderr).toMatch(message);
  });

  test("fails when a suite does, and says why", async () => {
    const out = join(await temporaryFolder(), "results");
    const { code, stdout, stderr } = await runCli(["bench", "engine", "no-such-model", "--quick", "--out", out]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/error: suites that failed: engine/);
    expect(stdout).toMatch(/Failed: .*no-such-model: no such file/);
  });
});
