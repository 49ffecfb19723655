// Tasks of a fit: passes of shards through a layer, and a layer's experts out of the statistics of all shards.

import type { Model } from "@readme-moe/model";
import {
  type FitSettings,
  errorOfExpert,
  fitExpert,
  fitRandomExpert,
  fitShared,
  type ExpertMoments,
  type LayerFit,
} from "../experts/fit-layer.ts";
import { addInto, pooled, type Moments } from "../experts/moments.ts";
import { type LayerExperts, type Part, paperLayer } from "../experts/select.ts";
import { layerSource, readDense } from "../layers/layer-graphs.ts";
import {
  goalOfBatch,
  type PassOptions,
  runDense,
  runExperts,
  runMoments,
  runOverlaps,
  type LayerPass,
} from "../layers/run-layer.ts";
import type { Batch } from "../layers/token-stream.ts";
import type { Products } from "../linear-algebra/matrix.ts";
import { errorShareOf, resolveSizes, type ResolvedOptions, type Sizes } from "../options.ts";
import { paperTargets } from "../router-training/routes.ts";
import {
  arrayOf,
  type Artefact,
  expertArrays,
  momentArrays,
  partArrays,
  readExperts,
  readMoments,
  readPart,
  readLayer,
  readStates,
  statesArtefact,
  type Values,
} from "./results.ts";
import {
  shardText,
  type Shard,
  type ShardedText,
  type TaskBounds,
  ALL_MOMENTS,
  momentsPart,
  STATIC_MOMENTS,
  type FitFamily,
} from "./task.ts";

/** Inputs of a fit that decide its result, beside the model. */
export interface FitPlan {
  readonly options: ResolvedOptions;
  /** Calibration sequences of each expert, all of equal length. */
  readonly groups: readonly (readonly Int32Array[])[];
}

export interface FitSetting {
  readonly model: Pick<Model, "config" | "weights">;
  readonly options: ResolvedOptions;
  readonly text: ShardedText;
  readonly bounds: TaskBounds;
  readonly sizes: Sizes;
  /** Share of the error so far that each layer makes up for, see `errorShareOf`. */
  readonly share: number;
  readonly products: Products;
  readonly run: PassOptions;
}

/** Means of a machine: a model, products and options of the runtime. */
type FitMachine = Pick<FitSetting, "model" | "products" | "run">;

export function fitSetting({ options, groups }: FitPlan, machine: FitMachine): FitSetting {
  const { config } = machine.model;
  const sizes = resolveSizes(options, config);
  const { shards, baselines } = options;
  const hasChoice = sizes.sharedSizes.length > 1;
  const text = shardText(config, groups, { shards, baselines, holdsBack: hasChoice });
  // Too little text to hold some back leaves no choice.
  const canChoose = hasChoice && text.shards.some(({ heldBack }) => heldBack.size > 0);
  const sharedSizes = canChoose ? sizes.sharedSizes : sizes.sharedSizes.slice(0, 1);
  const bounds = {
    numLayers: config.numLayers,
    numShards: text.shards.length,
    numExperts: groups.length,
    numSizes: sharedSizes.length,
    baselines,
  };
  return { ...machine, options, text, bounds, sizes: { ...sizes, sharedSizes }, share: errorShareOf(options) };
}

/** @param size - index of the shared sizes to choose among */
function settingsOf({ options: { method }, sizes }: FitSetting, layer: number, size: number): FitSettings {
  return {
    usedSize: sizes.usedSizes[layer] ?? 0,
    sharedSize: sizes.sharedSizes[size]?.[layer] ?? 0,
    selection: method === "select" ? "contribution" : "elimination",
    refits: method === "refit" || method === "sequential",
    ownShare: 0.6,
    ridge: 1e-3,
  };
}

/** Finds a shard. @throws {RangeError} when there is none */
function shardAt({ text }: FitSetting, index: number): Shard {
  const shard = text.shards[index];
  if (shard) return shard;
  throw new RangeError(`Expected a shard below ${text.shards.length}, got ${index}`);
}

// Tasks that make a layer's experts out of the statistics of all shards.

/** Name of the moments in a part of a pool; the part's name says whose they are. */
const MOMENTS = "moments";
/** Name of the paper's experts in the parts of a pool. */
const PAPER = "paper";

function sharedName(size: number): string {
  return `shared-${size}`;
}

