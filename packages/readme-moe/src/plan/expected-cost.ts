// Estimates the cost of tokens on a server that has run for a while and is always full. Plain arithmetic: the lab's
// simulator runs the same steps one by one, and a test compares both.

import { DEFAULT_COST_MODEL, expertBytes, predictStepMs, type CostModel } from "@readme-moe/core";
import type { DescribedPlacement } from "./placements.ts";
import type { PlannedPlacement } from "./plan-memory.ts";

export interface ExpectedCost {
  /** Time per token of all sequences together, prompts included. */
  readonly msPerToken: number;
  /** Share of expert uses that are hits; absent without streamed experts. */
  readonly hitRatio?: number | undefined;
  readonly bytesReadPerToken: number;
}

export interface CostOptions {
  /** Number of experts that routes choose from, where none is streamed. */
  readonly numExperts: number;
  /** Share of tokens that keep the expert of the token before. */
  readonly locality: number;
  /** Sequences that run at once. */
  readonly sequences: number;
  readonly readMbPerS: number;
}

/*
 * Bytes that a token of one sequence reads in the model of `DEFAULT_COST_MODEL`: SmolLM2 as seven experts of half width
 * in int8, on two Zen 5 cores. Steps of other models are assumed to take time in proportion: reading weights is most of
 * a small step.
 */
const REFERENCE_BYTES = 97e6;
/** Time of steps with streamed experts whose budget has room for everything, against steps without (docs/kernel.md). */
const STREAMED_FACTOR = 1.05;
/**
 * Time per byte, from docs/benchmark.md. Four bits are fewer bytes and more arithmetic: 1.3 for one sequence, 1.4 for
 * four, 1.7 for sixteen. Float32 has more bytes and needs no rounding: 0.7 for one sequence, 0.5 for sixteen. Blocks of
 * files: 1 for one sequence, 1.2 to 1.5 from four on.
 */
const PACE = { int8: 1, int4: 1.4, fp32: 0.6, file: 1.2 } as const;
/** Mean lengths of a sequence, and the most tokens of a piece of its prompt. */
const [PROMPT_TOKENS, OUTPUT_TOKENS, CHUNK_TOKENS] = [64, 32, 128];
/** Locality of an expert of a mixture that chooses in every layer. */
const MIXTURE_LOCALITY = 0.25;
/** Share of reads that computing does not hide where routes are known before a step, as simulated. */
const EXPOSED_SHARE = 0.4;

/** A placement with the memory that it gets. */
type PlannedRow = DescribedPlacement & PlannedPlacement;

/** Estimates the cost of a placement's tokens. */
export function expectedCost(placement: PlannedRow, options: CostOptions): ExpectedCost {
  const { streamed, weights, usedShare, precision } = placement;
  // In float32 the tied head is the embedding table itself.
  const head = weights.head === 0 ? weights.embeddings : weights.head;
  const active = weights.attention + head + weights.shared + usedShare * weights.experts;
  const cost = scaled((active / REFERENCE_BYTES) * PACE[precision] * (streamed ? STREAMED_FACTOR : 1));
  const routing = routingOf(placement, options);
  const rows = Math.min(options.sequences, routing.mostRows);
  const cachedTokens = rows * (PROMPT_TOKENS + OUTPUT_TOKENS / 2);
  let [ms, bytes, uses, hits] = [0, 0, 0, 0];
  for (const step of stepsOf(rows, routing)) {
    const experts = distinctExperts(step.routes, routing);
    const hitRatio = hitRatioOf(experts, distinctExperts(rows, routing), routing);
    // The cost model's time of an expert is that of all experts of a token.
    const work = { tokens: step.rows, distinctExperts: experts / routing.perToken, cachedTokens, missingBytes: 0 };
    const readBytes = streamed ? experts * (1 - hitRatio) * expertBytes(streamed) : 0;
    const [computeMs, readMs] = [predictStepMs(cost, work), readBytes / (options.readMbPerS * 1e3)];
    ms += step.count * (Math.max(computeMs, readMs) + routing.exposedShare * Math.min(computeMs, readMs));
    bytes += step.count * readBytes;
    uses += step.count * experts;
    hits += step.count * experts * hitRatio;
  }
  return {
    msPerToken: ms / OUTPUT_TOKENS,
    hitRatio: streamed ? hits / uses : undefined,
    bytesReadPerToken: bytes / OUTPUT_TOKENS,
  };
}

