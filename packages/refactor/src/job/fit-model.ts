// Fits the experts of all layers, one layer after the other. The dense model runs on one token stream; the refactored
// model and the baseline without routing run on two others beside it.

import { existsSync } from "node:fs";
import { fitLayer, fitRandomLayer, type FitSettings, type FittedLayer, type LayerFit } from "../experts/fit-layer.ts";
import { relativeErrorOf, remainder } from "../experts/fit-part.ts";
import type { LayerExperts } from "../experts/layer-experts.ts";
import { fitProblem, type Moments } from "../experts/moments.ts";
import { paperLayer } from "../experts/select.ts";
import { layerSource, readDense } from "../layers/layer-source.ts";
import {
  addErrors,
  runDense,
  runExperts,
  runMoments,
  runOverlaps,
  type AttendedStates,
  type LayerPass,
} from "../layers/run-layer.ts";
import { TokenStream, type Batch } from "../layers/token-stream.ts";
import type { Products } from "../linear-algebra/products.ts";
import type { ResolvedOptions, Sizes } from "../options.ts";
import { paperTargets } from "../router-training/router-targets.ts";
import { readFigures, readSizes, writeLayerFile, type LayerFigures, type LayerSizes } from "./layer-file.ts";
import { errorShareOf, type RefactorJob } from "./refactor-job.ts";
import { restoreArrays, withFile, writeArrays } from "./work-folder.ts";

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
}

/** Tokens of a batch. More make larger matrix products, and larger arrays. */
const BATCH_TOKENS = 1024;
/** The router learns from the experts' errors on every third batch. */
const COST_EVERY = 3;
/** The baseline without routing is fitted to every fourth sequence. */
const STATIC_EVERY = 4;
/** One of eight batches of each domain is held back when the shared size is chosen. */
const HELD_BACK_EVERY = 8;
const STATE_FILE = "state.safetensors";
const CHECKPOINT_MS = 30_000;

/** Fits all layers; one expert is made of each group of sequences. Resumes from the work folder. */
export async function fitModel(job: RefactorJob, products: Products): Promise<FittedModel> {
  const { model, grouping, options, sizes, work, stages, run } = job;
  const { config } = model;
  const { numLayers } = config;
  const calibration = grouping.groups;
  const stream = new TokenStream(config, calibration, BATCH_TOKENS);
  const thinned = calibration.map((sequences) => sequences.filter((_, index) => index % STATIC_EVERY === 0));
  const staticStream = new TokenStream(config, thinned, BATCH_TOKENS);
  const dense = await stream.embed(model);
  const isSequential = options.method === "sequential";
  const state = {
    dense,
    fitted: isSequential ? dense.slice() : new Float32Array(0),
    static: options.baselines ? await staticStream.embed(model) : new Float32Array(0),
    costs: new Float32Array(stream.numTokens * calibration.length),
  };
  const costBatches = new Set(stream.batches.filter((_, index) => index % COST_EVERY === 0));
  const heldBack: ReadonlySet<Batch> = sizes.sharedSizes.length > 1 ? heldBackBatches(stream) : new Set();
  const settings = fitSettings(options, sizes);
  const figures: LayerFigures[] = [];
  const firstLayer = await restoreState(work.file(STATE_FILE), state);
  for (let index = 0; index < firstLayer; index++) figures.push(await readFigures(work.layerFile(index)));
  let savedMs = performance.now();
  for (let index = firstLayer; index < numLayers; index++) {
    const pass = { source: layerSource(model, index), stream, options: run };
    const context = { job, pass, staticStream, costBatches, heldBack, settings, products, state };
    figures.push(await fitOne(context));
    stages.report("layers", index + 1, numLayers);
    const isDue = performance.now() - savedMs >= (run.checkpointMs ?? CHECKPOINT_MS);
    if (!isDue && index + 1 < numLayers) continue;
    await writeArrays(work.file(STATE_FILE), Object.entries(state), { nextLayer: `${index + 1}` });
    savedMs = performance.now();
  }
  const layerSizes: LayerSizes[] = [];
  for (let index = 0; index < numLayers; index++) layerSizes.push(await readSizes(work.layerFile(index), "ours"));
  return {
    stream,
    costs: state.costs,
    costSequences: [...costBatches].flatMap(sequencesOf),
    figures,
    sizes: layerSizes,
  };
}

