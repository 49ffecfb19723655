// Takes a shard of the text through the end of one layer and the beginning of the next: everything that needs neither
// other shards nor the experts of this layer.

import { layerSource } from "../layers/layer-source.ts";
import { addErrors, runDense, runExperts, runMoments, runOverlaps, type LayerPass } from "../layers/run-layer.ts";
import type { Batch } from "../layers/token-stream.ts";
import { paperTargets } from "../router-training/router-targets.ts";
import type { Artefact } from "./artefact.ts";
import { shardAt, type FitSetting } from "./fit-setting.ts";
import {
  momentArrays,
  readLayer,
  readStates,
  statesArtefact,
  type FittedFamilies,
  type ShardStates,
} from "./results.ts";
import type { Shard } from "./shards.ts";
import { STATIC_MOMENTS, momentsPart } from "./task.ts";

/** Streams between two layers. */
interface BetweenLayers {
  readonly dense: Float32Array;
  /** Stream that the experts of the next layer are fitted to. */
  readonly fitted: Float32Array;
  readonly static: Float32Array;
  readonly costs: Float32Array;
}

/** Inputs of a pass, behind the first layer. */
export interface PassInputs {
  /** Result of the shard's pass before; it is overwritten. */
  readonly states: Artefact;
  /** Result of the layer before. */
  readonly layer: Artefact;
}

const NONE = new Float32Array(0);

/**
 * Takes a shard through the end of the layer before `layer` and the beginning of `layer`; behind the last layer, only
 * that one ends.
 *
 * @param inputs - reads what the layer before left; not called for the first layer
 */
export async function runPass(
  setting: FitSetting,
  { layer, shard: index }: { readonly layer: number; readonly shard: number },
  inputs: () => Promise<PassInputs>,
): Promise<ReadonlyMap<string, Artefact>> {
  const shard = shardAt(setting, index);
  const between = layer === 0 ? await embed(setting, shard) : await endLayer(setting, shard, layer - 1, inputs);
  if (layer < setting.bounds.numLayers) return beginLayer(setting, shard, layer, between);
  const empty = { dense: NONE, attended: NONE, goalRows: NONE, goalWeights: NONE, static: NONE };
  return new Map([["states", statesArtefact({ ...empty, costs: between.costs })]]);
}

async function embed({ model, options, bounds }: FitSetting, shard: Shard): Promise<BetweenLayers> {
  const { stream, staticStream } = shard;
  const dense = await stream.embed(model);
  return {
    dense,
    fitted: options.method === "sequential" ? dense.slice() : NONE,
    static: staticStream ? await staticStream.embed(model) : NONE,
    costs: new Float32Array(stream.numTokens * bounds.numExperts),
  };
}

async function endLayer(
  setting: FitSetting,
  shard: Shard,
  index: number,
  inputs: () => Promise<PassInputs>,
): Promise<BetweenLayers> {
  // The inputs are read here, so that the goal's memory is free again before the next layer begins.
  const read = await inputs();
  const states = readStates(read.states);
  const { ours, static: single } = readLayer(read.layer).families;
  if (!ours) throw new TypeError(`Expected layer ${index} to have experts, got none`);
  const { dense, attended, costs } = states;
  const pass = passOf(setting, shard, index);
  await addCosts(setting, shard, { pass, states, layer: ours });
  const isSequential = setting.options.method === "sequential";
  if (isSequential) await runExperts(pass, attended, ours, (domain) => shard.experts[domain] ?? 0);
  if (single && shard.staticStream) {
    await runExperts({ ...pass, stream: shard.staticStream }, states.static, single, () => 0);
  }
  return { dense, fitted: isSequential ? attended : NONE, static: states.static, costs };
}

/**
 * Adds a layer's costs for the router: squared errors relative to the stream's size; for the paper's experts, the
 * negated targets of its router's loss, averaged over layers.
 */
async function addCosts(
  { options, bounds, share }: FitSetting,
  { costBatches }: Shard,
  {
    pass,
    states,
    layer,
  }: { readonly pass: LayerPass; readonly states: ShardStates; readonly layer: FittedFamilies["families"][string] },
): Promise<void> {
  const { attended, goalRows, goalWeights, costs } = states;
  const wants = (batch: Batch): boolean => costBatches.has(batch);
  if (options.method !== "paper") {
    const inputs = { attended, goal: { rows: goalRows, weights: goalWeights } };
    return addErrors(pass, inputs, layer, { share, costs, wants });
  }
  const { numExperts, numLayers } = bounds;
  const onScores = (batch: Batch, scores: Float32Array): void => {
    const own = pass.stream.view(costs, batch, numExperts);
    paperTargets(scores, numExperts).forEach((value, at) => (own[at]! -= value / numLayers));
  };
  await runOverlaps(pass, attended, layer, { wants, onScores });
}

async function beginLayer(
  setting: FitSetting,
  shard: Shard,
  index: number,
  { dense, fitted, static: single, costs }: BetweenLayers,
): Promise<ReadonlyMap<string, Artefact>> {
  const { options, share } = setting;
  const { stream, heldBack, staticStream, staticSequences, experts } = shard;
  const pass = passOf(setting, shard, index);
  const attended = options.method === "sequential" ? fitted : dense.slice();
  const { goal, magnitudes } = await runDense(pass, dense, share);
  const counts = (batch: Batch): boolean => !heldBack.has(batch);
  const moments = await runMoments(pass, attended, { goal: goal.rows, share }, { counts });
  const statistics = new Map(
    experts.flatMap((expert, domain) => [
      ...momentArrays(momentsPart(expert), moments[domain]!),
      [magnitudesOf(expert), magnitudes[domain]!] as const,
    ]),
  );
  if (staticStream) {
    const target = { goal: stream.pick(goal.rows, staticSequences), share };
    const [pooled] = await runMoments({ ...pass, stream: staticStream }, single, target, { isPooled: true });
    for (const [name, values] of momentArrays(STATIC_MOMENTS, pooled!)) statistics.set(name, values);
  }
  const states = { dense, attended, goalRows: goal.rows, goalWeights: goal.weights, static: single, costs };
  return new Map<string, Artefact>([
    ["states", statesArtefact(states)],
    ["statistics", statistics],
  ]);
}

/** Names the sums of each neuron's magnitude on an expert's text. */
export function magnitudesOf(expert: number): string {
  return `magnitudes-${expert}`;
}

/** Pairs a shard with a layer. */
export function passOf({ model, run }: FitSetting, { stream }: Shard, index: number): LayerPass {
  return { source: layerSource(model, index), stream, options: run };
}
