// Formats a plan as text and as JSON.

import { wireName } from "@readme-moe/core";
import { alignedTable, type Column, percent } from "../terminal.ts";
import type { ExpectedCost } from "./expected-cost.ts";
import type { ReportFigures } from "./model-figures.ts";
import type { DescribedPlacement } from "./placements.ts";
import {
  leastExpertBytes,
  leastMemoryBytes,
  type PlannedPlacement,
  type Recommendation,
  tokenCycleBytes,
} from "./plan-memory.ts";

type PlanRow = DescribedPlacement & PlannedPlacement & ExpectedCost;

export interface Plan {
  readonly path: string;
  /** Kind of the model at `path`; rows of another kind describe the dense model that it was made from. */
  readonly own: PlanRow["model"];
  readonly memoryBytes: number;
  readonly sequences: number;
  readonly contextTokens: number;
  /** Whether the model generates. Texts of others run whole, so that times of a token mean nothing. */
  readonly generates: boolean;
  readonly kvCacheBytes: number;
  readonly readMbPerS: number;
  readonly locality: number;
  readonly report: ReportFigures;
  readonly rows: readonly PlanRow[];
  readonly recommendation: Recommendation | undefined;
}

const COLUMNS: readonly Column<PlanRow>[] = [
  ["model", ({ model }) => model],
  ["precision", ({ precision }) => precision],
  ["experts in memory", expertsInMemory],
  ["weights", ({ weightBytes }) => megabytes(weightBytes)],
  ["KV", ({ other }) => megabytes(other.keysAndValues + other.prefixCache)],
  ["rest", ({ other }) => megabytes(restOf(other))],
  ["total MB", ({ totalBytes }) => megabytes(totalBytes)],
  ["fits", ({ fits }) => (fits ? "yes" : "no")],
  ["hits %", ({ hitRatio }) => (hitRatio === undefined ? "" : percent(hitRatio))],
  ["MB read/token", ({ streamed, bytesReadPerToken: bytes }) => (streamed ? (bytes / 1e6).toFixed(1) : "")],
];
const TIME_COLUMN: Column<PlanRow> = ["ms/token", ({ msPerToken }) => msPerToken.toFixed(1)];

function restOf({ process, tokenizer, step, states, slack, draftHead }: PlanRow["other"]): number {
  return process + tokenizer + step + states + slack + draftHead;
}

export function planLines(plan: Plan): readonly string[] {
  const { sequences, contextTokens, memoryBytes, path, rows, generates } = plan;
  const many = sequences === 1 ? "1 sequence" : `${sequences} sequences`;
  return [
    `${path}: ${many} of ${contextTokens} tokens in ${megabytes(memoryBytes)} MB`,
    ...alignedTable(generates ? [...COLUMNS, TIME_COLUMN] : COLUMNS, rows),
    ...expertLines(plan),
    "the process that calls the engine takes 60 MB and more besides",
    ...adviceLines(plan),
  ];
}

function expertLines({ rows, locality, readMbPerS }: Plan): readonly string[] {
  const row = rows.find(({ streamed }) => streamed);
  if (!row?.streamed) return [];
  const { streamed: layout, expertsPerToken } = row;
  const [least, cycle] = [leastExpertBytes(layout, expertsPerToken), tokenCycleBytes(layout)].map(megabytes);
  if (expertsPerToken !== undefined) {
    return [
      `streamed experts need at least ${least} MB (${expertsPerToken} experts of one layer, for one token)`,
      `their times are estimates: reads are taken to run at ${readMbPerS.toFixed(0)} MB/s`,
    ];
  }
  return [
    `streamed experts need at least ${least} MB (one layer of all); LRU needs ${cycle} MB (all layers of one) for any hits`,
    `times are estimates: locality ${locality.toFixed(2)}, reads at ${readMbPerS.toFixed(0)} MB/s`,
  ];
}

