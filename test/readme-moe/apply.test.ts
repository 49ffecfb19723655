// The commands `pack` and `apply`, as a user calls them.

import { existsSync } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { writeCut, writeDense } from "../support/cut-model.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { modelHashes } from "../support/model-hashes.ts";
import { outcomeOf, startCommand, type Outcome } from "../support/node-process.ts";
import { runCli } from "../support/run-cli.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
const at = (name: string): string => join(folder, name);

/** Kills the program that it is loaded into. */
const KILL_AT_WRITE = new URL("../support/programs/kill-at-write.mjs", import.meta.url).href;

beforeAll(async () => {
  await writeDense(at("dense"));
  await writeDense(at("half"), { type: "F16" });
  await writeDense(at("stranger"), { seed: 2 });
  await writeCut(at("cut"));
  expect((await runCli(["pack", at("cut"), "--base", at("dense"), "--out", at("cut.adapter")])).code).toBe(0);
});

test("a packed model gives the same results after it is applied", async () => {
  const applied = await runCli(["apply", at("cut.adapter"), "--base", at("dense"), "--out", at("applied")]);
  expect(applied).toMatchObject({ code: 0, stderr: "" });
  expect(applied.stdout).toMatch(/^Written to .*applied in \d+\.\d s/);
  const ids = ["--ids", "3,17,9", "--json"];
  const [before, after] = await Promise.all(
    [at("cut"), at("applied")].map((path) => runCli(["inspect", path, ...ids])),
  );
  const [{ logits, route }, other] = [JSON.parse(before!.stdout), JSON.parse(after!.stdout)];
  expect(logits).toHaveLength(96);
  expect({ logits: other.logits, route: other.route }).toEqual({ logits, route });
});

test("pack keeps to the given size, and prints the resulting error", async () => {
  const args = ["pack", at("cut"), "--base", at("dense"), "--out", at("small.adapter")];
  const result = await runCli([...args, "--max-size", "70KB"]);
  expect(result.code).toBe(0);
  expect(result.stdout).toMatch(
    /0\.1 MB, \d+\.\d\d bits.*down: changes differ by \d+\.\d %.*Base: dense, sha256 [0-9a-f]{64}/s,
  );
  expect((await stat(at("small.adapter"))).size).toBeLessThanOrEqual(70_000);
  const json = JSON.parse((await runCli([...args, "--max-size", "70KB", "--json"])).stdout);
  expect(json).toMatchObject({ out: at("small.adapter"), base: { name: "dense" } });
  expect(json.relative_errors.down).toBeGreaterThan(0);
  expect((await runCli(args)).stdout).toMatch(/small\.adapter {2}0\.1 MB, nothing is lost\n/);
});

test("a base model in another precision gives a warning", async () => {
  const result = await runCli(["apply", at("cut.adapter"), "--base", at("half"), "--out", at("from-half"), "--json"]);
  expect(result.code).toBe(0);
  expect(result.stderr).toMatch(/^warning: .*half is not dense \(sha256 .*readme-moe eval/);
  expect(JSON.parse(result.stdout)).toMatchObject({ match: "near", out: at("from-half") });
});

test.each<[string, readonly string[], number, RegExp]>([
  [
    "another base",
    ["apply", at("cut.adapter"), "--base", at("stranger")],
    1,
    /stranger: is another model.*ERR_MODEL_UNSUPPORTED/,
  ],
  [
    "a file that is none",
    ["apply", join(at("dense"), "model.safetensors"), "--base", at("dense")],
    1,
    /is not a delta file/,
  ],
  ["a missing file", ["apply", at("nothing.adapter"), "--base", at("dense")], 1, /nothing\.adapter: no such file/],
  ["no base", ["apply", at("cut.adapter")], 2, /--base/],
  ["no base to pack against", ["pack", at("cut")], 2, /--base/],
  ["too small a size", ["pack", at("cut"), "--base", at("dense"), "--max-size", "1KB"], 2, /at least about \d+/],
  ["a size that is none", ["pack", at("cut"), "--base", at("dense"), "--max-size", "small"], 2, /--max-size/],
  ["a dense model to pack", ["pack", at("dense"), "--base", at("dense")], 1, /is not a Read-ME model folder/],
])("%s is refused", async (_, args, code, message) => {
  const result = await runCli([...args, "--out", at("refused")]);
  expect(result.stderr).toMatch(message);
  expect(result.code).toBe(code);
  expect(existsSync(at("refused"))).toBe(false);
});

test("both commands refuse a call without --out", async () => {
  for (const args of [
    ["apply", at("cut.adapter")],
    ["pack", at("cut")],
  ]) {
    const result = await runCli([...args, "--base", at("dense")]);
    expect(result).toMatchObject({ code: 2, stdout: "" });
    expect(result.stderr).toMatch(/--out/);
  }
});

test(
  "killed at any moment, apply leaves no folder or a whole one, and can be run again",
  {
    timeout: 300_000,
  },
  async () => {
    const expected = await modelHashes(at("cut"));
    const expectWhole = async (out: string): Promise<void> => {
      const hashes = await modelHashes(out);
      for (const [name, hash] of Object.entries(hashes)) if (name !== "config.json") expect(hash).toBe(expected[name]);
      expect(Object.keys(hashes)).toEqual(Object.keys(expected));
    };
    const args = ["apply", at("cut.adapter"), "--base", at("dense"), "--out"];
    /** Runs the command up to one of its writes in the folder of `out`; to the end for 0. */
    const runUpTo = async (step: number): Promise<Outcome & { readonly out: string }> => {
      const parent = await temporaryFolder();
      const out = join(parent, "killed");
      const env = { NODE_OPTIONS: `--import=${KILL_AT_WRITE}`, KILL_FOLDER: parent, KILL_AT: String(step) };
      return { ...(await outcomeOf(startCommand([...args, out], { env }))), out };
    };
    const whole = await runUpTo(0);
    expect(whole).toMatchObject({ code: 0, signal: null });
    await expectWhole(whole.out);
    const numSteps = Number(/^steps: (\d+)$/m.exec(whole.stderr)?.[1]);
    expect(numSteps).toBeGreaterThan(10);
    // The first, the last two, and some between.
    const numBetween = RUNS_LONG_TESTS ? 5 : 3;
    const between = Array.from(
      { length: numBetween },
      (_, i) => 2 + Math.floor((i * (numSteps - 4)) / (numBetween - 1)),
    );
    let numWithRest = 0;
    for (const step of new Set([1, ...between, numSteps - 1, numSteps])) {
      const { signal, out } = await runUpTo(step);
      expect(signal, `step ${step} of ${numSteps}`).toBe("SIGKILL");
      const names = await readdir(dirname(out));
      if (names.some((name) => name.startsWith("."))) numWithRest++;
      if (names.includes("killed")) await expectWhole(out);
      else expect((await runCli([...args, out])).code).toBe(0);
      await expectWhole(out);
    }
    // The command was killed while it wrote, not before.
    expect(numWithRest).toBeGreaterThanOrEqual(numBetween);
  },
);
