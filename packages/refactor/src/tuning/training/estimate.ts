// What a tuning will take, told by one batch that is run for real before it starts.

import { stepsOf, type ResolvedTuneOptions } from "../options.ts";
import type { RoutedSequence } from "./sequences.ts";
import type { Parameter } from "./trainable.ts";
import type { Trainer } from "./trainer.ts";

/** What a tuning will take, measured on one batch before its first step. */
export interface TuneEstimate {
  readonly trainedParameters: number;
  readonly steps: number;
  /** Of the measured batch. */
  readonly tokensPerS: number;
  /** For all steps and the measurements between them. */
  readonly ms: number;
  /** Of the process, at its peak. */
  readonly memoryBytes: number;
}

/** Of a parameter and step, of the optimizer's loop; measured. */
const OPTIMIZER_MS = 90 / (1 << 24);
/** Of a pass forwards alone beside a whole step: the teacher's, or the student's. */
const FORWARD_SHARE = 0.3;

/** @param sequences - as many as run together; nothing is learned from them */
export async function estimate(
  trainer: Trainer,
  parameters: readonly Parameter[],
  sequences: readonly RoutedSequence[],
  options: ResolvedTuneOptions,
  numEvaluated: number,
): Promise<TuneEstimate> {
  // The first run makes the graphs, and finds the memory.
  await trainer.gradients(sequences);
  const start = performance.now();
  await trainer.gradients(sequences);
  const microMs = performance.now() - start;
  const { rss } = process.memoryUsage();
  trainer.optimizer.clear();
  const steps = stepsOf(options);
  const { batchSequences, microSequences, sequenceTokens, evaluations } = options;
  const trainedParameters = parameters.reduce((sum, { values }) => sum + values.length, 0);
  const stepMs = microMs * (batchSequences / microSequences) + OPTIMIZER_MS * trainedParameters;
  const evaluationMs = FORWARD_SHARE * microMs * Math.ceil(numEvaluated / microSequences);
  return {
    trainedParameters,
    steps,
    tokensPerS: (microSequences * sequenceTokens * 1000) / microMs,
    ms: steps * stepMs + (evaluations + 2) * evaluationMs,
    // Two running means of each parameter, and its gradient, a part of which is there already.
    memoryBytes: rss + 3 * 4 * trainedParameters,
  };
}
