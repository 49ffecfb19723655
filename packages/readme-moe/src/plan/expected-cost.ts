// What tokens are expected to cost: a simulated server that is always full.

import { DEFAULT_COST_MODEL, fcfs, generateTrace, simulate, type CostModel, type ExpertTrace } from "@readme-moe/core";
import type { DescribedPlacement } from "./placements.ts";
import type { PlannedPlacement } from "./plan-memory.ts";

export interface ExpectedCost {
  /** Of all sequences together, prompts included. */
  readonly msPerToken: number;
  /** Absent where nothing comes and goes. */
  readonly hitRatio?: number | undefined;
  readonly bytesReadPerToken: number;
}

export interface CostOptions {
  readonly trace: ExpertTrace;
  /** That run at once. */
  readonly sequences: number;
  readonly readMbPerS: number;
}

/*
 * `DEFAULT_COST_MODEL` is of SmolLM2 as seven experts of half width in int8 on two Zen 5 cores; a token of one sequence passes these bytes
 * there. Steps of other models are taken to last in proportion: reading weights is most of a small step.
 */
const REFERENCE_BYTES = 97e6;
/** What steps take longer under a budget that has room for everything (docs/kernel.md). */
const STREAMED_FACTOR = 1.05;
/** Of time by byte. Four bits are fewer bytes and more arithmetic: SmolLM2 makes 76 tokens a second, in int8 81 (docs/benchmark.md). */
const PACE = { int8: 1, int4: 1.33, fp32: 1 } as const;
const LIMITS = { maxNumBatchedTokens: 512, chunkTokens: 128 };

/** Sequences that all wait from the beginning, for a model of this shape. @param locality - see `generateTrace` */
export function drawnTrace(
  layout: Pick<ExpertTrace["layout"], "numExperts" | "layerBytes">,
  sequences: number,
  locality: number,
): ExpertTrace {
  // Enough for 100 steps and more.
  const numSequences = Math.max(8, 4 * sequences);
  return generateTrace({ ...layout, numSequences, arrivalsPerStep: 1e6, locality, seed: 1 });
}

export function expectedCost(
  placement: DescribedPlacement & PlannedPlacement,
  { trace, sequences, readMbPerS }: CostOptions,
): ExpectedCost {
  const { streamed, weights, expertCacheBytes, precision } = placement;
  // Experts that stay are a cache of one byte each that misses nothing once it is warm, and reads nothing that counts.
  const layout = streamed ?? { numExperts: trace.layout.numExperts, layerBytes: [1] };
  const budgetBytes = expertCacheBytes ?? layout.numExperts;
  const active = weights.attention + headBytes(weights) + weights.shared + weights.experts / layout.numExperts;
  const scale = (active / REFERENCE_BYTES) * PACE[precision] * (streamed ? STREAMED_FACTOR : 1);
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

/** The table itself where the two are tied in float32. */
function headBytes({ head, embeddings }: DescribedPlacement["weights"]): number {
  return head === 0 ? embeddings : head;
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
