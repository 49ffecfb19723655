// `readme-moe plan` as a user calls it.

import { join } from "node:path";
import { DEFAULT_COST_MODEL, fcfs } from "@readme-moe/core";
import { generateMixtureTrace, generateTrace, simulate, simulateMixture } from "@readme-moe/refactor/simulation";
import { describe, expect, test } from "vitest";
import { expectedCost } from "../../packages/readme-moe/src/plan/expected-cost.ts";
import { mixtureFolder } from "../support/mixture-folder.ts";
import { runCli, type Outcome } from "../support/run-cli.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyReadMe } from "../support/tiny-read-me.ts";

const POCKET = join(import.meta.dirname, "..", "..", "models", "pocket");
const SPEED = ["--read-mb-per-s", "500"];

interface PlanJson {
  readonly fits: boolean;
  readonly least_memory_bytes: number;
  readonly least_expert_cache_bytes: number | null;
  readonly token_cycle_bytes: number | null;
  readonly kv_cache_bytes: number;
  readonly recommended: object | null;
  readonly placements: readonly {
    readonly model: string;
    readonly precision: string;
    readonly expert_cache_bytes: number | null;
    readonly fits: boolean;
    readonly total_bytes: number;
    readonly weights: Readonly<Record<string, number>>;
    readonly hit_ratio: number | null;
    readonly bytes_read_per_token: number;
    readonly ms_per_token: number;
  }[];
}

async function tinyModel(): Promise<string> {
  const path = join(await temporaryFolder(), "model");
  await writeTinyReadMe(path);
  return path;
}

function plan(...args: readonly string[]): Promise<Outcome> {
  return runCli(["plan", ...args, ...SPEED]);
}

const jsonOf = ({ stdout }: Outcome): PlanJson => JSON.parse(stdout) as PlanJson;

test("shows what fits of a dense model in each precision", async () => {
  const { code, stdout, stderr } = await plan(POCKET, "--memory", "120MB");
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const lines = stdout.trimEnd().split("\n");
  expect(lines[0]).toMatch(/: 1 sequence of 1024 tokens in 120 MB$/);
  const rows = lines.slice(2, 5).map((line) => line.trim().split(/\s{2,}/));
  expect(rows.map(([model, precision]) => `${model} ${precision}`)).toEqual(["dense int8", "dense int4", "dense fp32"]);
  expect(rows.map((row) => row[6])).toEqual(["yes", "yes", "no"]);
  expect(stdout).toContain("recommended: this model in int8\n");
  expect(stdout).toMatch(/^flags of serve: --precision int8 --max-num-seqs 1 --context 1024 --kv-cache \d+$/m);
});

test("counts all experts of a mixture, and the time of those that a token uses", async () => {
  const files = { hasTokenizer: true };
  const times: number[] = [];
  for (const expertsPerToken of [1, 5]) {
    const path = await mixtureFolder({ vocabSize: 4096, expertSize: 600, expertsPerToken }, files);
    const outcome = await plan(path, "--memory", "130MB", "--context", "64", "--json");
    expect(outcome).toMatchObject({ code: 0, stderr: "" });
    const { placements } = jsonOf(outcome);
    expect(placements.map(({ model, precision }) => `${model} ${precision}`)).toEqual([
      "mixture int8",
      "mixture int4",
      "mixture fp32",
      "mixture int8",
    ]);
    expect(placements[0]?.weights["experts"]).toBeGreaterThan(3 * 5 * 3 * 32 * 600);
    times.push(placements[0]?.ms_per_token ?? 0);
  }
  expect(times[1]).toBeGreaterThan(1.2 * (times[0] ?? Infinity));
});

test("plans a mixture whose experts are read as they are needed", async () => {
  const path = await mixtureFolder({ vocabSize: 4096, expertSize: 600, expertsPerToken: 2 }, { hasTokenizer: true });
  const all = jsonOf(await plan(path, "--memory", "130MB", "--context", "64", "--json"));
  const [whole, , , streamed] = all.placements;
  const most = whole?.weights["experts"] ?? 0;
  // Gate, up and down of 32 x 600 weights in int8, with scales and padding to whole panels.
  const unitBytes = (all.least_expert_cache_bytes ?? 0) / 2;
  expect(unitBytes).toBeGreaterThan(3 * 32 * 600);
  expect(unitBytes).toBeLessThan(1.6 * 3 * 32 * 600);
  expect(streamed).toMatchObject({ expert_cache_bytes: most, fits: true });
  expect(streamed?.hit_ratio).toBeGreaterThan(0.8);
  const short = Math.ceil(((streamed?.total_bytes ?? 0) - most + 3 * unitBytes) / 1e3);
  const { stdout, code } = await plan(path, "--memory", `${short}KB`, "--context", "64");
  expect(code).toBe(0);
  expect(stdout).toContain("(2 experts of one layer, for one token)");
  expect(stdout).toMatch(/recommended: this model in int8 with \d+\.\d MB for experts/);
});