/** Adds a shard's statistics, all of which are sums, to those of earlier shards. */
function addStatistics(sums: Map<string, Values>, statistics: Artefact): void {
  for (const [name, values] of statistics) {
    const sum = sums.get(name);
    if (sum) addInto(sum, values);
    else sums.set(name, values);
  }
}

/**
 * Adds up the statistics of all shards, and makes what all experts need: the paper's experts, and a shared part of each
 * size.
 *
 * @param statisticsOf - reads a shard's statistics; they may be overwritten
 */
export async function runPool(
  setting: FitSetting,
  layer: number,
  statisticsOf: (shard: number) => Promise<Artefact>,
): Promise<ReadonlyMap<string, Artefact>> {
  const { bounds, options, sizes } = setting;
  const { numExperts, numShards, baselines } = bounds;
  const sums = new Map<string, Values>();
  for (let shard = 0; shard < numShards; shard++) addStatistics(sums, await statisticsOf(shard));
  const own = Array.from({ length: numExperts }, (_, expert) => requiredMoments(sums, momentsPart(expert)));
  const magnitudes = Array.from(own, (_, expert) => arrayOf(sums, magnitudesOf(expert), "F64"));
  const all = pooled(own);
  const fit = await layerFit(setting, layer);
  const { usedSize } = fit.settings;
  const parts = new Map(expertArrays(PAPER, paperLayer(magnitudes, usedSize, fit.dense, options.officialCount)));
  for (const size of options.method === "paper" ? [] : sizes.sharedSizes.keys()) {
    const shared = await fitShared(all, { ...fit, settings: settingsOf(setting, layer, size) });
    for (const [name, values] of shared ? partArrays(sharedName(size), shared) : []) parts.set(name, values);
  }
  return new Map<string, Artefact>([
    ...own.map((one, expert) => pooledMoments(momentsPart(expert), one)),
    pooledMoments(ALL_MOMENTS, all),
    ...(baselines ? [pooledMoments(STATIC_MOMENTS, requiredMoments(sums, STATIC_MOMENTS))] : []),
    ["parts", parts],
  ]);
}

function pooledMoments(part: string, moments: Moments): readonly [part: string, artefact: Artefact] {
  return [part, new Map(momentArrays(MOMENTS, moments))];
}

type ReadPool = (part: string) => Promise<Artefact>;

/** Fits one expert of a family. */
export async function runFit(
  setting: FitSetting,
  task: { readonly layer: number; readonly family: FitFamily; readonly expert: number; readonly size: number },
  pool: ReadPool,
): Promise<Artefact> {
  const { layer, family, expert, size } = task;
  const fit = await layerFit(setting, layer);
  if (family === "static") {
    const own = await readMomentsOf(pool, STATIC_MOMENTS);
    const settings = { ...fit.settings, sharedSize: 0, refits: true };
    return partArtefact(await fitExpert({ own, all: own }, undefined, { ...fit, settings }));
  }
  if (family === "random") {
    const drawn = { seed: setting.options.seed + layer, expert };
    return partArtefact(await fitRandomExpert(await expertMoments(pool, expert), fit, drawn));
  }
  const parts = await pool("parts");
  if (setting.options.method === "paper")
    return paperFit(parts, await readMomentsOf(pool, momentsPart(expert)), expert, fit);
  const settings = settingsOf(setting, layer, size);
  const shared = readPart(parts, sharedName(size));
  return partArtefact(await fitExpert(await expertMoments(pool, expert), shared, { ...fit, settings }));
}

/** Measures one of the paper's experts, which is not fitted. */
async function paperFit(parts: Artefact, own: Moments, expert: number, { products }: LayerFit): Promise<Artefact> {
  const { shared, experts } = paperExperts(parts);
  const part = experts[expert];
  if (!part) throw new RangeError(`Expected an expert below ${experts.length}, got ${expert}`);
  return partArtefact({ ...part, relativeError: await errorOfExpert(own, { shared, part }, products) });
}

/** Puts the experts of one shared size together. */
export function joinExperts(
  { options }: FitSetting,
  { parts, fits, size }: { readonly parts: Artefact; readonly fits: readonly Artefact[]; readonly size: number },
): LayerExperts & { readonly relativeErrors: readonly number[] } {
  const shared = options.method === "paper" ? paperExperts(parts).shared : readPart(parts, sharedName(size));
  return { shared, experts: fits.map(fittedPart), relativeErrors: fits.map(errorIn) };
}

export function paperExperts(parts: Artefact): LayerExperts {
  return readExperts(parts, PAPER);
}

const PART = "part";
const ERROR = "relativeError";

