// Runs token streams through the graphs of one layer, batch by batch. A session lives as long as its pass.

import { setImmediate as nextTurn } from "node:timers/promises";
import type { Model, ModelConfig } from "@readme-moe/model";
import { addInto, addMoments, emptyMoments, rowStart, type Moments } from "../experts/moments.ts";
import { type LayerExperts, columnSquares } from "../experts/select.ts";
import type { Graph } from "../graphs/graph-builder.ts";
import { floatOutput, GraphSession, type Feeds, type GraphTensor } from "../graphs/session.ts";
import {
  attentionGraph,
  gramStripes,
  denseLayerGraph,
  errorsGraph,
  expertGraph,
  momentsGraph,
  overlapGraph,
  productInputsGraph,
  readDense,
  weightedGramGraph,
  type LayerSource,
} from "./layer-graphs.ts";
import { pickRows } from "../linear-algebra/matrix.ts";

export interface PassOptions {
  readonly threads?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Layer, and the stream that passes through it. */
export interface LayerPass {
  readonly source: LayerSource;
  readonly stream: TokenStream;
  readonly options: PassOptions;
}

/** Target outputs of a layer for a stream, see `denseLayerGraph`. */
export interface Goal {
  readonly rows: Float32Array; // [tokens, hiddenSize]
  readonly weights: Float32Array; // [tokens]
}

/** Inputs of a layer's experts. */
export interface AttendedStates {
  /** Stream after attention, `[tokens, hiddenSize]`. */
  readonly attended: Float32Array;
  readonly goal: Goal;
}

/** Runs the dense layer on a stream, in place. @returns the goal, and each neuron's summed magnitude by domain */
export async function runDense(
  pass: LayerPass,
  hidden: Float32Array,
  share: number,
): Promise<{ readonly goal: Goal; readonly magnitudes: readonly Float64Array[] }> {
  const { source, stream } = pass;
  const { hiddenSize, numTokens, sequenceTokens } = stream;
  const goal = { rows: new Float32Array(hidden.length), weights: new Float32Array(numTokens) };
  const magnitudes = byDomain(stream, () => new Float64Array(source.config.intermediateSize));
  await eachBatch(pass, denseLayerGraph(source, share, sequenceTokens), async (batch, run) => {
    const outputs = await runInPlace(run, stream.view(hidden, batch, hiddenSize), hiddenSize);
    stream.view(goal.rows, batch, hiddenSize).set(floatOutput(outputs, "goal"));
    stream.view(goal.weights, batch, 1).set(floatOutput(outputs, "weights"));
    addInto(magnitudes[batch.domain]!, floatOutput(outputs, "magnitudes"));
  });
  return { goal, magnitudes };
}

/**
 * Runs the dense layer on a stream of single sequences, in place.
 *
 * @returns the energy of each neuron over each sequence: summed squared activations times its column's squared norm
 */
export async function runEnergies(pass: LayerPass, hidden: Float32Array): Promise<readonly Float32Array[]> {
  const { source, stream } = pass;
  const { hiddenSize, sequenceTokens } = stream;
  const norms = columnSquares((await readDense(source)).weight);
  const energies: Float32Array[] = [];
  await eachBatch(pass, denseLayerGraph(source, 0, sequenceTokens), async (batch, run) => {
    const outputs = await runInPlace(run, stream.view(hidden, batch, hiddenSize), hiddenSize);
    energies.push(floatOutput(outputs, "squares").map((square, neuron) => square * norms[neuron]!));
  });
  return energies;
}

/** Sums over tokens of the inputs of a layer's products, see `productInputsGraph`. */
interface ProductInputs {
  /** Squared inputs of attention, `[hiddenSize]`. */
  readonly attention: Float64Array;
  /** Squared inputs of the FFN, `[hiddenSize]`. */
  readonly ffn: Float64Array;
  /** Products of neurons' activations, as in `Moments`. */
  readonly gram: Float32Array;
}

/** Runs the dense layer on a stream, in place, and sums up the inputs of its products. */
export async function runProductInputs(pass: LayerPass, hidden: Float32Array): Promise<ProductInputs> {
  const { source, stream } = pass;
  const { hiddenSize, intermediateSize } = source.config;
  const inputs: ProductInputs = {
    attention: new Float64Array(hiddenSize),
    ffn: new Float64Array(hiddenSize),
    gram: new Float32Array(rowStart(intermediateSize, intermediateSize)),
  };
  await eachBatch(pass, productInputsGraph(source, stream.sequenceTokens), async (batch, run) => {
    const outputs = await runInPlace(run, stream.view(hidden, batch, hiddenSize), hiddenSize);
    for (const name of ["attention", "ffn"] as const) addInto(inputs[name], floatOutput(outputs, name));
    addGram(inputs.gram, outputs, intermediateSize);
  });
  return inputs;
}

/** Runs the dense layer on a stream, in place. @returns weighted moments of its neurons, without a target */
export async function runWeightedGram(pass: LayerPass, hidden: Float32Array): Promise<Moments> {
  const { source, stream } = pass;
  const { hiddenSize, sequenceTokens } = stream;
  const { intermediateSize } = source.config;
  const moments = emptyMoments(intermediateSize, 0);
  await eachBatch(pass, weightedGramGraph(source, sequenceTokens), async (batch, run) => {
    const outputs = await runInPlace(run, stream.view(hidden, batch, hiddenSize), hiddenSize);
    addGram(moments.gram, outputs, intermediateSize);
    addInto(moments.neuronSums, floatOutput(outputs, "neuron_sums"));
    moments.count += floatOutput(outputs, "count")[0] ?? NaN;
  });
  return moments;
}

/**
 * Runs a layer's attention on a stream, in place, and returns the moments of its FFN by domain.
 *
 * @param which - batches that count, by default all, and whether all domains are one
 */
export async function runMoments(
  pass: LayerPass,
  hidden: Float32Array,
  { goal, share }: { readonly goal: Float32Array; readonly share: number },
  which: { readonly counts?: (batch: Batch) => boolean; readonly isPooled?: boolean } = {},
): Promise<readonly Moments[]> {
  const { source, stream } = pass;
  const { hiddenSize, sequenceTokens } = stream;
  const { intermediateSize } = source.config;
  const empty = (): Moments => emptyMoments(intermediateSize, hiddenSize);
  const moments = which.isPooled ? [empty()] : byDomain(stream, empty);
  await eachBatch(pass, momentsGraph(source, share, sequenceTokens), async (batch, run) => {
    const own = stream.view(hidden, batch, hiddenSize);
    const outputs = await run({
      hidden: rowsFeed(own, hiddenSize),
      goal: rowsFeed(stream.view(goal, batch, hiddenSize), hiddenSize),
    });
    own.set(floatOutput(outputs, "attended"));
    if (which.counts && !which.counts(batch)) return;
    const sums = moments[which.isPooled ? 0 : batch.domain]!;
    addGram(sums.gram, outputs, intermediateSize);
    addMoments(sums, {
      count: own.length / hiddenSize,
      cross: floatOutput(outputs, "cross"),
      neuronSums: floatOutput(outputs, "neuron_sums"),
      targetSums: floatOutput(outputs, "target_sums"),
      targetSquares: floatOutput(outputs, "target_squares").reduce((sum, value) => sum + value, 0),
    });
  });
  return moments;
}

/** Runs the expert of each domain on a stream after attention, in place. */
export async function runExperts(
  pass: LayerPass,
  attended: Float32Array,
  layer: LayerExperts,
  expertOf: (domain: number) => number,
): Promise<void> {
  const { source, stream } = pass;
  const { hiddenSize } = stream;
  for (const expert of new Set(stream.domains.map(expertOf))) {
    const run: RunBatch = async (batch, runGraph) => {
      const own = stream.view(attended, batch, hiddenSize);
      own.set(floatOutput(await runGraph({ attended: rowsFeed(own, hiddenSize) }), "hidden"));
    };
    await eachBatch(pass, expertGraph(source, layer, expert), run, ({ domain }) => expertOf(domain) === expert);
  }
}

/** Runs a layer's attention on a stream, in place. */
export async function runAttention(pass: LayerPass, hidden: Float32Array): Promise<void> {
  const { source, stream } = pass;
  const { hiddenSize, sequenceTokens } = stream;
  await eachBatch(pass, attentionGraph(source, sequenceTokens), async (batch, run) => {
    const own = stream.view(hidden, batch, hiddenSize);
    own.set(floatOutput(await run({ hidden: rowsFeed(own, hiddenSize) }), "attended"));
  });
}

/**
 * Adds each expert's weighted squared distance from the target to `costs` `[tokens, experts]`, for the wanted batches.
 */
export async function addErrors(
  pass: LayerPass,
  { attended, goal }: AttendedStates,
  layer: LayerExperts,
  { share, costs, wants }: { readonly share: number; readonly costs: Float32Array; readonly wants: WantsBatch },
): Promise<void> {
  const { source, stream } = pass;
  const { hiddenSize } = stream;
  const rowsOf = (states: Float32Array, batch: Batch, width: number): GraphTensor =>
    rowsFeed(stream.view(states, batch, width), width);
  const run: RunBatch = async (batch, runGraph) => {
    const outputs = await runGraph({
      attended: rowsOf(attended, batch, hiddenSize),
      goal: rowsOf(goal.rows, batch, hiddenSize),
      weights: rowsOf(goal.weights, batch, 1),
    });
    addInto(stream.view(costs, batch, layer.experts.length), floatOutput(outputs, "errors"));
  };
  await eachBatch(pass, errorsGraph(source, layer, share), run, wants);
}

/** Computes each token's share of active neurons in each expert, `[tokens, experts]`, see `overlapGraph`. */
export async function runOverlaps(
  pass: LayerPass,
  attended: Float32Array,
  layer: LayerExperts,
  { wants, onScores }: { readonly wants: WantsBatch; readonly onScores: (batch: Batch, scores: Float32Array) => void },
): Promise<void> {
  const { source, stream } = pass;
  const { hiddenSize } = stream;
  const run: RunBatch = async (batch, runGraph) => {
    const feeds = { attended: rowsFeed(stream.view(attended, batch, hiddenSize), hiddenSize) };
    onScores(batch, floatOutput(await runGraph(feeds), "scores"));
  };
  await eachBatch(pass, overlapGraph(source, layer), run, wants);
}

type WantsBatch = (batch: Batch) => boolean;
type RunGraph = (feeds: Feeds) => Promise<Feeds>;
type RunBatch = (batch: Batch, run: RunGraph) => Promise<void>;

async function eachBatch(
  { stream, options: { threads, signal } }: LayerPass,
  graph: Graph,
  runBatch: RunBatch,
  wants: WantsBatch = () => true,
): Promise<void> {
  await withSession(graph, { threads }, async (session) => {
    for (const batch of stream.batches.filter(wants)) {
      signal?.throwIfAborted();
      await runBatch(batch, (feeds) => session.run(feeds));
      // Runs block their thread; signals and timers are handled now.
      await nextTurn();
    }
  });
}

/** Opens a session of a graph for `use`. */
export async function withSession(
  graph: Graph,
  { threads }: PassOptions,
  use: (session: GraphSession) => Promise<void>,
): Promise<void> {
  const session = await GraphSession.open(graph, { threads });
  try {
    await use(session);
  } finally {
    await session.dispose();
  }
}

/** Runs a dense graph and replaces the rows by the residual stream after the layer. */
async function runInPlace(run: RunGraph, rows: Float32Array, width: number): Promise<Feeds> {
  const outputs = await run({ hidden: rowsFeed(rows, width) });
  rows.set(floatOutput(outputs, "next"));
  return outputs;
}

function byDomain<Item>(stream: TokenStream, make: () => Item): Item[] {
  return Array.from({ length: Math.max(...stream.domains) + 1 }, make);
}

/** Adds the stripes of a Gram matrix to its upper triangle, see `Moments`. */
function addGram(gram: Float32Array, outputs: Feeds, numNeurons: number): void {
  gramStripes(numNeurons).forEach(({ from, to }, index) => {
    const stripe = floatOutput(outputs, `gram.${index}`);
    const width = numNeurons - from;
    for (let row = from; row < to; row++) {
      const own = stripe.subarray((row - from) * (width + 1), (row - from + 1) * width);
      const start = rowStart(row, numNeurons);
      for (let i = 0; i < own.length; i++) gram[start + i]! += own[i]!;
    }
  });
}

function rowsFeed(data: Float32Array, width: number): GraphTensor {
  return { data, dims: [data.length / width, width] };
}

// Texts that pass through a model layer by layer: hidden states of many sequences of equal length, laid end to end.

/** Range of sequences that run together, all of one domain. */
export interface Batch {
  readonly domain: number;
  readonly firstSequence: number;
  readonly numSequences: number;
}

export class TokenStream {
  readonly sequenceTokens: number;
  /** Sequences of equal length; those of a domain are contiguous. */
  readonly sequences: readonly Int32Array[];
  readonly domains: readonly number[];
  readonly hiddenSize: number;
  readonly batches: readonly Batch[];

