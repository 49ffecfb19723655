// Runs token streams through one layer in the kernel, batch by batch, and measures what happens in it.

import { setImmediate as nextTurn } from "node:timers/promises";
import { describeModel, kernelThreads, LayerPiece } from "@readme-moe/kernel";
import type { Model } from "@readme-moe/model";
import { addMoments, emptyMoments, rowStart, type Moments } from "../experts/moments.ts";
import { type LayerExperts, columnSquares } from "../experts/select.ts";
import type { Graph } from "../graphs/graph-builder.ts";
import { floatOutput, GraphSession, type Feeds, type GraphTensor } from "../graphs/session.ts";
import {
  expertGraph,
  gramGraph,
  gramStripes,
  momentsGraph,
  overlapGraph,
  readDense,
  rowsOfExpert,
  type LayerSource,
} from "./layer-graphs.ts";
import { pickRows } from "../linear-algebra/matrix.ts";
import { type Batch, GatheredRows, type TokenStream } from "./token-stream.ts";

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

/** Target outputs of a layer for a stream. */
export interface Goal {
  /** Outputs of the dense FFN's last product, plus a share of the stream behind attention, `[tokens, hiddenSize]`. */
  readonly rows: Float32Array;
  /** Weights of squared errors, `[tokens]`, see `tokenWeights`. */
  readonly weights: Float32Array;
}

/**
 * Rows of a batch inside a dense layer: behind attention, outputs of the FFN, inputs of its last product, and behind
 * the layer.
 */
interface InnerRows {
  readonly attended: Float32Array;
  readonly update: Float32Array;
  readonly gated: Float32Array;
  readonly next: Float32Array;
}

/**
 * Runs the dense layer on a stream, in place.
 *
 * @param share - of the stream in the goal; `targetOf` subtracts it of another stream, so that experts also learn to
 *   correct a share of that stream's error
 * @returns the goal, and each neuron's summed magnitude by domain
 */