/** Translates a method to the settings of its fits. */
function fitSettings({ method }: ResolvedOptions, { usedSize, sharedSizes: [sharedSize = 0] }: Sizes): FitSettings {
  return {
    usedSize,
    sharedSize,
    selection: method === "select" ? "contribution" : "elimination",
    refits: method === "refit" || method === "sequential",
    ownShare: 0.6,
    ridge: 1e-3,
  };
}

/** Streams after the layer before; `fitted` and `static` are empty when they are not needed. */
interface FitState {
  readonly dense: Float32Array;
  readonly fitted: Float32Array;
  readonly static: Float32Array;
  readonly costs: Float32Array;
}

/** Fills the streams with those of the last checkpoint. @returns the layer to continue with */
async function restoreState(path: string, state: FitState): Promise<number> {
  if (!existsSync(path)) return 0;
  return withFile(path, async (file) => {
    await restoreArrays(file, Object.entries(state));
    return Number(file.metadata.get("nextLayer"));
  });
}

interface LayerContext {
  readonly job: RefactorJob;
  readonly pass: LayerPass;
  readonly staticStream: TokenStream;
  readonly costBatches: ReadonlySet<Batch>;
  /** Text that is not fitted to, for choosing the shared size; empty when there is no choice. */
  readonly heldBack: ReadonlySet<Batch>;
  readonly settings: FitSettings;
  readonly products: Products;
  readonly state: FitState;
}

async function fitOne(context: LayerContext): Promise<LayerFigures> {
  const { job, pass, settings, products, state, heldBack } = context;
  const { options, work } = job;
  const { source } = pass;
  const share = errorShareOf(options);
  const isSequential = options.method === "sequential";
  const attended = isSequential ? state.fitted : state.dense.slice();
  const { goal, magnitudes } = await runDense(pass, state.dense, share);
  const counts = (batch: Batch): boolean => !heldBack.has(batch);
  const moments = await runMoments(pass, attended, { goal: goal.rows, share }, { counts });
  const dense = await readDense(source);
  const fit = { dense, settings, products };
  const inputs = { attended, goal };
  const paper = paperLayer(magnitudes, settings.usedSize, dense, options.officialCount);
  const layer =
    options.method === "paper"
      ? { ...paper, relativeErrors: await errorsOnOwnText(paper, moments, products) }
      : await fitBest(context, inputs, moments, fit);
  await addCosts(context, inputs, layer);
  if (isSequential) await runExperts(pass, attended, layer, (domain) => domain);
  const families: Record<string, LayerExperts> = { ours: layer };
  const figures: Record<string, readonly number[]> = { ours: layer.relativeErrors };
  if (options.baselines) {
    const single = await fitStatic(context, goal.rows, fit);
    families["static"] = single;
    figures["static"] = single.relativeErrors;
    families["paper"] = paper;
    families["random"] = await fitRandomLayer(moments, fit, options.seed + source.index);
  }
  await writeLayerFile(work.layerFile(source.index), families, figures);
  return figures;
}

/** Adds a layer's costs for the router, see `FittedModel`. */
async function addCosts(
  { job, pass, costBatches, state }: LayerContext,
  inputs: AttendedStates,
  layer: LayerExperts,
): Promise<void> {
  const { options, model } = job;
  const { costs } = state;
  const wants = (batch: Batch): boolean => costBatches.has(batch);
  if (options.method !== "paper") {
    return addErrors(pass, inputs, layer, { share: errorShareOf(options), costs, wants });
  }
  const numExperts = layer.experts.length;
  const { numLayers } = model.config;
  const onScores = (batch: Batch, scores: Float32Array): void => {
    const own = pass.stream.view(costs, batch, numExperts);
    paperTargets(scores, numExperts).forEach((value, at) => (own[at]! -= value / numLayers));
  };
  await runOverlaps(pass, inputs.attended, layer, { wants, onScores });
}

