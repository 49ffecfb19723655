// All layers, one after the other: the dense model runs on one stream, what becomes of it on others beside it.

import type { Model } from "@readme-moe/model";
import { densePart, fitPart, relativeErrorOf } from "../experts/fit-part.ts";
import { fitLayer, pooled, type FitSettings } from "../experts/fit-layer.ts";
import type { LayerExperts } from "../experts/layer-experts.ts";
import { fitProblem, type Moments } from "../experts/moments.ts";
import { paperNeurons } from "../experts/select.ts";
import { layerSource, readDense, type DenseDown, type LayerSource } from "../layers/layer-source.ts";
import { addErrors, runDense, runExperts, runMoments, type PassOptions } from "../layers/run-layer.ts";
import { TokenStream, type Batch } from "../layers/token-stream.ts";
import type { Products } from "../linear-algebra/products.ts";
import { seededRandom, shuffled } from "../random.ts";
import { readFigures, writeLayerFile, type LayerFigures } from "./layer-file.ts";
import type { WorkFolder } from "./work-folder.ts";

/** How a model is taken apart. */
export interface FitPlan {
  /** Per layer. */
  readonly layers: readonly FitSettings[];
  /** Takes the paper's experts instead of fitted ones. */
  readonly isPaper: boolean;
  /** Fits each layer to what comes out of the fitted layers before it; else to what comes out of the dense ones. */
  readonly isSequential: boolean;
  /** Sequential only: the share of the error so far that a layer is to make good. */
  readonly errorShare: number;
  /** Every so many batches of sequences, errors of all experts are measured, for the router to learn from. */
  readonly costEvery: number;
  /** Every so many sequences take part in the baseline without routing. */
  readonly staticEvery: number;
  /** Also fits what results are compared with. */
  readonly baselines: boolean;
  readonly seed: number;
}

export interface FitOptions extends PassOptions {
  readonly work: WorkFolder;
  readonly products: Products;
  /** How much work a killed process loses at most, about. */
  readonly checkpointMs: number;
  readonly nowMs: () => number;
  readonly onLayer: (done: number, of: number) => void;
}

export interface FittedModel {
  readonly stream: TokenStream;
  /** `[tokens, experts]`, squared errors relative to the stream's size, summed over layers; zeros but for `costSequences`. */
  readonly costs: Float32Array;
  readonly costSequences: readonly number[];
  /** Of each layer. */
  readonly figures: readonly LayerFigures[];
}

// Tokens that run together: more make larger products, and larger arrays.
const BATCH_TOKENS = 1024;

/** @param calibration - by domain, sequences of equal length; one expert is made of each domain */
export async function fitModel(
  model: Pick<Model, "config" | "weights">,
  calibration: readonly (readonly Int32Array[])[],
  plan: FitPlan,
  options: FitOptions,
): Promise<FittedModel> {
  const { config } = model;
  const { work, nowMs, checkpointMs } = options;
  const stream = new TokenStream(config, calibration, BATCH_TOKENS);
  const thinned = calibration.map((sequences) => sequences.filter((_, index) => index % plan.staticEvery === 0));
  const staticStream = new TokenStream(config, thinned, BATCH_TOKENS);
  const dense = await stream.embed(model);
  const state = {
    dense,
    fitted: plan.isSequential ? dense.slice() : new Float32Array(0),
    static: plan.baselines ? await staticStream.embed(model) : new Float32Array(0),
    costs: new Float32Array(stream.numTokens * calibration.length),
  };
  const costBatches = new Set(stream.batches.filter((_, index) => index % plan.costEvery === 0));
  const figures: LayerFigures[] = [];
  const firstLayer = await work.loadStreams(state);
  for (let index = 0; index < firstLayer; index++) figures.push(await readFigures(work.layerFile(index)));
  let savedMs = nowMs();
  for (let index = firstLayer; index < config.numLayers; index++) {
    const context = { source: layerSource(model, index), stream, staticStream, costBatches, plan, options };
    figures.push(await fitOne(context, state));
    options.onLayer(index + 1, config.numLayers);
    if (nowMs() - savedMs < checkpointMs && index + 1 < config.numLayers) continue;
    await work.saveStreams(index + 1, state);
    savedMs = nowMs();
  }
  return { stream, costs: state.costs, costSequences: [...costBatches].flatMap(sequencesOf), figures };
}

interface LayerContext {
  readonly source: LayerSource;
  readonly stream: TokenStream;
  readonly staticStream: TokenStream;
  readonly costBatches: ReadonlySet<Batch>;
  readonly plan: FitPlan;
  readonly options: FitOptions;
}

/** Streams behind the layer before; `fitted` and `static` are empty where there are none. */
interface FitState {
  readonly dense: Float32Array;
  readonly fitted: Float32Array;
  readonly static: Float32Array;
  readonly costs: Float32Array;
}