export async function runDense(
  pass: LayerPass,
  hidden: Float32Array,
  share: number,
): Promise<{ readonly goal: Goal; readonly magnitudes: readonly Float64Array[] }> {
  const { source, stream } = pass;
  const { hiddenSize, numTokens } = stream;
  const goal = { rows: new Float32Array(hidden.length), weights: new Float32Array(numTokens) };
  const magnitudes = byDomain(stream, () => new Float64Array(source.config.intermediateSize));
  const factor = streamShare(source, share);
  await eachBatch(pass, hidden, (batch, rows) => {
    const { attended, update, gated, next } = rows;
    stream.view(goal.rows, batch, hiddenSize).set(attended.map((value, i) => update[i]! + factor * value));
    stream.view(goal.weights, batch, 1).set(tokenWeights(source, rows));
    addColumns(magnitudes[batch.domain]!, gated, Math.abs);
    stream.view(hidden, batch, hiddenSize).set(next);
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
  const norms = columnSquares((await readDense(source)).weight);
  const energies: Float32Array[] = [];
  await eachBatch(pass, hidden, (batch, { gated, next }) => {
    const sums = new Float64Array(source.config.intermediateSize);
    addColumns(sums, gated, (value) => value * value);
    energies.push(Float32Array.from(sums, (square, neuron) => square * norms[neuron]!));
    stream.view(hidden, batch, stream.hiddenSize).set(next);
  });
  return energies;
}

/**
 * Runs the dense layer on a stream, in place.
 *
 * @returns moments of its neurons, each token weighted as in `Goal`, without a target
 */
export async function runWeightedGram(pass: LayerPass, hidden: Float32Array): Promise<Moments> {
  const { source, stream } = pass;
  const { intermediateSize } = source.config;
  const moments = emptyMoments(intermediateSize, 0);
  await withSession(gramGraph(source), pass.options, (session) =>
    eachBatch(pass, hidden, async (batch, rows) => {
      const weights = tokenWeights(source, rows);
      const weightAt = (i: number): number => weights[Math.floor(i / intermediateSize)]!;
      addColumns(moments.neuronSums, rows.gated, (value, i) => value * weightAt(i));
      moments.count += weights.reduce((sum, weight) => sum + weight, 0);
      const neurons = rows.gated.map((value, i) => value * Math.sqrt(weightAt(i)));
      addGram(moments.gram, await session.run({ neurons: rowsFeed(neurons, intermediateSize) }), intermediateSize);
      stream.view(hidden, batch, stream.hiddenSize).set(rows.next);
    }),
  );
  return moments;
}

/**
 * Computes the moments of a layer's FFN by domain, for a stream in front of the layer.
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
  const { hiddenSize, intermediateSize } = source.config;
  const empty = (): Moments => emptyMoments(intermediateSize, hiddenSize);
  const moments = which.isPooled ? [empty()] : byDomain(stream, empty);
  const gathered = new GatheredRows(source.config, Math.max(GATHERED_ROWS, rowsOfBatches(stream)));
  await withSession(momentsGraph(source), pass.options, async (session) => {
    const add = async (): Promise<void> => {
      const { domain, neurons, target } = gathered.take();
      if (target.length === 0) return;
      const feeds = { neurons: rowsFeed(neurons, intermediateSize), target: rowsFeed(target, hiddenSize) };
      const outputs = await session.run(feeds);
      const sums = moments[which.isPooled ? 0 : domain]!;
      addGram(sums.gram, outputs, intermediateSize);
      const [neuronSums, targetSums] = [new Float64Array(intermediateSize), new Float64Array(hiddenSize)];
      addColumns(neuronSums, neurons, (value) => value);
      addColumns(targetSums, target, (value) => value);
      const [count, cross] = [target.length / hiddenSize, floatOutput(outputs, "cross")];
      const targetSquares = target.reduce((sum, value) => sum + value * value, 0);
      addMoments(sums, { count, cross, neuronSums, targetSums, targetSquares });
    };
    const run = async (batch: Batch, { attended, gated }: InnerRows): Promise<void> => {
      if (!gathered.hasRoom(batch.domain, attended.length / hiddenSize)) await add();
      gathered.add(batch.domain, gated, targetOf(source, stream.view(goal, batch, hiddenSize), { attended, share }));
    };
    await eachBatch(pass, hidden, run, which.counts);
    await add();
  });
  return moments;
}

/** Number of rows of a Gram matrix's product: what it adds up in one piece, and is copied once. */
const GATHERED_ROWS = 4096;

/** Returns the goal of a batch. */
export function goalOfBatch(stream: TokenStream, { rows, weights }: Goal, batch: Batch): Goal {
  return { rows: stream.view(rows, batch, stream.hiddenSize), weights: stream.view(weights, batch, 1) };
}

/** Wishes of `runExperts`, by batch. */
export interface ExpertRun {
  /** Chooses the experts that a batch runs through: one of all tokens, or one of each. @default the stream stays */
  readonly routesOf?: (batch: Batch, errors: Float32Array) => number | ArrayLike<number>;
  /** Finds the goal of a batch whose errors are measured. @default none is */
  readonly goalOf?: (batch: Batch) => Goal | undefined;
  /** Share of the stream in goals, see `runDense`. */
  readonly share?: number;
  /** Receives weighted squared distances from the target, `[tokens, experts]`. */
  readonly onErrors?: (batch: Batch, errors: Float32Array) => void;
}

/** Runs a stream in front of the layer through attention and experts, in place, and measures all experts' errors. */
export async function runExperts(
  pass: LayerPass,
  hidden: Float32Array,
  layer: LayerExperts,
  { routesOf, goalOf = () => undefined, share = 0, onErrors }: ExpertRun,
): Promise<void> {
  const { source, stream, options } = pass;
  const { hiddenSize } = stream;
  const experts = new ExpertOutputs(source, layer, options);
  try {
    const run = async (batch: Batch, rows: InnerRows): Promise<void> => {
      const own = stream.view(hidden, batch, hiddenSize);
      let errors: Float32Array = NONE;
      const goal = goalOf(batch);
      if (goal) {
        const target = targetOf(source, goal.rows, { attended: rows.attended, share });
        errors = await experts.errors(rows.gated, target, goal.weights);
        onErrors?.(batch, errors);
      }
      if (routesOf) own.set(await experts.next(rows, routesOf(batch, errors)));
    };
    await eachBatch(pass, hidden, run, (batch) => routesOf !== undefined || goalOf(batch) !== undefined);
  } finally {
    await experts.dispose();
  }
}

/** Experts of a layer, whose sessions are opened when they are first used. Outputs for the last rows are kept. */
class ExpertOutputs {
  readonly #source: LayerSource;
  readonly #layer: LayerExperts;
  readonly #options: PassOptions;
  readonly #sessions = new Map<number, GraphSession>();
  #lastRows: Float32Array = NONE;
  readonly #lastOutputs = new Map<number, Float32Array>();
  /** Scales of the output norm. */
  #normScales: Promise<Float32Array> | undefined;

  constructor(source: LayerSource, layer: LayerExperts, options: PassOptions) {
    this.#source = source;
    this.#layer = layer;
    this.#options = options;
  }

  /** Returns the outputs `[tokens, hiddenSize]` of an expert. */
  async #outputs(expert: number, gated: Float32Array): Promise<Float32Array> {
    if (gated !== this.#lastRows) this.#lastOutputs.clear();
    this.#lastRows = gated;
    const outputs = this.#lastOutputs.get(expert) ?? (await this.#compute(expert, gated));
    this.#lastOutputs.set(expert, outputs);
    return outputs;
  }

  async #compute(expert: number, gated: Float32Array): Promise<Float32Array> {
    const { hiddenSize, intermediateSize } = this.#source.config;
    let session = this.#sessions.get(expert);
    if (!session) {
      session = await GraphSession.open(expertGraph(this.#source, this.#layer, expert), this.#options);
      this.#sessions.set(expert, session);
    }
    const { shared, experts } = this.#layer;
    const bias = experts[expert]!.bias.map((value, i) => value + (shared?.bias[i] ?? 0));
    const numTokens = gated.length / intermediateSize;
    const outputs = new Float32Array(numTokens * hiddenSize);
    const most = rowsOfExpert(this.#source);
    for (let from = 0; from < numTokens; from += most) {
      const count = Math.min(most, numTokens - from);
      const rows = gated.subarray(from * intermediateSize, (from + count) * intermediateSize);
      const turned = floatOutput(await session.run({ neurons: rowsFeed(rows, intermediateSize) }), "output");
      for (let token = 0; token < count; token++) {
        const start = (from + token) * hiddenSize;
        for (let i = 0; i < hiddenSize; i++) outputs[start + i] = turned[i * count + token]! + bias[i]!;
      }
    }
    return outputs;
  }

  /** Computes weighted squared distances of all experts from the target, `[tokens, experts]`. */
  async errors(gated: Float32Array, target: Float32Array, weights: Float32Array): Promise<Float32Array> {
    const numExperts = this.#layer.experts.length;
    const { hiddenSize } = this.#source.config;
    const errors = new Float32Array(weights.length * numExperts);
    for (let expert = 0; expert < numExperts; expert++) {
      const outputs = await this.#outputs(expert, gated);
      weights.forEach((weight, token) => {
        let sum = 0;
        for (let i = token * hiddenSize; i < (token + 1) * hiddenSize; i++) sum += (target[i]! - outputs[i]!) ** 2;
        errors[token * numExperts + expert] = weight * sum;
      });
    }
    return errors;
  }

  /** Computes the stream behind the layer. @param routes - expert of all tokens, or of each */
  async next({ attended, gated }: InnerRows, routes: number | ArrayLike<number>): Promise<Float32Array> {
    const { hiddenSize, intermediateSize } = this.#source.config;
    if (typeof routes === "number") return this.#join(attended, await this.#outputs(routes, gated));
    const outputs = new Float32Array(attended.length);
    const places = Array.from({ length: routes.length }, (_, token) => token);
    for (const expert of new Set(Array.from(routes))) {
      const tokens = places.filter((token) => routes[token] === expert);
      const own = await this.#outputs(expert, pickRows(gated, tokens, intermediateSize));
      tokens.forEach((token, i) => outputs.set(own.subarray(i * hiddenSize, (i + 1) * hiddenSize), token * hiddenSize));
    }
    return this.#join(attended, outputs);
  }

  /** Adds outputs of an FFN's last product to the stream, behind the output norm if the layer has one. */
  async #join(attended: Float32Array, outputs: Float32Array): Promise<Float32Array> {
    const { refs, config } = this.#source;
    const { hiddenSize, residualScale, rmsNormEpsilon, normOffset } = config;
    if (!refs.ffnOutputNorm) return attended.map((value, i) => value + residualScale * outputs[i]!);
    this.#normScales ??= refs.ffnOutputNorm.store.readFloats(refs.ffnOutputNorm.name);
    const scale = await this.#normScales;
    const squares = meanSquares(outputs, hiddenSize);
    return attended.map((value, i) => {
      const size = Math.sqrt(squares[Math.floor(i / hiddenSize)]! + rmsNormEpsilon);
      return value + residualScale * (outputs[i]! / size) * (scale[i % hiddenSize]! + normOffset);
    });
  }

  async dispose(): Promise<void> {
    for (const session of this.#sessions.values()) await session.dispose();
  }
}

/** Computes each token's share of active neurons in each expert, `[tokens, experts]`, see `overlapGraph`. */
export async function runOverlaps(
  pass: LayerPass,
  hidden: Float32Array,
  layer: LayerExperts,
  { wants, onScores }: { readonly wants: WantsBatch; readonly onScores: (batch: Batch, scores: Float32Array) => void },
): Promise<void> {
  const { source, options } = pass;
  await withSession(overlapGraph(source, layer), options, (session) => {
    const run = async (batch: Batch, { gated }: InnerRows): Promise<void> => {
      const outputs = await session.run({ neurons: rowsFeed(gated, source.config.intermediateSize) });
      onScores(batch, floatOutput(outputs, "scores"));
    };
    return eachBatch(pass, hidden, run, wants);
  });
}

const NONE = new Float32Array(0);

type WantsBatch = (batch: Batch) => boolean;

/** Runs the dense layer on batches of a stream in front of it. @param use - may not keep the rows' arrays */
async function eachBatch(
  { source, stream, options: { threads, signal } }: LayerPass,
  hidden: Float32Array,
  use: (batch: Batch, rows: InnerRows) => Promise<void> | void,
  wants: WantsBatch = () => true,
): Promise<void> {
  const { hiddenSize, sequenceTokens } = stream;
  const { model, index, config } = source;
  const batches = stream.batches.filter(wants);
  const maxRows = rowsOfBatches(stream);
  if (batches.length === 0) return;
  const piece = await LayerPiece.open(describeModel({ ...model, experts: DENSE }, "file"), config, {
    from: index,
    to: index + 1,
    threads: kernelThreads(threads),
    maxRows,
    maxPositions: sequenceTokens,
    kvPrecision: "fp32",
  });
  const room = (width: number): Float32Array => new Float32Array(maxRows * width);
  const [attended, update, gated, next] = [hiddenSize, hiddenSize, config.intermediateSize, hiddenSize].map(room);
  try {
    for (const batch of batches) {
      signal?.throwIfAborted();
      const own = stream.view(hidden, batch, hiddenSize);
      const numRows = own.length / hiddenSize;
      const rows = {
        attended: attended!.subarray(0, own.length),
        update: update!.subarray(0, own.length),
        gated: gated!.subarray(0, numRows * config.intermediateSize),
        next: next!.subarray(0, own.length),
      };
      rows.next.set(own);
      const sequences = Array.from({ length: batch.numSequences }, () => ({ numTokens: sequenceTokens }));
      piece.run(rows.next, sequences, rows);
      await use(batch, rows);
      // Runs block their thread; signals and timers are handled now.
      await nextTurn();
    }
  } finally {
    await piece.close();
  }
}

/** Returns the number of rows of the largest batch. */
function rowsOfBatches({ batches, sequenceTokens }: TokenStream): number {
  return Math.max(...batches.map(({ numSequences }) => numSequences)) * sequenceTokens;
}

/** Experts of a dense model, as the kernel's description wants them. */
const DENSE = { names: ["dense"] } as unknown as Model["experts"];

/** Opens a session of a graph for `use`. */
async function withSession(
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

/**
 * Computes which share of the stream stands for `share` of it in what the FFN's last product puts out. Behind an output
 * norm there is none: the norm is not linear.
 */
function streamShare({ refs, config }: LayerSource, share: number): number {
  return refs.ffnOutputNorm ? 0 : share / config.residualScale;
}

/** Computes the outputs that a stream's experts are fitted to. */
function targetOf(
  source: LayerSource,
  goal: Float32Array,
  { attended, share }: { readonly attended: Float32Array; readonly share: number },
): Float32Array {
  const factor = streamShare(source, share);
  return goal.map((value, i) => value - factor * attended[i]!);
}

/**
 * Computes one over the mean square of each token's residual stream, which the next norm divides by: the first tokens
 * of texts have streams hundreds of times as large as others', and errors as large. Errors of the FFN's last product
 * reach the stream through its output norm and scale, so they count by what those make of the product. (Fitting is
 * better without weights: much of the rest of the model's attention goes to the first tokens.)
 */
function tokenWeights({ refs, config }: LayerSource, { attended, update, next }: InnerRows): Float32Array {
  const { hiddenSize, residualScale } = config;
  const sizes = meanSquares(next, hiddenSize);
  if (!refs.ffnOutputNorm) return sizes.map((size) => residualScale ** 2 / (size + LEAST_SQUARE));
  const joined = meanSquares(
    next.map((value, i) => value - attended[i]!),
    hiddenSize,
  );
  const outputs = meanSquares(update, hiddenSize);
  return sizes.map(
    (size, token) => (joined[token]! + LEAST_SQUARE) / (outputs[token]! + LEAST_SQUARE) / (size + LEAST_SQUARE),
  );
}

const LEAST_SQUARE = 1e-6;

function meanSquares(rows: Float32Array, width: number): Float32Array {
  return new Float32Array(rows.length / width).map((_, row) => {
    let sum = 0;
    for (let i = row * width; i < (row + 1) * width; i++) sum += rows[i]! * rows[i]!;
    return sum / width;
  });
}

/** Adds up the columns of rows. */
function addColumns(sums: Float64Array, rows: Float32Array, of: (value: number, at: number) => number): void {
  const width = sums.length;
  for (let at = 0; at < rows.length; at += width) {
    for (let i = 0; i < width; i++) sums[i]! += of(rows[at + i]!, at + i);
  }
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