  constructor(config: ModelConfig, domains: readonly (readonly Int32Array[])[], batchTokens: number) {
    this.sequences = domains.flat();
    this.domains = domains.flatMap((sequences, domain) => sequences.map(() => domain));
    this.sequenceTokens = this.sequences[0]?.length ?? 0;
    this.hiddenSize = config.hiddenSize;
    this.batches = cutBatches(this.domains, Math.max(1, Math.floor(batchTokens / this.sequenceTokens)));
  }

  get numTokens(): number {
    return this.sequences.length * this.sequenceTokens;
  }

  /** Finds the tokens `[from, to)` of a batch in the whole stream. */
  tokenRange({ firstSequence, numSequences }: Batch): readonly [from: number, to: number] {
    return [firstSequence * this.sequenceTokens, (firstSequence + numSequences) * this.sequenceTokens];
  }

  /** Makes a view of a batch's part of states `[tokens, size]`. */
  view(states: Float32Array, batch: Batch, size: number): Float32Array {
    const [from, to] = this.tokenRange(batch);
    return states.subarray(from * size, to * size);
  }

  /** Copies the states `[tokens, …]` of some sequences, in their order. */
  pick(states: Float32Array, sequences: readonly number[]): Float32Array {
    return pickRows(states, sequences, states.length / this.sequences.length);
  }

  /** Looks up the embeddings of all tokens, `[tokens, hiddenSize]`. */
  async embed({ weights, config }: Pick<Model, "weights" | "config">): Promise<Float32Array> {
    const { store, name } = weights.embedding;
    const { hiddenSize } = this;
    const states = new Float32Array(this.numTokens * hiddenSize);
    const table = await store.readFloats(name);
    this.sequences.forEach((sequence, index) =>
      states.set(pickRows(table, sequence, hiddenSize), index * this.sequenceTokens * hiddenSize),
    );
    return config.embeddingScale === 1 ? states : states.map((value) => value * config.embeddingScale);
  }
}

function cutBatches(domains: readonly number[], perBatch: number): readonly Batch[] {
  const batches: Batch[] = [];
  for (let start = 0; start < domains.length;) {
    const domain = domains[start]!;
    let end = start + 1;
    while (end < domains.length && end - start < perBatch && domains[end] === domain) end++;
    batches.push({ domain, firstSequence: start, numSequences: end - start });
    start = end;
  }
  return batches;
}
