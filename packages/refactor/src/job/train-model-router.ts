// The router of a refactored model: from what each expert would get wrong of each calibration token, and, of more text,
// from what experts get wrong of its kind.

import { stat } from "node:fs/promises";
import type { ReadMeContent, SafetensorsInput } from "@readme-moe/model";
import type { RefactorJob } from "../refactor.ts";
import { readRouterCheckpoint, writeRouterCheckpoint } from "../router-training/router-checkpoint.ts";
import type { RouterExample } from "../router-training/router-example.ts";
import { routerSection } from "../router-training/router-tensors.ts";
import { trainRouter } from "../router-training/train-router.ts";
import type { FittedModel } from "./fit-model.ts";

export interface ModelRouter {
  readonly section: ReadMeContent["readme"]["router"];
  readonly tensors: readonly SafetensorsInput[];
  readonly parameters: number;
}

/** Every so many sequences of a domain are kept for choosing when to stop. */
const VALIDATION_EVERY = 10;
const CHECKPOINT_FILE = "router.safetensors";

/** @param meanCosts - of each domain's text, `[domain][expert]` */
export async function trainModelRouter(
  job: RefactorJob,
  fitted: FittedModel,
  meanCosts: readonly Float64Array[],
): Promise<ModelRouter> {
  const { model, grouping, options, work, run, stages } = job;
  const { config, weights } = model;
  const numExperts = grouping.names.length;
  const [validation, examples] = splitExamples(routerExamples(job, fitted, meanCosts));
  const checkpoint = work.file(CHECKPOINT_FILE);
  const isThere = await stat(checkpoint).then(
    () => true,
    () => false,
  );
  const isPaper = options.method === "paper";
  const trained = await trainRouter(examples, {
    numExperts,
    vocabSize: config.vocabSize,
    contextTokens: config.contextTokens,
    embedding: {
      values: await weights.embedding.store.readFloats(weights.embedding.name),
      size: config.hiddenSize,
    },
    architecture: isPaper ? "paper" : "default",
    target: isPaper ? "given" : "soft",
    localityTokens: isPaper ? 1 : options.localityTokens,
    steps: options.routerSteps,
    validation,
    seed: options.seed,
    threads: run.threads,
    signal: run.signal,
    onProgress: ({ step, steps }) => stages.report("router", step, steps),
    onCheckpoint: (state) => writeRouterCheckpoint(checkpoint, state),
    resumeFrom: isThere ? await readRouterCheckpoint(checkpoint) : undefined,
  });
  const { config: shape, tensors } = trained;
  return {
    section: routerSection(shape),
    tensors,
    parameters: tensors.reduce((sum, tensor) => sum + tensor.shape.reduce((product, size) => product * size, 1), 0),
  };
}

/** Costs are scaled so that, on the mean, the wrong expert costs 1 more than the best one for a kind of text. */
function routerExamples(
  { data, grouping, options }: RefactorJob,
  { stream, costs, costSequences }: FittedModel,
  meanCosts: readonly Float64Array[],
): readonly RouterExample[] {
  const numExperts = grouping.names.length;
  const isPaper = options.method === "paper";
  const spread = isPaper ? 1 : meanSpread(meanCosts);
  const scale = spread > 0 ? 1 / spread : 1;
  const size = stream.sequenceTokens * numExperts;
  const measured = costSequences.map((sequence) => ({
    tokenIds: stream.sequences[sequence] as Int32Array,
    costs: costs.slice(sequence * size, (sequence + 1) * size).map((cost) => cost * scale),
  }));
  // The paper's router learns from what tokens do with neurons, and that is known of calibration text only.
  if (isPaper) return measured;
  const others = data.flatMap(({ routerText }, domain) =>
    routerText.map((tokenIds) => ({
      tokenIds,
      costs: repeated(meanCosts[domain] as Float64Array, scale, tokenIds.length),
    })),
  );
  return [...measured, ...others];
}

function meanSpread(meanCosts: readonly Float64Array[]): number {
  const spreads = meanCosts.map((row) => row.reduce((sum, cost) => sum + cost, 0) / row.length - Math.min(...row));
  return spreads.reduce((sum, spread) => sum + spread, 0) / spreads.length;
}

function repeated(row: Float64Array, scale: number, times: number): Float32Array {
  return Float32Array.from({ length: times * row.length }, (_, at) => (row[at % row.length] as number) * scale);
}

function isKept(index: number): boolean {
  return index % VALIDATION_EVERY === VALIDATION_EVERY - 1;
}

function splitExamples(
  examples: readonly RouterExample[],
): readonly [validation: readonly RouterExample[], rest: readonly RouterExample[]] {
  return [examples.filter((_, index) => isKept(index)), examples.filter((_, index) => !isKept(index))];
}