/** The choice of experts, and the memory for them. */
interface Routing {
  readonly numExperts: number;
  readonly perToken: number;
  readonly locality: number;
  /** Number of experts that fit into memory. */
  readonly capacity: number;
  /** Most rows of a step whose experts surely fit, or of a piece of a prompt. */
  readonly mostRows: number;
  /** Part of the shorter one of reading and computing that the longer one does not hide. */
  readonly exposedShare: number;
}

function routingOf({ streamed, expertsPerToken, expertCacheBytes = 0 }: PlannedRow, options: CostOptions): Routing {
  const { numExperts, locality } = options;
  const whole = { numExperts, perToken: 1, locality, mostRows: CHUNK_TOKENS, exposedShare: EXPOSED_SHARE };
  if (!streamed) return { ...whole, capacity: numExperts };
  const own = { ...whole, numExperts: streamed.numExperts, capacity: expertCacheBytes / expertBytes(streamed) };
  if (expertsPerToken === undefined) return own;
  const fitting = Math.floor(expertCacheBytes / Math.max(...streamed.layerBytes) / expertsPerToken);
  const mostRows = own.capacity >= own.numExperts ? CHUNK_TOKENS : Math.max(1, Math.min(fitting, CHUNK_TOKENS));
  // A mixture knows its routes layer by layer, and hides nothing.
  return { ...own, perToken: expertsPerToken, locality: MIXTURE_LOCALITY, mostRows, exposedShare: 1 };
}

/** Steps of one kind that one sequence causes. */
interface Steps {
  readonly count: number;
  readonly rows: number;
  /** Number of independent choices of experts. */
  readonly routes: number;
}

/** Lists the steps with a piece of a prompt, in which the other sequences go on, and those without. */
function stepsOf(rows: number, { mostRows, locality }: Routing): readonly Steps[] {
  const pieces = Math.ceil(PROMPT_TOKENS / mostRows);
  const pieceRows = PROMPT_TOKENS / pieces;
  const others = rows - 1;
  return [
    { count: pieces, rows: others + pieceRows, routes: others + 1 + (pieceRows - 1) * (1 - locality) },
    { count: Math.max(0, OUTPUT_TOKENS - 1 - pieces * others) / rows, rows, routes: rows },
  ];
}

/** Computes the mean number of distinct experts that independent choices need. */
function distinctExperts(routes: number, { numExperts, perToken }: Routing): number {
  return numExperts * (1 - (1 - perToken / numExperts) ** routes);
}

/**
 * Estimates the share of a step's experts that are in memory: those of the step before, and of the others as many as
 * there is room for.
 *
 * @param before - distinct experts of a step without a prompt
 */
function hitRatioOf(experts: number, before: number, { numExperts, capacity, locality }: Routing): number {
  if (capacity >= numExperts) return 1;
  const share = before / numExperts;
  const kept = Math.max((locality + (1 - locality) * share) * (before / experts), share);
  if (experts > capacity) return Math.max((kept * capacity) / experts, capacity / numExperts);
  return kept + ((1 - kept) * (capacity - experts)) / (numExperts - experts);
}

function scaled(factor: number): CostModel {
  const { fixedMs, msPerToken, msPerExpert, msPerCachedToken } = DEFAULT_COST_MODEL;
  const times = { fixedMs: fixedMs * factor, msPerToken: msPerToken * factor, msPerExpert: msPerExpert * factor };
  return { ...times, msPerCachedToken, loadMsPerByte: 0 };
}