test("lists streamed experts and the dense model, with sums that agree", async () => {
  const outcome = await plan(await tinyModel(), "--memory", "130MB", "--context", "64", "--json");
  expect(outcome).toMatchObject({ code: 0, stderr: "" });
  const result = jsonOf(outcome);
  const names = result.placements.map(({ model, precision, expert_cache_bytes: cache }) =>
    [model, precision, ...(cache === null ? [] : ["streamed"])].join(" "),
  );
  expect(names).toEqual([
    "read-me int8",
    "read-me int4",
    "read-me fp32",
    "read-me int8 streamed",
    "dense int8",
    "dense int4",
    "dense fp32",
  ]);
  // Gate, up and down in whole panels of 64 outputs and groups of 32 inputs, each with 64 scales.
  expect(result.least_expert_cache_bytes).toBe(3 * 8960);
  expect(result.token_cycle_bytes).toBe(6912 + 8960);
  // 64 tokens of 2 layers, keys and values of 2 heads of 8, in halves: the dense model in int8 is recommended.
  expect(result.kv_cache_bytes).toBe(64 * 2 * 2 * 2 * 8 * 2);
  const streamed = result.placements[3];
  expect(streamed?.expert_cache_bytes).toBe(3 * (6912 + 8960));
  expect(streamed?.hit_ratio).toBe(1);
  expect(streamed?.bytes_read_per_token).toBe(0);
  const dense = result.placements[6];
  const [hidden, width] = [32, 64];
  // Outputs come in panels of 64 in the kernel: those of the last product are padded to it.
  expect(dense?.weights["shared"]).toBe(2 * (2 * width * hidden + 64 * width) * 4);
  expect(dense?.weights["experts"]).toBe(0);
  expect(result.placements[2]?.weights["experts"]).toBe(3 * (2 * 2 * 64 * hidden + 64 * (24 + 40)) * 4);
});

test("gives experts the remaining memory, refuses less than the minimum, and accepts the minimum that it names", async () => {
  const path = await tinyModel();
  const run = (memory: string): Promise<Outcome> => plan(path, "--memory", memory, "--context", "64", "--json");
  const { least_memory_bytes: least } = jsonOf(await run("1GB"));
  const [enough, short] = await Promise.all([run(`${Math.ceil(least)}`), run(`${Math.ceil(least) - 1}`)]);
  expect(enough.code).toBe(0);
  expect(short.code).toBe(1);
  expect(short.stderr).toMatch(/are not enough; the least that works is --memory \d+MB, with .* \(ERR_MEMORY\)\n$/);
  expect(jsonOf(short)).toMatchObject({ fits: false, recommended: null });
});

// What the long run of a simulated server comes to, whose sequences all wait from the beginning.
const LOADS = [0.6, 0.9].flatMap((locality) => [1, 4, 16].map((sequences) => ({ locality, sequences })));

test.each(LOADS)("expects about what the lab simulates: %o", ({ locality, sequences }) => {
  const layout = { numExperts: 7, layerBytes: Array.from({ length: 6 }, () => 1_000_000) };
  const trace = generateTrace({ ...layout, numSequences: 40, arrivalsPerStep: 1e6, locality, seed: 1 });
  const limits = { maxNumBatchedTokens: 512, chunkTokens: 128, maxNumBatchedSeqs: sequences };
  const tokens = trace.sequences.reduce((sum, one) => sum + one.experts.length - one.promptTokens + 1, 0);
  for (const expertCacheBytes of [21_000_000, 32_000_000, 42_000_000]) {
    const cache = { budgetBytes: expertCacheBytes };
    const scheduler = fcfs();
    const simulated = simulate(trace, { scheduler, limits, maxNumSeqs: sequences, cache });
    const expected = expectedCost(rowOf({ streamed: layout, expertCacheBytes }), {
      numExperts: 7,
      locality,
      sequences,
      readMbPerS: 1000,
    });
    expect(Math.abs((expected.hitRatio ?? 0) - simulated.hitRatio), `${expertCacheBytes}`).toBeLessThan(0.13);
    const ratio = expected.msPerToken / (simulated.durationMs / tokens);
    expect(ratio, `${expertCacheBytes}`).toBeGreaterThan(0.75);
    expect(ratio, `${expertCacheBytes}`).toBeLessThan(1.3);
  }
});

