// A plan as text for a reader, and as JSON.

import type { ReportFigures } from "./report-figures.ts";
import type { ExpectedCost } from "./expected-cost.ts";
import { leastExpertBytes, leastMemoryBytes, tokenCycleBytes, type PlannedPlacement } from "./plan-memory.ts";
import type { DescribedPlacement } from "./placements.ts";
import type { Recommendation } from "./recommend.ts";

type PlanRow = DescribedPlacement & PlannedPlacement & ExpectedCost;

export interface Plan {
  readonly path: string;
  /** What `path` is; the rows of the other kind are of the dense model that it was made from. */
  readonly own: PlanRow["model"];
  readonly memoryBytes: number;
  readonly sequences: number;
  readonly contextTokens: number;
  readonly kvCacheBytes: number;
  readonly readMbPerS: number;
  readonly locality: number;
  readonly report: ReportFigures;
  readonly rows: readonly PlanRow[];
  readonly recommendation: Recommendation | undefined;
}

type Column = readonly [name: string, of: (row: PlanRow) => string];

const COLUMNS: readonly Column[] = [
  ["model", ({ model }) => model],
  ["precision", ({ precision }) => precision],
  ["experts in memory", expertsInMemory],
  ["weights", ({ weightBytes }) => megabytes(weightBytes)],
  ["KV", ({ other }) => megabytes(other.keysAndValues + other.prefixCache)],
  ["rest", ({ other }) => megabytes(other.process + other.tokenizer + other.step + other.slack)],
  ["total MB", ({ totalBytes }) => megabytes(totalBytes)],
  ["fits", ({ fits }) => (fits ? "yes" : "no")],
  ["hits %", ({ hitRatio }) => (hitRatio === undefined ? "" : (100 * hitRatio).toFixed(1))],
  ["MB read/token", ({ streamed, bytesReadPerToken: bytes }) => (streamed ? (bytes / 1e6).toFixed(1) : "")],
  ["ms/token", ({ msPerToken }) => msPerToken.toFixed(1)],
];

export function planLines(plan: Plan): readonly string[] {
  const { sequences, contextTokens, memoryBytes, path, rows } = plan;
  const many = sequences === 1 ? "1 sequence" : `${sequences} sequences`;
  const cells = [COLUMNS.map(([name]) => name), ...rows.map((row) => COLUMNS.map(([, of]) => of(row)))];
  const widths = COLUMNS.map((_, column) => Math.max(...cells.map((line) => (line[column] as string).length)));
  return [
    `${path}: ${many} of ${contextTokens} tokens in ${megabytes(memoryBytes)} MB`,
    ...cells.map((line) => line.map((cell, column) => cell.padStart(widths[column] as number)).join("  ")),
    ...expertLines(plan),
    "the process that calls the engine takes its own, 60 MB and up",
    ...adviceLines(plan),
  ];
}

function expertLines({ rows, locality, readMbPerS }: Plan): readonly string[] {
  const layout = rows.find(({ streamed }) => streamed)?.streamed;
  if (!layout) return [];
  const [least, cycle] = [leastExpertBytes(layout), tokenCycleBytes(layout)].map(megabytes);
  return [
    `experts that come and go need ${least} MB (one layer of all), and ${cycle} MB (all layers of one) to be of use to LRU`,
    `times are estimates: locality ${locality.toFixed(2)}, reads at ${readMbPerS.toFixed(0)} MB/s`,
  ];
}

function adviceLines(plan: Plan): readonly string[] {
  const { recommendation, kvCacheBytes } = plan;
  if (!recommendation) return [];
  const { chosen, instead } = recommendation;
  const { expertCacheBytes, precision } = chosen;
  const because = instead ? `, rather than ${nameOf(instead, plan)}: ${reasonOf(recommendation, plan)}` : "";
  const flags = expertCacheBytes === undefined ? `--precision ${precision}` : `--expert-cache ${expertCacheBytes}`;
  const forExperts = expertCacheBytes === undefined ? "" : `, expertCacheBytes: ${expertCacheBytes}`;
  return [
    `recommended: ${nameOf(chosen, plan)}${because}`,
    `options: ${flags}; of an engine: { precision: "${precision}", kvCacheBytes: ${kvCacheBytes}${forExperts} }`,
  ];
}