/** Fits with each shared size and returns the layer with the smallest error on the text that is held back. */
async function fitBest(
  { job, pass, heldBack }: LayerContext,
  inputs: AttendedStates,
  moments: readonly Moments[],
  fit: LayerFit,
): Promise<FittedLayer> {
  const { options, sizes } = job;
  const share = errorShareOf(options);
  let best: { readonly layer: FittedLayer; readonly error: number } | undefined;
  for (const sharedSize of sizes.sharedSizes) {
    const layer = await fitLayer(moments, { ...fit, settings: { ...fit.settings, sharedSize } });
    if (heldBack.size === 0) return layer;
    const error = await ownErrors(pass, inputs, layer, { share, batches: heldBack });
    if (best === undefined || error < best.error) best = { layer, error };
  }
  if (best === undefined) throw new RangeError("Expected `sharedSizes` to have an entry, got none");
  return best.layer;
}

/** Fits the baseline without routing on its own stream: one expert for all text, as wide as what a token uses. */
async function fitStatic(
  { job, pass, staticStream, state }: LayerContext,
  goal: Float32Array,
  fit: LayerFit,
): Promise<FittedLayer> {
  const own = { ...pass, stream: staticStream };
  const target = { goal: thin(pass.stream, goal, STATIC_EVERY), share: errorShareOf(job.options) };
  const moments = await runMoments(own, state.static, target, { isPooled: true });
  const layer = await fitLayer(moments, { ...fit, settings: { ...fit.settings, sharedSize: 0, refits: true } });
  await runExperts(own, state.static, layer, () => 0);
  return layer;
}

async function errorsOnOwnText(
  { shared, experts }: LayerExperts,
  moments: readonly Moments[],
  products: Products,
): Promise<readonly number[]> {
  const errors: number[] = [];
  for (const [index, own] of moments.entries()) {
    const part = experts[index];
    if (!part) continue;
    const problem = fitProblem(own, own, 1);
    errors.push(await relativeErrorOf(shared ? await remainder(problem, shared, products) : problem, part, products));
  }
  return errors;
}

/** Selects the last of every eight batches of each domain; the last one of a domain with two to seven. */
export function heldBackBatches({ batches }: Pick<TokenStream, "batches">): ReadonlySet<Batch> {
  const domains = [...new Set(batches.map(({ domain }) => domain))];
  const chosen = domains.flatMap((one) => {
    const own = batches.filter(({ domain }) => domain === one);
    const every = Math.min(HELD_BACK_EVERY, own.length);
    return every < 2 ? [] : own.filter((_, index) => index % every === every - 1);
  });
  return new Set(chosen);
}

/** Returns the mean error of each domain's own expert on some batches. */
export async function ownErrors(
  pass: LayerPass,
  inputs: AttendedStates,
  layer: LayerExperts,
  { share, batches }: { readonly share: number; readonly batches: ReadonlySet<Batch> },
): Promise<number> {
  const { stream } = pass;
  const numExperts = layer.experts.length;
  const costs = new Float32Array(stream.numTokens * numExperts);
  await addErrors(pass, inputs, layer, { share, costs, wants: (batch) => batches.has(batch) });
  let [sum, tokens] = [0, 0];
  for (const batch of batches) {
    const own = stream.view(costs, batch, numExperts);
    for (let at = batch.domain; at < own.length; at += numExperts) sum += own[at]!;
    tokens += own.length / numExperts;
  }
  return sum / tokens;
}

function sequencesOf({ firstSequence, numSequences }: Batch): readonly number[] {
  return Array.from({ length: numSequences }, (_, index) => firstSequence + index);
}

/** Picks the states of every so-many-th sequence of each domain. */
function thin(stream: TokenStream, states: Float32Array, every: number): Float32Array {
  const { domains } = stream;
  const kept = domains.flatMap((domain, index) => ((index - domains.indexOf(domain)) % every === 0 ? [index] : []));
  return stream.pick(states, kept);
}