test.each([
  [8, 2, 1],
  [8, 2, 4],
  [32, 4, 1],
  [32, 4, 4],
])("expects about what the lab simulates: %i experts, %i a token, %i sequences", (numExperts, perToken, sequences) => {
  const layout = { numExperts, layerBytes: Array.from({ length: 8 }, () => 1_000_000) };
  const trace = generateMixtureTrace({
    ...layout,
    expertsPerToken: perToken,
    numSequences: 8,
    arrivalsPerStep: 1e6,
    seed: 1,
  });
  const routeSize = layout.layerBytes.length * perToken;
  const tokens = trace.sequences.reduce((sum, one) => sum + one.routes.length / routeSize - one.promptTokens + 1, 0);
  for (const experts of [0.35 * numExperts, 0.6 * numExperts].map(Math.round)) {
    const expertCacheBytes = experts * 8_000_000;
    const numRows = Math.floor((experts * 8) / perToken);
    const { msPerExpert } = DEFAULT_COST_MODEL;
    const simulated = simulateMixture(trace, {
      knowledge: "forecast",
      scheduler: fcfs(),
      limits: {
        maxNumBatchedTokens: numRows,
        chunkTokens: Math.min(numRows, 128),
        maxNumBatchedSeqs: Math.min(sequences, numRows),
      },
      maxNumSeqs: sequences,
      cache: { budgetBytes: expertCacheBytes },
      cost: { ...DEFAULT_COST_MODEL, msPerExpert: msPerExpert / perToken },
    });
    const row = rowOf({ streamed: layout, expertCacheBytes, expertsPerToken: perToken });
    const expected = expectedCost(row, { numExperts, locality: 0.9, sequences, readMbPerS: 1000 });
    expect(Math.abs((expected.hitRatio ?? 0) - simulated.hitRatio), `${experts}`).toBeLessThan(0.13);
    const ratio = expected.msPerToken / (simulated.durationMs / tokens);
    expect(ratio, `${experts}`).toBeGreaterThan(0.75);
    expect(ratio, `${experts}`).toBeLessThan(1.3);
  }
});

test("expects no reads and all hits where all experts fit", () => {
  const streamed = { numExperts: 7, layerBytes: [1000, 1000] };
  const load = { numExperts: 7, locality: 0.5, sequences: 4, readMbPerS: 1 };
  const { msPerToken, ...rest } = expectedCost(rowOf({ streamed, expertCacheBytes: 14_000 }), load);
  expect(rest).toStrictEqual({ hitRatio: 1, bytesReadPerToken: 0 });
  // A twentieth more than the same model without streaming.
  const resident = expectedCost(rowOf({}), load);
  expect(resident).toStrictEqual({ msPerToken: expect.any(Number), hitRatio: undefined, bytesReadPerToken: 0 });
  expect(msPerToken / resident.msPerToken).toBeCloseTo(1.05, 2);
});

/** A placement of a model that the cost model's coefficients are exact for. */
function rowOf(more: object): Parameters<typeof expectedCost>[0] {
  const weights = { attention: 97e6, embeddings: 0, head: 0, shared: 0, experts: 0 };
  return { precision: "int8", weights, usedShare: 1, ...more } as never;
}

describe("a wrong call", () => {
  test.each([
    [[], "required option '--memory' not specified"],
    [["--memory", "much"], "Expected a size, such as 150MB"],
    [["--memory", "1GB", "--context", "99999"], "Expected `--context` to be at most 1024, the model's"],
    [["--memory", "1GB", "--sequences", "0"], "Expected an integer from 1 up."],
  ])("%j ends with exit code 2", async (args, message) => {
    const { code, stdout, stderr } = await plan(POCKET, ...args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain(message);
  });
});