function reasonOf({ chosen, instead }: Recommendation, { report: { aboveDense } }: Plan): string {
  const loss = aboveDense === undefined ? "" : ` (by ${aboveDense.toFixed(3)} nats a token, says the report)`;
  const times = `${chosen.msPerToken.toFixed(1)} ms a token against ${instead?.msPerToken.toFixed(1)}`;
  return chosen.model === "dense"
    ? `it fits into the same memory, answers better${loss}, and takes ${times}`
    : `it takes ${times}, though the dense model answers better${loss}`;
}

/** @returns why nothing fits, and what would */
export function refusal(plan: Plan): string {
  const least = (rows: readonly PlanRow[]): string[] => {
    const bytes = leastMemoryBytes(rows);
    const smallest = rows.find(({ leastBytes }) => leastBytes === bytes) as PlanRow;
    return [`--memory ${Math.ceil(bytes / 1e6)}MB, with ${nameOf(smallest, plan)}`];
  };
  const others = plan.rows.filter(({ model }) => model !== plan.own);
  const works = [
    ...least(plan.rows.filter(({ model }) => model === plan.own)),
    ...(others.length > 0 ? least(others) : []),
  ];
  return `${megabytes(plan.memoryBytes)} MB are too little; the least that works is ${works.join(", or ")}`;
}

export function planJson(plan: Plan): object {
  const { rows, recommendation } = plan;
  const layout = rows.find(({ streamed }) => streamed)?.streamed;
  return {
    path: plan.path,
    memory_bytes: plan.memoryBytes,
    sequences: plan.sequences,
    context_tokens: plan.contextTokens,
    kv_cache_bytes: plan.kvCacheBytes,
    fits: recommendation !== undefined,
    least_memory_bytes: leastMemoryBytes(rows),
    least_expert_cache_bytes: layout ? leastExpertBytes(layout) : null,
    token_cycle_bytes: layout ? tokenCycleBytes(layout) : null,
    locality: plan.locality,
    read_mb_per_s: plan.readMbPerS,
    above_dense: plan.report.aboveDense ?? null,
    placements: rows.map(placementJson),
    recommended: recommendation ? keyOf(recommendation.chosen) : null,
    instead_of: recommendation?.instead ? keyOf(recommendation.instead) : null,
  };
}

function placementJson(row: PlanRow): object {
  return {
    ...keyOf(row),
    fits: row.fits,
    total_bytes: row.totalBytes,
    least_bytes: row.leastBytes,
    weight_bytes: row.weightBytes,
    weights: row.weights,
    other: {
      process: row.other.process,
      tokenizer: row.other.tokenizer,
      step: row.other.step,
      slack: row.other.slack,
      keys_and_values: row.other.keysAndValues,
      prefix_cache: row.other.prefixCache,
    },
    hit_ratio: row.hitRatio ?? null,
    bytes_read_per_token: row.bytesReadPerToken,
    ms_per_token: row.msPerToken,
  };
}

function keyOf({ model, precision, expertCacheBytes }: PlannedPlacement): object {
  return { model, precision, expert_cache_bytes: expertCacheBytes ?? null };
}

function nameOf({ model, precision, expertCacheBytes }: PlannedPlacement, { own }: Plan): string {
  const cache = expertCacheBytes === undefined ? "" : ` with ${megabytes(expertCacheBytes)} MB for experts`;
  return `${model === own ? "this model" : "the dense model"} in ${precision}${cache}`;
}

function expertsInMemory({ model, weights, expertCacheBytes }: PlanRow): string {
  if (model === "dense") return "";
  const all = megabytes(weights.experts);
  return expertCacheBytes === undefined ? `all ${all}` : `${megabytes(expertCacheBytes)} of ${all}`;
}

function megabytes(bytes: number): string {
  return bytes < 10e6 ? (bytes / 1e6).toFixed(1) : (bytes / 1e6).toFixed(0);
}
