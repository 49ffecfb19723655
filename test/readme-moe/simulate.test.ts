// `readme-moe simulate` as a user calls it.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { runCli, type Outcome } from "../support/run-cli.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const SMALL = ["--sequences", "20", "--output-tokens", "8"];

function simulate(...args: readonly string[]): Promise<Outcome> {
  return runCli(["simulate", ...args]);
}

interface Run {
  readonly capacity: number | null;
  readonly budget_bytes: number;
  readonly policy: string;
  readonly hit_ratio: number;
  readonly belady_hit_ratio: number;
  readonly layer_hit_ratio: number | null;
  readonly loads: number;
  readonly bytes_read: number;
}

function runsOf({ stdout }: Outcome): readonly Run[] {
  return (JSON.parse(stdout) as { runs: Run[] }).runs;
}

test("prints a row for each size and policy, with columns that are aligned", async () => {
  const { code, stdout, stderr } = await simulate(...SMALL);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const [first, head, ...rows] = stdout.trimEnd().split("\n");
  expect(first).toBe("20 sequences, 7 experts in 6 layers, 42.0 MB; cost-aware");
  expect(head?.trim().split(/\s{2,}/)).toEqual(
    [
      "cache",
      "policy",
      "hits %",
      "horizon %",
      "Belady %",
      "layer %",
      "loads",
      "wasted",
      "MB read",
      "steps",
      "experts",
    ].concat(["ms", "p95", "ms/token", "p95"]),
  );
  const cells = rows.map((row) => row.trim().split(/\s{2,}/));
  expect(cells.map(([capacity, policy]) => `${capacity} ${policy}`)).toEqual(
    ["2", "3", "4", "5"].flatMap((capacity) => ["belady", "lru", "random"].map((policy) => `${capacity} ${policy}`)),
  );
  expect(new Set([head, ...rows].map((row) => row?.length)).size).toBe(1);
});

test("gives JSON, the same for the same seed, and less hits with less memory", async () => {
  const args = [...SMALL, "--policy", "belady", "--capacity", "3,5", "--json", "--seed"];
  const [a, b, other] = await Promise.all([simulate(...args, "4"), simulate(...args, "4"), simulate(...args, "5")]);
  expect(b.stdout).toBe(a.stdout);
  expect(other.stdout).not.toBe(a.stdout);
  const [small, large] = runsOf(a);
  expect(small).toMatchObject({ capacity: 3, budget_bytes: 18_000_000, policy: "belady" });
  expect(small?.bytes_read).toBe((small?.loads ?? 0) * 1_000_000);
  expect(small?.hit_ratio).toBeLessThan(large?.hit_ratio ?? 0);
  expect(large?.hit_ratio).toBeLessThanOrEqual(large?.belady_hit_ratio ?? 0);
});

test("takes sizes in bytes", async () => {
  const outcome = await simulate(...SMALL, "--policy", "lru", "--memory", "18MB, 20MiB", "--json");
  expect(runsOf(outcome)).toMatchObject([
    { capacity: null, budget_bytes: 18_000_000, layer_hit_ratio: null },
    { capacity: null, budget_bytes: 20 * 2 ** 20 },
  ]);
});

test("writes a trace with its steps, and reads it again with the same result", async () => {
  const file = join(await temporaryFolder(), "trace.jsonl");
  const args = ["--policy", "belady", "--capacity", "4", "--json"];
  const drawn = await simulate(...SMALL, ...args, "--write-trace", file);
  const lines = (await readFile(file, "utf8")).trimEnd().split("\n");
  const types = lines.map((line) => (JSON.parse(line) as { type: string }).type);
  expect(types.filter((type) => type === "sequence").length).toBe(20);
  expect(types.filter((type) => type === "step").length).toBeGreaterThan(20);
  expect((await simulate("--trace", file, ...args)).stdout).toBe(drawn.stdout);
});

test.each(["cost-aware", "read-me", "fcfs", "decode-first", "prefill-first"])(
  "runs %s to the end",
  async (scheduler) => {
    const args = ["--scheduler", scheduler, "--policy", "lfu", "--capacity", "4", "--max-num-batched-seqs", "3"];
    const { code, stdout } = await simulate(...SMALL, ...args);
    expect(code).toBe(0);
    expect(stdout).toContain(`MB; ${scheduler}\n`);
  },
);

describe("a wrong call", () => {
  test.each([
    [["--policy", "beladi"], "Did you mean belady?"],
    [["--capacity", "2,x"], "Expected numbers of experts"],
    [["--capacity", "8"], "Expected `--capacity` to be from 1 to 7 experts, got `8`"],
    [["--memory", "3 parsecs"], "Expected sizes in memory"],
    [["--memory", "3MB", "--capacity", "2"], "cannot be used with option"],
    [["--memory", "3MB"], "Expected `budgetBytes` to be at least"],
    [["--scheduler", "fifo"], "Allowed choices are cost-aware"],
    [["--locality", "1.5"], "Expected a number from 0 to 1."],
    [["--chunk-tokens", "600"], "must not exceed"],
    [["--trace", "a.jsonl", "--experts", "3"], "option '--experts' is of a drawn trace"],
    [["--polcy", "lru"], "Did you mean --policy?"],
  ])("%j ends with exit code 2", async (args, message) => {
    const { code, stdout, stderr } = await simulate(...args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain(message);
  });

  test("names file and line of a trace that is wrong, with exit code 1", async () => {
    const file = join(await temporaryFolder(), "trace.jsonl");
    await writeFile(file, '{"type":"model","num_experts":2,"layer_bytes":[5]}\n{"type":"steps"}\n');
    const { code, stderr } = await simulate("--trace", file);
    expect(code).toBe(1);
    expect(stderr).toContain("trace.jsonl:2: expected `type` to be `sequence` or `step`");
    expect((await simulate("--trace", "nowhere.jsonl")).stderr).toContain("nowhere.jsonl: no such file");
  });
});
