import { integerOption } from "@readme-moe/core";
import { attentionRuns, type GraphTensor, type KvMemory, type Model } from "@readme-moe/model";
import { arenasOf, placedIn } from "./arenas-of.ts";
import type { FullLogits } from "./full-logits.ts";
import { planRun, type ArenaSequence, type RunPlan, type StepSequence } from "./step-feeds.ts";
import { checkSequence, stepLogits, type StepLogits } from "./step-logits.ts";

/** What running a plan gives: outputs of logits by name, and `[tokens, 2 * numLayers * numKvHeads * headSize]`. */
interface RunOutputs {
  readonly outputs: Readonly<Record<string, GraphTensor>>;
  readonly newKeysValues: Float32Array;
}

/** Runs a plan; the outputs in `memory` are written there. */
export type Run = (plan: RunPlan, memory: Readonly<Record<string, GraphTensor>>) => Promise<RunOutputs>;

/** A graph, or several, that steps run on. */
interface GraphRunner {
  readonly model: Model;
  readonly fullLogits: FullLogits;
  readonly run: Run;
}

/** `StepRunner.forward` on graphs and arenas. */
export async function runSteps(
  { model, fullLogits, run }: GraphRunner,
  kv: KvMemory,
  sequences: readonly StepSequence[],
  numCandidates: number,
): Promise<readonly StepLogits[]> {
  const { config, experts } = model;
  const pool = arenasOf(kv, config);
  integerOption("numCandidates", numCandidates, 1, config.vocabSize);
  if (sequences.length === 0) return [];
  for (const sequence of sequences) checkSequence(sequence, model);
  const placed = placedIn(pool, sequences);
  fullLogits.reserve(placed.reduce((sum, s) => sum + (s.wantsFullLogits ? s.logitsOf.length : 0), 0));
  let numFullRows = 0;
  const results: StepLogits[] = [];
  for (const attentionRun of attentionRuns(placed)) {
    const plan = planRun(attentionRun, placed, pool, experts.names.length, numCandidates);
    const newFullRows = plan.firstFullRows.at(-1) ?? 0;
    const { outputs, newKeysValues } = await run(plan, fullLogits.outputs(numFullRows, newFullRows));
    numFullRows += newFullRows;
    plan.order.forEach((place, index) => {
      const sequence = placed[place] as ArenaSequence;
      const first = plan.firstTokens[index] as number;
      pool.append(sequence.slot, newKeysValues, first, first + sequence.tokenIds.length);
      results[place] = stepLogits(outputs, plan, index, sequence, numCandidates, config.vocabSize);
    });
  }
  return results;
}