async function fitOne(context: LayerContext, state: FitState): Promise<LayerFigures> {
  const { source, stream, plan, options } = context;
  const { products, work } = options;
  const share = plan.isSequential ? plan.errorShare : 0;
  const settings = plan.layers[source.index] as FitSettings;
  const fitted = plan.isSequential ? state.fitted : state.dense.slice();
  const { goal, magnitudes } = await runDense(source, stream, state.dense, share, options);
  const moments = await runMoments(source, stream, fitted, goal.rows, share, options);
  const down = await readDense(source);
  const paper = paperLayer(magnitudes, settings.expertSize + settings.sharedSize, down);
  const layer = plan.isPaper
    ? { ...paper, relativeErrors: await errorsOnOwnText(paper, moments, products) }
    : await fitLayer(moments, down, settings, products);
  const all = pooled(moments);
  await addErrors(source, stream, { attended: fitted, goal }, layer, { share, costs: state.costs }, options, (batch) =>
    context.costBatches.has(batch),
  );
  if (plan.isSequential) await runExperts(source, stream, fitted, layer, (domain) => domain, options);
  const families: Record<string, LayerExperts> = { ours: layer };
  const figures: Record<string, readonly number[]> = { ours: layer.relativeErrors };
  if (plan.baselines) {
    const single = await fitStatic(context, state, goal.rows, share, down);
    families["static"] = single;
    figures["static"] = single.relativeErrors;
    families["paper"] = paper;
    families["random"] = await randomLayer(context, moments, all, down);
  }
  await writeLayerFile(work.layerFile(source.index), families, figures);
  return figures;
}

/** One expert for everything, fitted like ours on its own stream. */
async function fitStatic(
  { source, stream, staticStream, plan, options }: LayerContext,
  state: FitState,
  goal: Float32Array,
  share: number,
  down: DenseDown,
): ReturnType<typeof fitLayer> {
  const own = thin(stream, goal, plan.staticEvery);
  const settings = plan.layers[source.index] as FitSettings;
  const size = settings.expertSize + settings.sharedSize;
  const moments = await runMoments(source, staticStream, state.static, own, share, options);
  const single = { ...settings, expertSize: size, sharedSize: 0, refits: true };
  const layer = await fitLayer([pooled(moments)], down, single, options.products);
  await runExperts(source, staticStream, state.static, layer, () => 0, options);
  return layer;
}

/** The paper's: neurons that all domains choose are shared, and nothing is fitted. */
function paperLayer(magnitudes: readonly Float64Array[], size: number, down: DenseDown): LayerExperts {
  const chosen = magnitudes.map((sums) => paperNeurons(sums, size));
  return { shared: undefined, experts: chosen.map((neurons) => densePart(neurons, down)) };
}

async function errorsOnOwnText(
  { experts }: LayerExperts,
  moments: readonly Moments[],
  products: Products,
): Promise<readonly number[]> {
  const errors: number[] = [];
  for (const [index, part] of experts.entries()) {
    const own = moments[index] as Moments;
    errors.push(await relativeErrorOf(fitProblem(own, own, 1), part, products));
  }
  return errors;
}

/** Neurons drawn by lot, fitted. */
async function randomLayer(
  { source, plan, options }: LayerContext,
  moments: readonly Moments[],
  all: Moments,
  down: DenseDown,
): Promise<LayerExperts> {
  const { expertSize, sharedSize, ownShare, ridge } = plan.layers[source.index] as FitSettings;
  const everything = Array.from({ length: source.config.intermediateSize }, (_, neuron) => neuron);
  const random = seededRandom(plan.seed + source.index);
  const experts = [];
  for (const own of moments) {
    const drawn = shuffled(everything, random() * 2 ** 32).slice(0, expertSize + sharedSize);
    const neurons = Int32Array.from(drawn).sort();
    experts.push(await fitPart(fitProblem(own, all, ownShare), neurons, down.weight, ridge, options.products));
  }
  return { shared: undefined, experts };
}

function sequencesOf({ firstSequence, numSequences }: Batch): readonly number[] {
  return Array.from({ length: numSequences }, (_, index) => firstSequence + index);
}

/** The first sequence of a sequence's domain. */
function firstOf({ domains }: TokenStream, sequence: number): number {
  return domains.indexOf(domains[sequence] as number);
}

/** States of every so-many-th sequence of each domain. */
function thin(stream: TokenStream, states: Float32Array, every: number): Float32Array {
  const size = states.length / stream.sequences.length;
  const kept = stream.sequences.flatMap((_, index) => ((index - firstOf(stream, index)) % every === 0 ? [index] : []));
  const result = new Float32Array(kept.length * size);
  kept.forEach((index, place) => result.set(states.subarray(index * size, (index + 1) * size), place * size));
  return result;
}
