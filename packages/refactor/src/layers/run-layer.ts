// Streams through the graphs of one layer, batch by batch. Sessions live as long as a pass.

import { GraphSession, type Feeds, type Graph, type GraphTensor } from "@readme-moe/onnx";
import type { LayerExperts } from "../experts/layer-experts.ts";
import { addInto, addMoments, emptyMoments, rowStart, type Moments } from "../experts/moments.ts";
import { gramStripes } from "./layer-graph.ts";
import {
  denseLayerGraph,
  errorsGraph,
  expertGraph,
  momentsGraph,
  overlapGraph,
  productInputsGraph,
} from "./layer-graphs.ts";
import { columnSquares } from "../experts/select.ts";
import { readDense, type LayerSource } from "./layer-source.ts";
import type { Batch, TokenStream } from "./token-stream.ts";

export interface PassOptions {
  readonly threads?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

type Outputs = Readonly<Record<string, GraphTensor>>;

/** What a layer should put out on a stream, see `denseLayerGraph`. */
export interface Goal {
  readonly rows: Float32Array; // [tokens, hiddenSize]
  readonly weights: Float32Array; // [tokens]
}

/** Takes the dense model one layer on. @returns also each neuron's summed magnitude, by domain */
export async function runDense(
  source: LayerSource,
  stream: TokenStream,
  hidden: Float32Array,
  share: number,
  options: PassOptions,
): Promise<{ readonly goal: Goal; readonly magnitudes: readonly Float64Array[] }> {
  const { hiddenSize } = stream;
  const goal = { rows: new Float32Array(hidden.length), weights: new Float32Array(stream.numTokens) };
  const magnitudes = byDomain(stream, () => new Float64Array(source.config.intermediateSize));
  await pass(denseLayerGraph(source, share, stream.sequenceTokens), stream, options, async (batch, run) => {
    const own = stream.view(hidden, batch, hiddenSize);
    const outputs = await run({ hidden: rowsFeed(own, hiddenSize) });
    own.set(floats(outputs, "next"));
    stream.view(goal.rows, batch, hiddenSize).set(floats(outputs, "goal"));
    stream.view(goal.weights, batch, 1).set(floats(outputs, "weights"));
    addInto(magnitudes[batch.domain] as Float64Array, floats(outputs, "magnitudes"));
  });
  return { goal, magnitudes };
}

/**
 * Takes the dense model one layer on. @returns what each neuron puts out over each sequence: sums of squared activations times
 * the square of its column's norm; batches are to be single sequences
 */
export async function runEnergies(
  source: LayerSource,
  stream: TokenStream,
  hidden: Float32Array,
  options: PassOptions,
): Promise<readonly Float32Array[]> {
  const { hiddenSize } = stream;
  const norms = columnSquares((await readDense(source)).weight);
  const energies: Float32Array[] = [];
  await pass(denseLayerGraph(source, 0, stream.sequenceTokens), stream, options, async (batch, run) => {
    const own = stream.view(hidden, batch, hiddenSize);
    const outputs = await run({ hidden: rowsFeed(own, hiddenSize) });
    own.set(floats(outputs, "next"));
    energies.push(floats(outputs, "squares").map((square, neuron) => square * (norms[neuron] as number)));
  });
  return energies;
}

/** What comes to a layer's products, see `productInputsGraph`: sums over tokens. */
export interface ProductInputs {
  /** Squares. */
  readonly attention: Float64Array; // [hiddenSize]
  readonly ffn: Float64Array; // [hiddenSize]
  /** Neurons' activations times each other, as in `Moments`. */
  readonly gram: Float32Array;
}

/** Takes the dense model one layer on. */
export async function runProductInputs(
  source: LayerSource,
  stream: TokenStream,
  hidden: Float32Array,
  options: PassOptions,
): Promise<ProductInputs> {
  const { hiddenSize, intermediateSize } = source.config;
  const inputs: ProductInputs = {
    attention: new Float64Array(hiddenSize),
    ffn: new Float64Array(hiddenSize),
    gram: new Float32Array(rowStart(intermediateSize, intermediateSize)),
  };
  await pass(productInputsGraph(source, stream.sequenceTokens), stream, options, async (batch, run) => {
    const own = stream.view(hidden, batch, hiddenSize);
    const outputs = await run({ hidden: rowsFeed(own, hiddenSize) });
    own.set(floats(outputs, "next"));
    for (const name of ["attention", "ffn"] as const) addInto(inputs[name], floats(outputs, name));
    addInto(inputs.gram, gramOf(outputs, intermediateSize));
  });
  return inputs;
}

/**
 * Takes a stream through a layer's attention, in place, and gives the moments of its FFN by domain.
 * @param of - which batches count, all by default, and whether all domains are taken for one
 */
export async function runMoments(
  source: LayerSource,
  stream: TokenStream,
  hidden: Float32Array,
  goal: Float32Array,
  share: number,
  options: PassOptions,
  of: { readonly counts?: (batch: Batch) => boolean; readonly isPooled?: boolean } = {},
): Promise<readonly Moments[]> {
  const { hiddenSize } = stream;
  const empty = (): Moments => emptyMoments(source.config.intermediateSize, hiddenSize);
  const moments = of.isPooled ? [empty()] : byDomain(stream, empty);
  await pass(momentsGraph(source, share, stream.sequenceTokens), stream, options, async (batch, run) => {
    const own = stream.view(hidden, batch, hiddenSize);
    const outputs = await run({
      hidden: rowsFeed(own, hiddenSize),
      goal: rowsFeed(stream.view(goal, batch, hiddenSize), hiddenSize),
    });
    own.set(floats(outputs, "attended"));
    if (of.counts && !of.counts(batch)) return;
    addMoments(moments[of.isPooled ? 0 : batch.domain] as Moments, {
      count: own.length / hiddenSize,
      gram: gramOf(outputs, source.config.intermediateSize),
      cross: floats(outputs, "cross"),
      neuronSums: floats(outputs, "neuron_sums"),
      targetSums: floats(outputs, "target_sums"),
      targetSquares: sumOf(floats(outputs, "target_squares")),
    });
  });
  return moments;
}

/** Takes a stream from behind attention through each domain's own expert, in place. */
export async function runExperts(
  source: LayerSource,
  stream: TokenStream,
  attended: Float32Array,
  layer: LayerExperts,
  expertOf: (domain: number) => number,
  options: PassOptions,
): Promise<void> {
  const { hiddenSize } = stream;
  const experts = new Set(stream.domains.map(expertOf));
  for (const expert of experts) {
    const isOwn = (batch: Batch): boolean => expertOf(batch.domain) === expert;
    const run = async (batch: Batch, runGraph: (feeds: Feeds) => Promise<Outputs>): Promise<void> => {
      const own = stream.view(attended, batch, hiddenSize);
      own.set(floats(await runGraph({ attended: rowsFeed(own, hiddenSize) }), "hidden"));
    };
    await pass(expertGraph(source, layer, expert), stream, options, run, isOwn);
  }
}

/**
 * Adds to `costs` `[tokens, experts]` each expert's weighted squared distance from the target.
 * @param wants - which batches
 */
export async function addErrors(
  source: LayerSource,
  stream: TokenStream,
  states: { readonly attended: Float32Array; readonly goal: Goal },
  layer: LayerExperts,
  { share, costs }: { readonly share: number; readonly costs: Float32Array },
  options: PassOptions,
  wants: (batch: Batch) => boolean,
): Promise<void> {
  const { hiddenSize } = stream;
  const numExperts = layer.experts.length;
  const run = async (batch: Batch, runGraph: (feeds: Feeds) => Promise<Outputs>): Promise<void> => {
    const attended = rowsFeed(stream.view(states.attended, batch, hiddenSize), hiddenSize);
    const feeds = { attended, ...goalFeeds(stream, batch, states.goal) };
    const own = stream.view(costs, batch, numExperts);
    floats(await runGraph(feeds), "errors").forEach((error, at) => (own[at] = (own[at] as number) + error));
  };
  await pass(errorsGraph(source, layer, share), stream, options, run, wants);
}

/** Hands over each token's share of active neurons in each expert, see `overlapGraph`; `[tokens, experts]`. */
export async function runOverlaps(
  source: LayerSource,
  stream: TokenStream,
  attended: Float32Array,
  layer: LayerExperts,
  options: PassOptions,
  wants: (batch: Batch) => boolean,
  onScores: (batch: Batch, scores: Float32Array) => void,
): Promise<void> {
  const { hiddenSize } = stream;
  const run = async (batch: Batch, runGraph: (feeds: Feeds) => Promise<Outputs>): Promise<void> => {
    const feeds = { attended: rowsFeed(stream.view(attended, batch, hiddenSize), hiddenSize) };
    onScores(batch, floats(await runGraph(feeds), "scores"));
  };
  await pass(overlapGraph(source, layer), stream, options, run, wants);
}

async function pass(
  graph: Graph,
  stream: TokenStream,
  { threads, signal }: PassOptions,
  each: (batch: Batch, run: (feeds: Feeds) => Promise<Outputs>) => Promise<void>,
  wants: (batch: Batch) => boolean = () => true,
): Promise<void> {
  const session = await GraphSession.open(graph, { threads });
  try {
    for (const batch of stream.batches.filter(wants)) {
      signal?.throwIfAborted();
      await each(batch, (feeds) => session.run(feeds));
      // Runs block their thread: without a break, neither signals nor timers would be heard.
      await new Promise((resolve) => setImmediate(resolve));
    }
  } finally {
    await session.dispose();
  }
}

function byDomain<Item>(stream: TokenStream, make: () => Item): Item[] {
  return Array.from({ length: Math.max(...stream.domains) + 1 }, make);
}

function goalFeeds(stream: TokenStream, batch: Batch, { rows, weights }: Goal): Feeds {
  return {
    goal: rowsFeed(stream.view(rows, batch, stream.hiddenSize), stream.hiddenSize),
    weights: rowsFeed(stream.view(weights, batch, 1), 1),
  };
}

/** On the diagonal and right of it, see `Moments`. */
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

function sumOf(values: Float32Array): number {
  return values.reduce((sum, value) => sum + value, 0);
}

function rowsFeed(data: Float32Array, width: number): GraphTensor {
  return { data, dims: [data.length / width, width] };
}

function floats(outputs: Outputs, name: string): Float32Array {
  return outputs[name]?.data as Float32Array;
}
