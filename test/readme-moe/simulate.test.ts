// `readme-moe simulate` as a user calls it.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { runCli, type Outcome } from "../support/run-cli.ts";
import { marksOf, parseSvg } from "../support/svg.ts";
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

test("prints a row for each size and policy, with aligned columns", async () => {
  const { code, stdout, stderr } = await simulate(...SMALL);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const [first, head, ...rows] = stdout.trimEnd().split("\n");
  expect(first).toBe("20 sequences, 7 experts in 6 layers, 42.0 MB; cost-aware");
  expect(head?.trim().split(/\s{2,}/)).toEqual(
    [
      "cache",
      "policy",
      "ahead",
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
  expect(new Set(cells.map(([, policy, ahead]) => `${policy} ${ahead}`))).toEqual(
    new Set(["belady 1", "lru 0", "random 0"]),
  );
  expect(new Set([head, ...rows].map((row) => row?.length)).size).toBe(1);
});

test("prints the same JSON with the same seed, and has fewer hits with less memory", async () => {
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

test("accepts sizes in bytes", async () => {
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

test("compares schedulers in one table, with the same rows as alone", async () => {
  const args = [...SMALL, "--policy", "lru", "--capacity", "3", "--max-num-batched-seqs", "2"];
  const [both, alone] = await Promise.all([
    simulate(...args, "--scheduler", "fcfs, read-me"),
    simulate(...args, "--scheduler", "read-me"),
  ]);
  const lines = both.stdout.trimEnd().split("\n");
  expect(lines[0]).toMatch(/; fcfs, read-me$/);
  const rows = lines.slice(1).map((line) => line.trim().split(/\s{2,}/));
  expect(rows.map(([scheduler]) => scheduler)).toEqual(["scheduler", "fcfs", "read-me"]);
  expect(rows[2]?.slice(1)).toEqual(
    alone.stdout
      .trimEnd()
      .split("\n")[2]
      ?.trim()
      .split(/\s{2,}/),
  );
});

describe("--svg", () => {
  test("draws a panel of hits and one of latency for each scheduler", async () => {
    const file = join(await temporaryFolder(), "curves.svg");
    const args = ["--policy", "belady,lru", "--capacity", "2,4", "--scheduler", "fcfs,read-me", "--svg", file];
    const { code, stdout } = await simulate(...SMALL, ...args);
    expect(code).toBe(0);
    expect(stdout).toContain("policy");
    const svg = await readFile(file, "utf8");
    const times = (text: string): number => svg.split(text).length - 1;
    expect(times(">hits, % of uses<")).toBe(2);
    expect(times(">mean latency, ms per output token<")).toBe(2);
    // In the legend once.
    for (const name of ["belady", "lru", "horizon (bound)", "Belady knowing all (bound)"])
      expect(times(`>${name}<`)).toBe(1);
    // Two policies and two bounds in one panel, two policies in the other.
    const document = parseSvg(svg);
    expect(marksOf(document, "line")).toHaveLength(2 * (4 + 2));
    // Bounds have no points.
    expect(marksOf(document, "symbol")).toHaveLength(2 * (2 + 2) * 2);
  });

  test("draws a replay", async () => {
    const folder = await temporaryFolder();
    const [trace, file] = [join(folder, "trace.jsonl"), join(folder, "curves.svg")];
    await simulate(...SMALL, "--capacity", "3", "--policy", "lru", "--write-trace", trace);
    const { code } = await simulate("--trace", trace, "--replay", "--memory", "12MB,24MB", "--svg", file);
    expect(code).toBe(0);
    expect(await readFile(file, "utf8")).toContain(">memory for experts, MB<");
  });
});

describe("--replay", () => {
  test("replays the recorded steps: LRU on demand has the hits of the simulation", async () => {
    const file = join(await temporaryFolder(), "trace.jsonl");
    const args = ["--policy", "lru", "--capacity", "4", "--lookahead-layers", "0", "--json"];
    const [run] = runsOf(await simulate(...SMALL, ...args, "--write-trace", file));
    const { code, stdout } = await simulate("--trace", file, "--replay", ...args);
    expect(code).toBe(0);
    const { replays, steps } = JSON.parse(stdout) as { steps: number; replays: readonly (Run & { runs: number })[] };
    expect(replays[0]).toMatchObject({ capacity: 4, policy: "lru", hit_ratio: run?.hit_ratio, loads: run?.loads });
    expect(replays[0]?.belady_hit_ratio).toBe(run?.belady_hit_ratio);
    expect(replays[0]?.runs).toBe(steps);
  });

  test("replays the plans that the cache was given, run by run", async () => {
    const file = join(await temporaryFolder(), "trace.jsonl");
    const lines = [
      { type: "model", num_experts: 3, layer_bytes: [10] },
      stepLine(
        0,
        [0, 1],
        [
          { experts: [0], planned: [1] },
          { experts: [1], planned: [0] },
        ],
      ),
      stepLine(1, [0], [{ experts: [0], planned: [] }]),
    ];
    await writeFile(file, lines.map((line) => JSON.stringify(line)).join("\n"));
    const args = ["--policy", "belady", "--memory", "20,10", "--json"];
    const { stdout } = await simulate("--trace", file, "--replay", ...args);
    const { replays } = JSON.parse(stdout) as { replays: readonly object[] };
    expect(replays).toMatchObject([
      { uses: 3, hits: 1, loads: 2, bytes_read: 20, runs: 3, mean_distinct_experts: 1 },
      { uses: 3, hits: 0, loads: 3, bytes_read: 30 },
    ]);
  });

  test("refuses a trace without steps", async () => {
    const file = join(await temporaryFolder(), "trace.jsonl");
    await writeFile(file, '{"type":"model","num_experts":2,"layer_bytes":[5]}\n');
    const { code, stderr } = await simulate("--trace", file, "--replay");
    expect(code).toBe(1);
    expect(stderr).toContain("trace.jsonl: has no steps to replay");
  });
});

describe("a wrong call", () => {
  test.each([
    [["--policy", "beladi"], "Did you mean belady?"],
    [["--capacity", "2,x"], "Expected numbers of experts"],
    [["--capacity", "8"], "Expected `--capacity` to be from 1 to 7 experts, got `8`"],
    [["--memory", "3 parsecs"], "Expected sizes in memory"],
    [["--memory", "3MB", "--capacity", "2"], "cannot be used with option"],
    [["--memory", "3MB"], "Expected `budgetBytes` to be at least"],
    [["--scheduler", "fifo"], "Expected names of cost-aware, read-me"],
    [["--scheduler", "fcfs,read-mee"], "Did you mean read-me?"],
    [["--replay"], "option '--replay' needs '--trace <file>'"],
    [["--replay", "--trace", "a", "--scheduler", "fcfs"], "option '--scheduler' cannot be used with '--replay'"],
    [["--locality", "1.5"], "Expected a number from 0 to 1."],
    [["--chunk-tokens", "600"], "must not exceed"],
    [["--trace", "a.jsonl", "--experts", "3"], "option '--experts' is for a drawn trace"],
    [["--polcy", "lru"], "Did you mean --policy?"],
  ])("%j ends with exit code 2", async (args, message) => {
    const { code, stdout, stderr } = await simulate(...args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain(message);
  });

  test("names file and line of a wrong trace, with exit code 1", async () => {
    const file = join(await temporaryFolder(), "trace.jsonl");
    await writeFile(file, '{"type":"model","num_experts":2,"layer_bytes":[5]}\n{"type":"steps"}\n');
    const { code, stderr } = await simulate("--trace", file);
    expect(code).toBe(1);
    expect(stderr).toContain("trace.jsonl:2: expected `type` to be `sequence` or `step`");
    expect((await simulate("--trace", "nowhere.jsonl")).stderr).toContain("nowhere.jsonl: no such file");
  });
});

/** A trace of three experts. */
function stepLine(step: number, experts: readonly number[], runs: readonly object[]): object {
  const tokens = [0, 1, 2].map((expert) => (experts.includes(expert) ? 1 : 0));
  return { type: "step", step, tokens_per_expert: tokens, runs, later_steps: [1, null, null] };
}