function partArtefact(part: Part & { readonly relativeError?: number }): Artefact {
  return new Map([...partArrays(PART, part), [ERROR, Float64Array.of(part.relativeError ?? NaN)]]);
}

export function fittedPart(fitted: Artefact): Part {
  const part = readPart(fitted, PART);
  if (part) return part;
  throw new TypeError("Expected the result of a fit to have a part, got none");
}

function errorIn(fitted: Artefact): number {
  return arrayOf(fitted, ERROR, "F64")[0] ?? NaN;
}

async function layerFit(setting: FitSetting, layer: number): Promise<LayerFit> {
  const { model, products } = setting;
  return { dense: await readDense(layerSource(model, layer)), settings: settingsOf(setting, layer, 0), products };
}

async function expertMoments(pool: ReadPool, expert: number): Promise<ExpertMoments> {
  return { own: await readMomentsOf(pool, momentsPart(expert)), all: await readMomentsOf(pool, ALL_MOMENTS) };
}

async function readMomentsOf(pool: ReadPool, part: string): Promise<Moments> {
  return requiredMoments(await pool(part), MOMENTS);
}

function requiredMoments(artefact: Artefact, prefix: string): Moments {
  const moments = readMoments(artefact, prefix);
  if (moments) return moments;
  throw new TypeError(`Expected an artefact to have the moments \`${prefix}\`, got none`);
}

// Takes a shard of the text through the end of one layer and the beginning of the next: everything that needs neither
// other shards nor the experts of this layer.

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
  const empty = { dense: NONE, fitted: NONE, goalRows: NONE, goalWeights: NONE, static: NONE };
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
  const { dense, fitted, costs, goalRows, goalWeights } = states;
  const pass = passOf(setting, shard, index);
  const { options, share, bounds } = setting;
  const isSequential = options.method === "sequential";
  const costsOf = (batch: Batch): Float32Array => pass.stream.view(costs, batch, bounds.numExperts);
  const wants = (batch: Batch): boolean => shard.costBatches.has(batch);
  if (options.method === "paper") {
    // Costs are the negated targets of the official router's loss, averaged over layers.
    const onScores = (batch: Batch, scores: Float32Array): void => {
      const own = costsOf(batch);
      paperTargets(scores, bounds.numExperts).forEach((value, at) => (own[at]! -= value / bounds.numLayers));
    };
    await runOverlaps(pass, fitted, ours, { wants, onScores });
  } else {
    const goal = { rows: goalRows, weights: goalWeights };
    await runExperts(pass, fitted, ours, {
      ...(isSequential ? { routesOf: ({ domain }) => shard.experts[domain] ?? 0 } : {}),
      goalOf: (batch) => (wants(batch) ? goalOfBatch(pass.stream, goal, batch) : undefined),
      share,
      onErrors: (batch, errors) => addInto(costsOf(batch), errors),
    });
  }
  if (single && shard.staticStream) {
    await runExperts({ ...pass, stream: shard.staticStream }, states.static, single, { routesOf: () => 0 });
  }
  return { dense, fitted: isSequential ? fitted : NONE, static: states.static, costs };
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
  const before = options.method === "sequential" ? fitted : dense.slice();
  const { goal, magnitudes } = await runDense(pass, dense, share);
  const counts = (batch: Batch): boolean => !heldBack.has(batch);
  const moments = await runMoments(pass, before, { goal: goal.rows, share }, { counts });
  const statistics = new Map(
    experts.flatMap((expert, domain) => [
      ...momentArrays(momentsPart(expert), moments[domain]!),
      [magnitudesOf(expert), magnitudes[domain]!] as const,
    ]),
  );
  if (staticStream) {
    const target = { goal: stream.pick(goal.rows, staticSequences), share };
    const [ofStatic] = await runMoments({ ...pass, stream: staticStream }, single, target, { isPooled: true });
    for (const [name, values] of momentArrays(STATIC_MOMENTS, ofStatic!)) statistics.set(name, values);
  }
  const states = { dense, fitted: before, goalRows: goal.rows, goalWeights: goal.weights, static: single, costs };
  return new Map<string, Artefact>([
    ["states", statesArtefact(states)],
    ["statistics", statistics],
  ]);
}

/** Names the sums of each neuron's magnitude on an expert's text. */
function magnitudesOf(expert: number): string {
  return `magnitudes-${expert}`;
}

export function passOf({ model, run }: FitSetting, { stream }: Shard, index: number): LayerPass {
  return { source: layerSource(model, index), stream, options: run };
}
