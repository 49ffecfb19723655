// Trains the router of a refactored model. Calibration tokens have the measured cost of each expert; further text has
// the mean costs of its domain.

import type { ReadMeContent, SafetensorsInput } from "@readme-moe/model";
import { routerSection } from "../router-training/router-network.ts";
import { splitExamples, repeatedCosts, type RouterExample } from "../router-training/router-targets.ts";
import { trainRouter } from "../router-training/train-router.ts";
import type { FittedModel } from "./fit-model.ts";
import type { RefactorJob } from "./refactor-job.ts";

export interface ModelRouter {
  readonly section: ReadMeContent["readme"]["router"];
  readonly tensors: readonly SafetensorsInput[];
  readonly parameters: number;
}

/** @param meanCosts - of each domain's text, `[domain][expert]` */
export async function trainModelRouter(
  job: RefactorJob,
  fitted: FittedModel,
  meanCosts: readonly Float64Array[],
): Promise<ModelRouter> {
  const { model, grouping, options, work, run, stages } = job;
  const { config, weights } = model;
  const isPaper = options.method === "paper";
  const { examples, validation } = splitExamples(routerExamples(job, fitted, meanCosts));
  const { config: shape, tensors } = await trainRouter(examples, {
    numExperts: grouping.names.length,
    vocabSize: config.vocabSize,
    contextTokens: config.contextTokens,
    embedding: {
      values: await weights.embedding.store.readFloats(weights.embedding.name),
      size: config.hiddenSize,
    },
    isPaper,
    localityTokens: isPaper ? 1 : options.localityTokens,
    steps: options.routerSteps,
    validation,
    seed: options.seed,
    threads: run.threads,
    signal: run.signal,
    onProgress: ({ step, steps }) => stages.report("router", step, steps),
    checkpointPath: work.file("router.safetensors"),
  });
  return {
    section: routerSection(shape),
    tensors,
    parameters: tensors.reduce((sum, tensor) => sum + tensor.shape.reduce((product, size) => product * size, 1), 0),
  };
}

/** Scales costs so that the mean expert costs 1 more than a domain's best expert, averaged over domains. */
function routerExamples(
  { data, grouping, options }: RefactorJob,
  { stream, costs, costSequences }: FittedModel,
  meanCosts: readonly Float64Array[],
): readonly RouterExample[] {
  const isPaper = options.method === "paper";
  const spread = isPaper ? 1 : meanSpread(meanCosts);
  const scale = spread > 0 ? 1 / spread : 1;
  const size = stream.sequenceTokens * grouping.names.length;
  const measured = costSequences.map((sequence) => ({
    tokenIds: stream.sequences[sequence]!,
    costs: costs.slice(sequence * size, (sequence + 1) * size).map((cost) => cost * scale),
  }));
  // The paper's router learns from the neurons that tokens activate, which are known for calibration text only.
  if (isPaper) return measured;
  const others = data.flatMap(({ routerText }, domain) => {
    const row = meanCosts[domain]!.map((cost) => cost * scale);
    return routerText.map((tokenIds) => ({ tokenIds, costs: repeatedCosts(row, tokenIds.length) }));
  });
  return [...measured, ...others];
}

function meanSpread(meanCosts: readonly Float64Array[]): number {
  const spreads = meanCosts.map((row) => row.reduce((sum, cost) => sum + cost, 0) / row.length - Math.min(...row));
  return spreads.reduce((sum, spread) => sum + spread, 0) / spreads.length;
}
