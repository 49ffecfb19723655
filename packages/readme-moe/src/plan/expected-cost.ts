// Estimates the cost of tokens with a simulated server that is always full.

import {
  DEFAULT_COST_MODEL,
  fcfs,
  generateMixtureTrace,
  generateTrace,
  simulate,
  simulateMixture,
  type CostModel,
  type ExpertTrace,
} from "@readme-moe/core";
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
  readonly trace: ExpertTrace;
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
const LIMITS = { maxNumBatchedTokens: 512, chunkTokens: 128 };

/**
 * Draws sequences that all wait from the beginning, for a model of this shape.
 * @param locality - see `generateTrace`
 */
export function drawnTrace(
  layout: Pick<ExpertTrace["layout"], "numExperts" | "layerBytes">,
  sequences: number,
  locality: number,
): ExpertTrace {
  // Enough for at least 100 steps.
  const numSequences = Math.max(8, 4 * sequences);
  return generateTrace({ ...layout, numSequences, arrivalsPerStep: 1e6, locality, seed: 1 });
}

/** Estimates the cost of a placement's tokens. Routes of a mixture under a budget are drawn, whatever the trace is. */
export function expectedCost(placement: PlannedRow, options: CostOptions): ExpectedCost {
  const { streamed, weights, usedShare, precision } = placement;
  // In float32 the tied head is the embedding table itself.
  const head = weights.head === 0 ? weights.embeddings : weights.head;
  const active = weights.attention + head + weights.shared + usedShare * weights.experts;
  const scale = (active / REFERENCE_BYTES) * PACE[precision] * (streamed ? STREAMED_FACTOR : 1);
  return placement.expertsPerToken === undefined
    ? costOfNamedExperts(placement, scale, options)
    : costOfMixture(placement, scale, options);
}

/** A placement with the memory that it gets. */
type PlannedRow = DescribedPlacement & PlannedPlacement;

function costOfNamedExperts(placement: PlannedRow, scale: number, options: CostOptions): ExpectedCost {
  const { streamed, expertCacheBytes } = placement;
  const { trace, sequences, readMbPerS } = options;
  // Resident experts are simulated as units of one byte: once loaded they never miss, and their reads do not count.
  const layout = streamed ?? { numExperts: trace.layout.numExperts, layerBytes: [1] };
  const budgetBytes = expertCacheBytes ?? layout.numExperts;
  const result = simulate(
    { ...trace, layout },
    {
      scheduler: fcfs(),
      limits: { ...LIMITS, maxNumBatchedSeqs: sequences },
      maxNumSeqs: sequences,
      cache: { budgetBytes },
      cost: scaled(scale, streamed ? 1 / (readMbPerS * 1e3) : 0),
    },
  );
  const tokens = trace.sequences.reduce((sum, { experts, promptTokens }) => sum + experts.length - promptTokens + 1, 0);
  return {
    msPerToken: result.durationMs / tokens,
    hitRatio: streamed ? result.hitRatio : undefined,
    bytesReadPerToken: streamed ? result.bytesRead / tokens : 0,
  };
}

function costOfMixture(placement: PlannedRow, scale: number, options: CostOptions): ExpectedCost {
  const { streamed = { numExperts: 1, layerBytes: [1] }, expertsPerToken = 1, expertCacheBytes = 0 } = placement;
  const { sequences, readMbPerS } = options;
  const trace = generateMixtureTrace({
    ...streamed,
    expertsPerToken,
    numSequences: Math.max(4, sequences),
    arrivalsPerStep: 1e6,
    meanPromptTokens: 16,
    seed: 1,
  });
  // As many rows as surely fit, as in the engine.
  const capacity = Math.floor(expertCacheBytes / Math.max(...streamed.layerBytes));
  const numRows = capacity >= streamed.numExperts ? LIMITS.chunkTokens : Math.floor(capacity / expertsPerToken);
  const cost = scaled(scale, 1 / (readMbPerS * 1e3));
  const result = simulateMixture(trace, {
    knowledge: "forecast",
    scheduler: fcfs(),
    limits: {
      maxNumBatchedTokens: Math.max(1, numRows),
      chunkTokens: Math.max(1, Math.min(numRows, LIMITS.chunkTokens)),
      maxNumBatchedSeqs: Math.max(1, Math.min(sequences, numRows)),
    },
    maxNumSeqs: sequences,
    cache: { budgetBytes: expertCacheBytes },
    cost: { ...cost, msPerExpert: cost.msPerExpert / expertsPerToken },
  });
  const routeSize = streamed.layerBytes.length * expertsPerToken;
  const outputs = trace.sequences.map(({ routes, promptTokens }) => routes.length / routeSize - promptTokens + 1);
  const tokens = outputs.reduce((sum, numTokens) => sum + numTokens, 0);
  return {
    msPerToken: result.durationMs / tokens,
    hitRatio: result.hitRatio,
    bytesReadPerToken: result.bytesRead / tokens,
  };
}

function scaled(factor: number, loadMsPerByte: number): CostModel {
  const { fixedMs, msPerToken, msPerExpert, msPerCachedToken } = DEFAULT_COST_MODEL;
  return {
    fixedMs: fixedMs * factor,
    msPerToken: msPerToken * factor,
    msPerExpert: msPerExpert * factor,
    msPerCachedToken,
    loadMsPerByte,
  };
}
