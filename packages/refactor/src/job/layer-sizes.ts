// Sizes of a model's layers under one budget: each layer's error is measured for every size, then the budget is
// divided.

import { existsSync } from "node:fs";
import type { Model } from "@readme-moe/model";
import { divideBudget, sizeSteps } from "../experts/budget.ts";
import { errorCurve } from "../experts/fit-part.ts";
import { fitProblem } from "../experts/moments.ts";
import { layerSource, readDense } from "../layers/layer-graphs.ts";
import { runWeightedGram } from "../layers/run-layer.ts";
import { TokenStream } from "../layers/token-stream.ts";
import type { Products } from "../linear-algebra/matrix.ts";
import { resolveSizes, type ResolvedOptions, type Sizes } from "../options.ts";
import { arrayOf } from "../tasks/results.ts";
import { BATCH_TOKENS } from "../tasks/task.ts";
import { parametersOf } from "./make-report.ts";
import type { RefactorJob } from "./refactor-job.ts";
import { readArrays, writeArrays } from "./work-folder.ts";

/** Share of the calibration text that errors are measured on. */
const TEXT_SHARE = 1 / 8;
/** Tokens for each neuron of a layer, where that is more text. */
const NEURON_TOKENS = 2;
const RIDGE = 1e-3;
const CURVES_FILE = "curves.safetensors";

/**
 * Returns sizes before layers are compared: those of the options, or equal ones within the budget.
 *
 * @throws {RangeError} when the sizes or the budget do not fit the model
 */
export function firstSizes(model: Model, options: ResolvedOptions): Sizes {
  const { config } = model;
  if (options.budget === undefined) return resolveSizes(options, config);
  const sizesOf = (size: number): Sizes =>
    resolveSizes({ ...options, layerSizes: Array.from({ length: config.numLayers }, () => size) }, config);
  const [least = 1] = sizeSteps(config.intermediateSize);
  // A shared part has to fit the smallest layer.
  sizesOf(least);
  return sizesOf(Math.floor(neuronsWithin(model, options.budget) / config.numLayers));
}

/** Counts the weights that a token reads, with some neurons in all layers together. */
function weightsRead(model: Model, neurons: number): number {
  const { weights } = model;
  const isTied = weights.head === weights.embedding;
  const [rows = 0, width = 0] = weights.embedding.shape;
  return parametersOf(model, [neurons]) - (isTied ? 0 : (rows - 1) * width);
}

/** Returns the number of neurons of all layers whose share of the weights is within the budget. */
function neuronsWithin(model: Model, budget: number): number {
  const { numLayers, intermediateSize, hiddenSize } = model.config;
  const dense = weightsRead(model, numLayers * intermediateSize);
  const [least = 1] = sizeSteps(intermediateSize);
  const lowest = Math.ceil((weightsRead(model, numLayers * least) / dense) * 1000) / 1000;
  if (budget < lowest) {
    const why = "where each layer keeps a quarter of its neurons";
    throw new RangeError(`Expected \`budget\` to be at least ${lowest} for this model, ${why}, got \`${budget}\``);
  }
  return Math.floor((budget * dense - weightsRead(model, 0)) / (3 * hiddenSize));
}

/** Chooses the sizes of the layers. Resumes behind the last layer that was measured. */
export async function chooseSizes(job: RefactorJob, products: Products): Promise<Sizes> {
  const { model, options, sizes } = job;
  if (options.budget === undefined) return sizes;
  const steps = sizeSteps(model.config.intermediateSize);
  const curves = await measureCurves(job, steps, products);
  const layerSizes = divideBudget(curves, steps, neuronsWithin(model, options.budget));
  return resolveSizes({ ...options, layerSizes }, model.config);
}

/**
 * Measures the error of each layer at each size, relative to the stream's size, on the dense model's own stream.
 *
 * @param sizes - ascending
 */
async function measureCurves(
  { model, grouping, work, run, stages }: RefactorJob,
  sizes: readonly number[],
  products: Products,
): Promise<readonly Float64Array[]> {
  const { config } = model;
  const groups = sampled(grouping.groups, NEURON_TOKENS * config.intermediateSize);
  const stream = new TokenStream(config, groups, BATCH_TOKENS);
  const path = work.file(CURVES_FILE);
  const known = existsSync(path) ? await readArrays(path) : undefined;
  const errors = known ? arrayOf(known, "errors", "F64") : new Float64Array(config.numLayers * sizes.length);
  const hidden = known ? arrayOf(known, "hidden", "F32") : await stream.embed(model);
  const descending = sizes.toReversed();
  for (let layer = known ? (arrayOf(known, "done", "I32")[0] ?? 0) : 0; layer < config.numLayers; layer++) {
    const source = layerSource(model, layer);
    const moments = await runWeightedGram({ source, stream, options: run }, hidden);
    const { gram } = fitProblem(moments, moments, 1);
    const curve = await errorCurve(
      { gram, dense: (await readDense(source)).weight, ridge: RIDGE, products },
      descending,
    );
    errors.set(
      curve.toReversed().map((error) => (error * moments.count) / stream.numTokens),
      layer * sizes.length,
    );
    await writeArrays(path, Object.entries({ errors, hidden, done: Int32Array.of(layer + 1) }));
    stages.report("sizes", layer + 1, config.numLayers);
  }
  return Array.from({ length: config.numLayers }, (_, layer) =>
    errors.subarray(layer * sizes.length, (layer + 1) * sizes.length),
  );
}

/** Takes some sequences of each group, at equal distances: a share of all, or as many as have `tokens` together. */
function sampled(groups: RefactorJob["grouping"]["groups"], tokens: number): RefactorJob["grouping"]["groups"] {
  const length = groups[0]?.[0]?.length ?? 1;
  const least = Math.ceil(tokens / length / groups.length);
  return groups.map((group) => {
    const count = Math.min(group.length, Math.max(least, Math.ceil(group.length * TEXT_SHARE)));
    return Array.from({ length: count }, (_, index) => group[Math.floor((index * group.length) / count)]!);
  });
}