function adviceLines(plan: Plan): readonly string[] {
  const { recommendation, kvCacheBytes } = plan;
  if (!recommendation) return [];
  const { chosen, instead } = recommendation;
  const { expertCacheBytes, precision } = chosen;
  const { sequences, contextTokens } = plan;
  const because = instead ? ` instead of ${nameOf(instead, plan)}: ${reasonOf(recommendation, plan)}` : "";
  const flags = [
    `--precision ${precision} --max-num-seqs ${sequences} --context ${contextTokens} --kv-cache ${kvCacheBytes}`,
    ...(expertCacheBytes === undefined ? [] : [`--expert-cache ${expertCacheBytes}`]),
  ].join(" ");
  const forExperts = expertCacheBytes === undefined ? "" : `, expertCacheBytes: ${expertCacheBytes}`;
  return [
    `recommended: ${nameOf(chosen, plan)}${because}`,
    `flags of serve: ${flags}`,
    `options of an engine: { precision: "${precision}", maxNumSeqs: ${sequences}, contextTokens: ${contextTokens}, ` +
      `kvCacheBytes: ${kvCacheBytes}${forExperts} }`,
  ];
}

function reasonOf({ chosen, instead }: Recommendation, { report: { aboveDense } }: Plan): string {
  const loss = aboveDense === undefined ? "" : ` (by ${aboveDense.toFixed(3)} nats per token, according to the report)`;
  const times = `${chosen.msPerToken.toFixed(1)} ms per token against ${instead?.msPerToken.toFixed(1)}`;
  return chosen.model === "dense"
    ? `it fits into the same memory, answers better${loss}, and takes ${times}`
    : `it takes ${times}, though the dense model answers better${loss}`;
}

/** Describes why nothing fits, and the least memory that would be enough. */
export function refusal(plan: Plan): string {
  const least = (rows: readonly PlanRow[]): string[] => {
    const [smallest] = rows.toSorted((a, b) => a.leastBytes - b.leastBytes);
    return smallest ? [`--memory ${Math.ceil(smallest.leastBytes / 1e6)}MB, with ${nameOf(smallest, plan)}`] : [];
  };
  const works = [
    ...least(plan.rows.filter(({ model }) => model === plan.own)),
    ...least(plan.rows.filter(({ model }) => model !== plan.own)),
  ];
  return `${megabytes(plan.memoryBytes)} MB are not enough; the least that works is ${works.join(", or ")}`;
}

export function planJson(plan: Plan): unknown {
  const { path, memoryBytes, sequences, contextTokens, kvCacheBytes, locality, readMbPerS, rows, recommendation } =
    plan;
  const streamedRow = rows.find(({ streamed }) => streamed);
  const layout = streamedRow?.streamed;
  return wireFields({
    path,
    memoryBytes,
    sequences,
    contextTokens,
    kvCacheBytes,
    fits: recommendation !== undefined,
    leastMemoryBytes: leastMemoryBytes(rows),
    leastExpertCacheBytes: layout && leastExpertBytes(layout, streamedRow?.expertsPerToken),
    tokenCycleBytes: layout && tokenCycleBytes(layout),
    locality,
    readMbPerS,
    aboveDense: plan.report.aboveDense,
    placements: rows.map((row) => placementFields(row, plan.generates)),
    recommended: recommendation && keyOf(recommendation.chosen),
    insteadOf: recommendation?.instead && keyOf(recommendation.instead),
  });
}

function placementFields(row: PlanRow, generates: boolean): object {
  const { fits, totalBytes, leastBytes, weightBytes, weights, other, hitRatio, bytesReadPerToken, msPerToken } = row;
  const sizes = { fits, totalBytes, leastBytes, weightBytes, weights, other };
  return { ...keyOf(row), ...sizes, hitRatio, bytesReadPerToken, msPerToken: generates ? msPerToken : undefined };
}

function keyOf({ model, precision, expertCacheBytes }: PlannedPlacement): object {
  return { model, precision, expertCacheBytes };
}

/** Gives fields the names that they have in JSON, and those without a value `null`. */
function wireFields(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(wireFields);
  if (typeof value !== "object" || value === null) return value ?? null;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [wireName(name), wireFields(inner)]));
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
