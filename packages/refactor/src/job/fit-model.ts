// Fits the experts of all layers, one layer after the other, here or on the machines of a fleet. The dense model runs
// on one token stream; the refactored model and the baseline without routing run on two others beside it.

import type { TokenStream } from "../layers/token-stream.ts";
import type { Products } from "../linear-algebra/products.ts";
import { fitSetting } from "../tasks/fit-setting.ts";
import { openFitWork, type FitWork } from "../tasks/fit-work.ts";
import { readCosts, type TaskRunner } from "../tasks/task-runner.ts";
import { fitsOf, passesOf, type Task, type TaskBounds } from "../tasks/task.ts";
import { readFigures, readSizes, type LayerFigures, type LayerSizes } from "./layer-file.ts";
import type { RefactorJob } from "./refactor-job.ts";

export interface FittedModel {
  readonly stream: TokenStream;
  /**
   * Costs of each expert, `[tokens, experts]`: squared errors relative to the stream's size, summed over layers; zeros
   * outside of `costSequences`. For the paper's experts, the negated targets of its router's loss, averaged over
   * layers.
   */
  readonly costs: Float32Array;
  readonly costSequences: readonly number[];
  /** Figures of each layer. */
  readonly figures: readonly LayerFigures[];
  readonly sizes: readonly LayerSizes[];
  /** Removes the results that machines share; called when the model is written. */
  readonly removeResults: () => Promise<void>;
}

/** Fits all layers; one expert is made of each group of sequences. Resumes from finished results. */
export async function fitModel(job: RefactorJob, products: Products): Promise<FittedModel> {
  const { model, grouping, options, work, stages, run, fingerprint } = job;
  const plan = { options, groups: grouping.groups };
  const setting = fitSetting(plan, { model, products, run });
  const { bounds, text } = setting;
  const { numLayers } = bounds;
  const fitWork = await openFitWork({ setting, plan, work, run, fingerprint });
  const { runner } = fitWork;
  let isDone = true;
  for (let layer = 0; layer < numLayers; layer++) {
    const whole: Task = { kind: "layer", layer };
    isDone &&= await runner.isDone(whole);
    if (!isDone) await fitOne(fitWork, bounds, layer);
    await fitWork.keepLayer(layer);
    if (!isDone) {
      await removeUsed(runner, bounds, layer);
      await fitWork.checkpoint(false);
    }
    stages.report("layers", layer + 1, numLayers);
  }
  const last: Task = { kind: "costs" };
  await fitWork.run(passesOf(numLayers, bounds), last);
  const costs = readCosts(await runner.read(last));
  await fitWork.checkpoint(true);
  const layers = Array.from({ length: numLayers }, (_, index) => work.layerFile(index));
  return {
    stream: text.stream,
    costs,
    costSequences: text.costSequences,
    figures: await Promise.all(layers.map(readFigures)),
    sizes: await Promise.all(layers.map((path) => readSizes(path, "ours"))),
    removeResults: fitWork.removeResults,
  };
}

async function fitOne(work: FitWork, bounds: TaskBounds, layer: number): Promise<void> {
  await work.run(passesOf(layer, bounds), { kind: "pool", layer });
  await work.run(fitsOf(layer, bounds), { kind: "layer", layer });
}

/** Removes what no later layer reads: everything but the layer and the streams behind its attention. */
async function removeUsed(runner: TaskRunner, bounds: TaskBounds, layer: number): Promise<void> {
  for (const task of [{ kind: "pool", layer } as const, ...fitsOf(layer, bounds)]) await runner.remove(task);
  for (const task of passesOf(layer, bounds)) await runner.remove(task, "statistics");
  for (const task of layer > 0 ? passesOf(layer - 1, bounds) : []) await runner.remove(task);
}
