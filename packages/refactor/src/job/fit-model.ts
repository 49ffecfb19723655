// All layers, one after the other: the dense model runs on one stream, what becomes of it on others beside it.

import type { Model } from "@readme-moe/model";
import { relativeErrorOf, remainder } from "../experts/fit-part.ts";
import { fitLayer, type FitSettings, type FittedLayer } from "../experts/fit-layer.ts";
import type { LayerExperts } from "../experts/layer-experts.ts";
import { fitProblem, type Moments } from "../experts/moments.ts";
import { paperLayer } from "../experts/paper-layer.ts";
import { layerSource, readDense, type DenseDown, type LayerSource } from "../layers/layer-source.ts";
import {
  addErrors,
  runDense,
  runExperts,
  runMoments,
  runOverlaps,
  type Goal,
  type PassOptions,
} from "../layers/run-layer.ts";
import { TokenStream, type Batch } from "../layers/token-stream.ts";
import type { Products } from "../linear-algebra/products.ts";
import { paperTargets } from "../router-training/router-targets.ts";
import { randomLayer, staticLayer } from "./baseline-experts.ts";
import { heldBackBatches, ownErrors } from "./choose-sharing.ts";
import { readFigures, readSizes, writeLayerFile, type LayerFigures, type LayerSizes } from "./layer-file.ts";
import type { WorkFolder } from "./work-folder.ts";

/** How a model is taken apart. */
export interface FitPlan {
  readonly settings: FitSettings;
  /** Neurons that all experts share: of several, each layer takes what errs least on batches held back. */
  readonly sharedSizes: readonly number[];
  /** Takes the paper's experts instead of fitted ones. */
  readonly isPaper: boolean;
  /** One neuron less of the paper's, see `paperNeurons`. */
  readonly isOfficialCount: boolean;
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
  /**
   * `[tokens, experts]`, zeros but for `costSequences`: squared errors relative to the stream's size, summed over layers. Of the
   * paper's experts, what its router's loss compares with, negated: the mean of distributions over experts.
   */
  readonly costs: Float32Array;
  readonly costSequences: readonly number[];
  /** Of each layer. */
  readonly figures: readonly LayerFigures[];
  readonly sizes: readonly LayerSizes[];
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
  const { numLayers } = config;
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
  const heldBack: ReadonlySet<Batch> = plan.sharedSizes.length > 1 ? heldBackBatches(stream) : new Set();
  const figures: LayerFigures[] = [];
  const firstLayer = await work.loadStreams(state);
  for (let index = 0; index < firstLayer; index++) figures.push(await readFigures(work.layerFile(index)));
  let savedMs = nowMs();
  for (let index = firstLayer; index < config.numLayers; index++) {
    const source = layerSource(model, index);
    const context = { source, numLayers, stream, staticStream, costBatches, heldBack, plan, options };
    figures.push(await fitOne(context, state));
    options.onLayer(index + 1, config.numLayers);
    if (nowMs() - savedMs < checkpointMs && index + 1 < config.numLayers) continue;
    await work.saveStreams(index + 1, state);
    savedMs = nowMs();
  }
  const sizes: LayerSizes[] = [];
  for (let index = 0; index < config.numLayers; index++) sizes.push(await readSizes(work.layerFile(index), "ours"));
  return { stream, costs: state.costs, costSequences: [...costBatches].flatMap(sequencesOf), figures, sizes };
}

