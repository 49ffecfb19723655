// Predicts the time and memory of a training of experts by running a few sequences, from which nothing is learned.

import type { TextSequence } from "../tuning/tuning-data.ts";
import { labelsOf } from "../tuning/tuning-data.ts";
import type { AdaptedModel } from "./adapted-model.ts";
import type { Adapter } from "./adapter.ts";
import type { LoraEstimate, ResolvedLoraOptions } from "./options.ts";
import { totalSteps, type Schedule } from "./schedule.ts";

/** Time of a forward pass relative to one with gradients; measured. */
const FORWARD_SHARE = 0.45;

export interface LoraAmount {
  readonly schedule: Schedule;
  readonly options: ResolvedLoraOptions;
  readonly trainedParameters: number;
  readonly numEvaluated: number;
}

export async function estimateLoras(
  model: AdaptedModel,
  adapter: Adapter,
  training: readonly TextSequence[],
  { schedule, options, trainedParameters, numEvaluated }: LoraAmount,
): Promise<LoraEstimate> {
  const { sequences, sequenceTokens } = model.settings;
  const tokenIds = new Int32Array(sequences * sequenceTokens);
  for (let place = 0; place < sequences; place++) {
    tokenIds.set(training[place % training.length]!.tokenIds, place * sequenceTokens);
  }
  const labels = labelsOf({ tokenIds, experts: new Uint16Array(tokenIds.length) }, sequenceTokens, 1);
  // The first run also builds the graph and allocates memory.
  await model.gradients(adapter, tokenIds, labels);
  const start = performance.now();
  await model.gradients(adapter, tokenIds, labels);
  const msPerToken = (performance.now() - start) / tokenIds.length;
  const { firstSteps, numKinds } = schedule;
  const stepTokens = options.batchSequences * sequenceTokens;
  const rivalSteps = totalSteps(schedule) - (options.sharing === "start" ? firstSteps : 0);
  const steps = totalSteps(schedule) + (options.rival ? rivalSteps : 0);
  const routerTokens = Math.min(training.length * sequenceTokens, options.routerTokens * numKinds);
  const rounds = (options.evaluations + 1) * (firstSteps > 0 ? 2 : 1) + (options.rival ? 3 : 2);
  const forwardTokens = routerTokens * (numKinds + 1) + (numEvaluated / 2) * sequenceTokens * rounds;
  return {
    trainedParameters: trainedParameters * numKinds,
    steps,
    tokensPerS: 1000 / msPerToken,
    ms: msPerToken * (steps * stepTokens + FORWARD_SHARE * forwardTokens),
    // Each expert, and two running means and the gradient of the one that is trained.
    memoryBytes: process.memoryUsage().rss + 4 * trainedParameters * (numKinds + 3),
  };
}
