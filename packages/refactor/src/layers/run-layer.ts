// Runs streams through the graphs of one layer, batch by batch. Sessions live as long as a pass.

import { GraphSession, type Feeds, type Graph, type GraphTensor } from "@readme-moe/onnx";
import type { LayerExperts } from "../experts/layer-experts.ts";
import { addInto, addMoments, emptyMoments, rowStart, type Moments } from "../experts/moments.ts";
import { columnSquares } from "../experts/select.ts";
import { gramStripes } from "./layer-graph.ts";
import {
  denseLayerGraph,
  errorsGraph,
  expertGraph,
  momentsGraph,
  overlapGraph,
  productInputsGraph,
} from "./layer-graphs.ts";
import { readDense, type LayerSource } from "./layer-source.ts";
import type { Batch, TokenStream } from "./token-stream.ts";

export interface PassOptions {
  readonly threads?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A stream that passes through a layer. */
export interface LayerPass {
  readonly source: LayerSource;
  readonly stream: TokenStream;
  readonly options: PassOptions;
}

type Outputs = Readonly<Record<string, GraphTensor>>;
type Run = (feeds: Feeds) => Promise<Outputs>;

/** What a layer should put out on a stream, see `denseLayerGraph`. */
export interface Goal {
  readonly rows: Float32Array; // [tokens, hiddenSize]
  readonly weights: Float32Array; // [tokens]
}

/** States of a stream behind attention, and the experts' goal. */
export interface AttendedStates {
  readonly attended: Float32Array;
  readonly goal: Goal;
}

/**
 * Advances the dense model by one layer, in place.
 *
 * @returns also each neuron's summed magnitude, by domain
 */
export async function runDense(
  pass: LayerPass,
  hidden: Float32Array,
  share: number,
): Promise<{ readonly goal: Goal; readonly magnitudes: readonly Float64Array[] }> {
  const { source, stream } = pass;
  const { hiddenSize } = stream;
  const goal = { rows: new Float32Array(hidden.length), weights: new Float32Array(stream.numTokens) };
  const magnitudes = byDomain(stream, () => new Float64Array(source.config.intermediateSize));
  await runBatches(denseLayerGraph(source, share, stream.sequenceTokens), pass, async (batch, run) => {
    const outputs = await advance(stream, hidden, batch, run);
    stream.view(goal.rows, batch, hiddenSize).set(floats(outputs, "goal"));
    stream.view(goal.weights, batch, 1).set(floats(outputs, "weights"));
    addInto(magnitudes[batch.domain] as Float64Array, floats(outputs, "magnitudes"));
  });
  return { goal, magnitudes };
}

/**
 * Advances the dense model by one layer, in place. Batches must be single sequences.
 *
 * @returns each neuron's energy on each sequence: its summed squared activations times the square of its column's norm
 */
export async function runEnergies(pass: LayerPass, hidden: Float32Array): Promise<readonly Float32Array[]> {
  const { source, stream } = pass;
  const norms = columnSquares((await readDense(source)).weight);
  const energies: Float32Array[] = [];
  await runBatches(denseLayerGraph(source, 0, stream.sequenceTokens), pass, async (batch, run) => {
    const outputs = await advance(stream, hidden, batch, run);
    energies.push(floats(outputs, "squares").map((square, neuron) => square * (norms[neuron] ?? 0)));
  });
  return energies;
}

/** Sizes of the inputs of a layer's products, see `productInputsGraph`: sums over tokens. */
export interface ProductInputs {
  /** Sums of squares. */
  readonly attention: Float64Array; // [hiddenSize]
  readonly ffn: Float64Array; // [hiddenSize]
  /** Neurons' activations times each other, as in `Moments`. */
  readonly gram: Float32Array;
}

/** Advances the dense model by one layer, in place, and measures the inputs of its products. */
export async function runProductInputs(pass: LayerPass, hidden: Float32Array): Promise<ProductInputs> {
  const { source, stream } = pass;
  const { hiddenSize, intermediateSize } = source.config;
  const inputs: ProductInputs = {
    attention: new Float64Array(hiddenSize),
    ffn: new Float64Array(hiddenSize),
    gram: new Float32Array(rowStart(intermediateSize, intermediateSize)),
  };
  await runBatches(productInputsGraph(source, stream.sequenceTokens), pass, async (batch, run) => {
    const outputs = await advance(stream, hidden, batch, run);
    for (const name of ["attention", "ffn"] as const) addInto(inputs[name], floats(outputs, name));
    addInto(inputs.gram, gramOf(outputs, intermediateSize));
  });
  return inputs;
}

/** Selection of batches for `runMoments`. */
export interface MomentsOf {
  /** Whether a batch counts. @default all do */
  readonly counts?: (batch: Batch) => boolean;
  /** Whether all domains are treated as one. @default false */
  readonly isPooled?: boolean;
}

/**
 * Takes a stream through a layer's attention, in place, and computes the moments of its FFN by domain.
 *
 * @param target - rows of the goal, and the share of the stream that was added to them
 */
export async function runMoments(
  pass: LayerPass,
  hidden: Float32Array,
  target: { readonly goal: Float32Array; readonly share: number },
  of: MomentsOf = {},
): Promise<readonly Moments[]> {
  const { source, stream } = pass;
  const { hiddenSize } = stream;
  const empty = (): Moments => emptyMoments(source.config.intermediateSize, hiddenSize);
  const moments = of.isPooled ? [empty()] : byDomain(stream, empty);
  await runBatches(momentsGraph(source, target.share, stream.sequenceTokens), pass, async (batch, run) => {
    const own = stream.view(hidden, batch, hiddenSize);
    const goal = rowsFeed(stream.view(target.goal, batch, hiddenSize), hiddenSize);
    const outputs = await run({ hidden: rowsFeed(own, hiddenSize), goal });
    own.set(floats(outputs, "attended"));
    if (of.counts && !of.counts(batch)) return;
    addMoments(moments[of.isPooled ? 0 : batch.domain] as Moments, {
      count: own.length / hiddenSize,
      gram: gramOf(outputs, source.config.intermediateSize),
      cross: floats(outputs, "cross"),
      neuronSums: floats(outputs, "neuron_sums"),
      targetSums: floats(outputs, "target_sums"),
      targetSquares: floats(outputs, "target_squares").reduce((sum, value) => sum + value, 0),
    });
  });
  return moments;
}

/** Takes a stream from behind attention through each domain's own expert, in place. */
export async function runExperts(
  pass: LayerPass,
  attended: Float32Array,
  layer: LayerExperts,
  expertOf: (domain: number) => number,
): Promise<void> {
  const { source, stream } = pass;
  const { hiddenSize } = stream;
  for (const expert of new Set(stream.domains.map(expertOf))) {
    const isOwn = (batch: Batch): boolean => expertOf(batch.domain) === expert;
    const each = async (batch: Batch, run: Run): Promise<void> => {
      const own = stream.view(attended, batch, hiddenSize);
      own.set(floats(await run({ attended: rowsFeed(own, hiddenSize) }), "hidden"));
    };
    await runBatches(expertGraph(source, layer, expert), pass, each, isOwn);
  }
}

/** Sums of errors, and which batches they are taken over. */
export interface ErrorSums {
  /** Share of the stream in the goal. */
  readonly share: number;
  /** `[tokens, experts]` */
  readonly costs: Float32Array;
  readonly wants: (batch: Batch) => boolean;
}

/** Adds to `costs` each expert's weighted squared distance from the target. */
export async function addErrors(
  pass: LayerPass,
  { attended, goal }: AttendedStates,
  layer: LayerExperts,
  { share, costs, wants }: ErrorSums,
): Promise<void> {
  const { source, stream } = pass;
  const { hiddenSize } = stream;
  const numExperts = layer.experts.length;
  const each = async (batch: Batch, run: Run): Promise<void> => {
    const outputs = await run({
      attended: rowsFeed(stream.view(attended, batch, hiddenSize), hiddenSize),
      goal: rowsFeed(stream.view(goal.rows, batch, hiddenSize), hiddenSize),
      weights: rowsFeed(stream.view(goal.weights, batch, 1), 1),
    });
    addInto(stream.view(costs, batch, numExperts), floats(outputs, "errors"));
  };
  await runBatches(errorsGraph(source, layer, share), pass, each, wants);
}

/** Consumer of the scores `[tokens, experts]` of some batches. */
export interface OverlapScores {
  readonly wants: (batch: Batch) => boolean;
  readonly onScores: (batch: Batch, scores: Float32Array) => void;
}

/** Computes each token's share of active neurons in each expert, see `overlapGraph`. */
export async function runOverlaps(
  pass: LayerPass,
  attended: Float32Array,
  layer: LayerExperts,
  { wants, onScores }: OverlapScores,
): Promise<void> {
  const { source, stream } = pass;
  const each = async (batch: Batch, run: Run): Promise<void> => {
    const rows = stream.view(attended, batch, stream.hiddenSize);
    onScores(batch, floats(await run({ attended: rowsFeed(rows, stream.hiddenSize) }), "scores"));
  };
  await runBatches(overlapGraph(source, layer), pass, each, wants);
}

/** Runs a graph from `hidden` to `next` on a batch, and writes the latter in place of the former. */
async function advance(stream: TokenStream, hidden: Float32Array, batch: Batch, run: Run): Promise<Outputs> {
  const own = stream.view(hidden, batch, stream.hiddenSize);
  const outputs = await run({ hidden: rowsFeed(own, stream.hiddenSize) });
  own.set(floats(outputs, "next"));
  return outputs;
}

async function runBatches(
  graph: Graph,
  { stream, options: { threads, signal } }: LayerPass,
  each: (batch: Batch, run: Run) => Promise<void>,
  wants: (batch: Batch) => boolean = () => true,
): Promise<void> {
  const session = await GraphSession.open(graph, { threads });
  try {
    for (const batch of stream.batches.filter(wants)) {
      signal?.throwIfAborted();
      await each(batch, (feeds) => session.run(feeds));
      await yieldToEventLoop();
    }
  } finally {
    await session.dispose();
  }
}

/** Lets signals and timers run: each run of a session blocks its thread. */
export function yieldToEventLoop(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function byDomain<Item>(stream: TokenStream, make: () => Item): Item[] {
  return Array.from({ length: Math.max(...stream.domains) + 1 }, make);
}

/** Joins the stripes of a Gram matrix: on the diagonal and right of it, see `Moments`. */
function gramOf(outputs: Outputs, numNeurons: number): Float32Array {
  const gram = new Float32Array(rowStart(numNeurons, numNeurons));
  gramStripes(numNeurons).forEach(({ from, to }, index) => {
    const stripe = floats(outputs, `gram.${index}`);
    const width = numNeurons - from;
    for (let row = from; row < to; row++) {
      const own = stripe.subarray((row - from) * (width + 1), (row - from + 1) * width);
      gram.set(own, rowStart(row, numNeurons));
    }
  });
  return gram;
}

function rowsFeed(data: Float32Array, width: number): GraphTensor {
  return { data, dims: [data.length / width, width] };
}

/** Returns a float32 output of a graph. */
export function floats(outputs: Outputs, name: string): Float32Array {
  return outputs[name]?.data as Float32Array;
}