interface LayerContext {
  readonly source: LayerSource;
  readonly numLayers: number;
  readonly stream: TokenStream;
  readonly staticStream: TokenStream;
  readonly costBatches: ReadonlySet<Batch>;
  /** Where experts are chosen among, text that is not fitted to. */
  readonly heldBack: ReadonlySet<Batch>;
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
  const { source, plan, options } = context;
  const { products, work } = options;
  const { settings } = plan;
  const share = plan.isSequential ? plan.errorShare : 0;
  const fitted = plan.isSequential ? state.fitted : state.dense.slice();
  const { goal, magnitudes } = await runDense(context, state.dense, share);
  const isHeldBack = (batch: Batch): boolean => context.heldBack.has(batch);
  const counts = (batch: Batch): boolean => !isHeldBack(batch);
  const moments = await runMoments(context, fitted, { goal: goal.rows, share }, { counts });
  const down = await readDense(source);
  const paper = paperLayer(magnitudes, settings.usedSize, down, plan.isOfficialCount);
  const layer = plan.isPaper
    ? { ...paper, relativeErrors: await errorsOnOwnText(paper, moments, products) }
    : await fitBest(context, { attended: fitted, goal }, moments, down);
  await addCosts(context, { attended: fitted, goal }, layer, state.costs);
  if (plan.isSequential) await runExperts(context, fitted, layer, (domain) => domain);
  const families: Record<string, LayerExperts> = { ours: layer };
  const figures: Record<string, readonly number[]> = { ours: layer.relativeErrors };
  if (plan.baselines) {
    const single = await fitStatic(context, state, goal.rows, share, down);
    families["static"] = single;
    figures["static"] = single.relativeErrors;
    families["paper"] = paper;
    families["random"] = await randomLayer(moments, down, settings, products, plan.seed + source.index);
  }
  await writeLayerFile(work.layerFile(source.index), families, figures);
  return figures;
}

/** For the router to learn from: see `FittedModel`. */
async function addCosts(
  context: LayerContext,
  states: { readonly attended: Float32Array; readonly goal: Goal },
  layer: LayerExperts,
  costs: Float32Array,
): Promise<void> {
  const { stream, costBatches, numLayers, plan } = context;
  const wants = (batch: Batch): boolean => costBatches.has(batch);
  if (!plan.isPaper) {
    const share = plan.isSequential ? plan.errorShare : 0;
    return addErrors(context, states, layer, { share, costs, wants });
  }
  const numExperts = layer.experts.length;
  const onScores = (batch: Batch, scores: Float32Array): void => {
    const own = stream.view(costs, batch, numExperts);
    paperTargets(scores, numExperts).forEach((value, at) => (own[at] = (own[at] as number) - value / numLayers));
  };
  await runOverlaps(context, states.attended, layer, { wants, onScores });
}

/** With the shared part that errs least, where there is a choice. */
async function fitBest(
  context: LayerContext,
  states: { readonly attended: Float32Array; readonly goal: Goal },
  moments: readonly Moments[],
  down: DenseDown,
): Promise<FittedLayer> {
  const { heldBack, plan, options } = context;
  const share = plan.isSequential ? plan.errorShare : 0;
  let best: { readonly layer: FittedLayer; readonly error: number } | undefined;
  for (const sharedSize of plan.sharedSizes) {
    const layer = await fitLayer(moments, down, { ...plan.settings, sharedSize }, options.products);
    if (heldBack.size === 0) return layer;
    const error = await ownErrors(context, states, layer, { share, batches: heldBack });
    if (best === undefined || error < best.error) best = { layer, error };
  }
  if (best === undefined) throw new RangeError("Expected `sharedSizes` to have an entry, got none");
  return best.layer;
}

/** On its own stream. */
async function fitStatic(
  { source, stream, staticStream, plan, options }: LayerContext,
  state: FitState,
  goal: Float32Array,
  share: number,
  down: DenseDown,
): Promise<FittedLayer> {
  const own = thin(stream, goal, plan.staticEvery);
  const pass = { source, stream: staticStream, options };
  const [moments] = await runMoments(pass, state.static, { goal: own, share }, { isPooled: true });
  const layer = await staticLayer(moments as Moments, down, plan.settings, options.products);
  await runExperts(pass, state.static, layer, () => 0);
  return layer;
}

async function errorsOnOwnText(
  { shared, experts }: LayerExperts,
  moments: readonly Moments[],
  products: Products,
): Promise<readonly number[]> {
  const errors: number[] = [];
  for (const [index, part] of experts.entries()) {
    const own = moments[index] as Moments;
    const problem = fitProblem(own, own, 1);
    errors.push(await relativeErrorOf(shared ? await remainder(problem, shared, products) : problem, part, products));
  }
  return errors;
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
  const kept = stream.sequences.flatMap((_, index) => ((index - firstOf(stream, index)) % every === 0 ? [index] : []));
  return stream.pick(states, kept);
}
