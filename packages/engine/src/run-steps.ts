import { integerOption } from "@readme-moe/core";
import { attentionRuns, type GraphTensor, type KvPool, type Model } from "@readme-moe/model";
import type { FullLogits } from "./full-logits.ts";
import { planRun, type RunPlan, type StepSequence } from "./step-feeds.ts";
import { checkSequence, stepLogits, type StepLogits } from "./step-logits.ts";

/** What running a plan gives: outputs of logits by name, and `[tokens, 2 * numLayers * numKvHeads * headSize]`. */
interface RunOutputs {
  readonly outputs: Readonly<Record<string, GraphTensor>>;
  readonly newKeysValues: Float32Array;
}

/** Runs a plan; the outputs in `memory` are written there. */
export type Run = (plan: RunPlan, memory: Readonly<Record<string, GraphTensor>>) => Promise<RunOutputs>;

/** `StepRunner.forward`, whoever runs what was planned. */
export async function runSteps(
  model: Model,
  pool: KvPool,
  sequences: readonly StepSequence[],
  numCandidates: number,
  fullLogits: FullLogits,
  run: Run,
): Promise<readonly StepLogits[]> {
  const { config, experts } = model;
  integerOption("numCandidates", numCandidates, 1, config.vocabSize);
  if (sequences.length === 0) return [];
  for (const sequence of sequences) checkSequence(sequence, model);
  fullLogits.reserve(sequences.reduce((sum, s) => sum + (s.wantsFullLogits ? s.logitsOf.length : 0), 0));
  let numFullRows = 0;
  const results: StepLogits[] = [];
  for (const attentionRun of attentionRuns(sequences)) {
    const plan = planRun(attentionRun, sequences, pool, experts.names.length, numCandidates);
    const newFullRows = plan.firstFullRows.at(-1) ?? 0;
    const { outputs, newKeysValues } = await run(plan, fullLogits.outputs(numFullRows, newFullRows));
    numFullRows += newFullRows;
    plan.order.forEach((place, index) => {
      const sequence = sequences[place] as StepSequence;
      const first = plan.firstTokens[index] as number;
      pool.append(sequence.slot, newKeysValues, first, first + sequence.tokenIds.length);
      results[place] = stepLogits(outputs, plan, index, sequence, numCandidates, config.vocabSize);
    });
  }
  return results;
}
