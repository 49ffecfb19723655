// Runs a whole model forwards and backwards, layer by layer. Only the layers' inputs are kept; the inside of a layer is
// computed again on the way back.

import { setImmediate as nextTurn } from "node:timers/promises";
import { layerConfig, type ModelConfig } from "@readme-moe/model";
import { gradientName } from "../autodiff/tape.ts";
import { addInto } from "../experts/moments.ts";
import { pickRows } from "../linear-algebra/matrix.ts";
import { floatOutput, type GraphTensor } from "../graphs/session.ts";
import { type FrozenFeeds, type KeptOutputs, SessionPool, type StagedSession } from "../graphs/staged-session.ts";
import {
  HIDDEN,
  OUTPUT_GRADIENT,
  type WeightShapes,
  attentionGraph,
  feedForwardGraph,
  keyOf,
  crossEntropyGraph,
  distillationGraph,
} from "./graphs.ts";
import {
  type DecoderWeights,
  frozenFeeds,
  type HeadWeights,
  type LayerWeights,
  weightFeeds,
  type WeightGroup,
} from "./weights.ts";

/** Sequences that run through a decoder together, laid end to end. */
export interface Batch {
  readonly tokenIds: Int32Array;
  readonly experts: Uint16Array;
}

/** Inputs of a layer's halves, which the way back needs. */
interface LayerInputs {
  readonly hidden: Float32Array;
  /** Inputs of the FFN half, by expert. */
  readonly shares: readonly { readonly share: Share; readonly rows: Float32Array; readonly kept: KeptOutputs }[];
  /** Outputs of frozen products of attention. */
  readonly kept: KeptOutputs;
}

interface Pass {
  /** Residual stream behind the last layer, in front of the last norm; `[tokens, hiddenSize]`. */
  readonly hidden: Float32Array;
  /** Inputs of all layers; empty unless `forward` keeps them. */
  readonly layers: readonly LayerInputs[];
}

/** Receives a gradient of the weight `key`; the array is not used afterwards. */
type OnGradient = (key: string, gradient: Float32Array) => void;

export class Decoder {
  readonly weights: DecoderWeights;
  readonly #pool: GraphPool;
  readonly #hiddenSize: number;
  /** Keys of trained weights. */
  readonly #trained: ReadonlySet<string>;

  constructor(weights: DecoderWeights, pool: GraphPool, trained: ReadonlySet<string> = new Set()) {
    this.weights = weights;
    this.#pool = pool;
    this.#hiddenSize = weights.finalNorm.values.length;
    this.#trained = trained;
  }

  /** Runs all layers. @param keeps - whether `backward` follows */
  async forward({ tokenIds, experts }: Batch, keeps: boolean): Promise<Pass> {
    const shares = dealRows(experts);
    const layers: LayerInputs[] = [];
    let hidden = this.#embed(tokenIds);
    for (const [index, layer] of this.weights.layers.entries()) {
      const kept: KeptOutputs = new Map();
      const attended = await this.#attend(index, layer, hidden, keeps ? kept : undefined);
      const inputs = shares.map((share) => {
        return { share, rows: takeRows(attended, share, this.#hiddenSize), kept: new Map() as KeptOutputs };
      });
      if (keeps) layers.push({ hidden, shares: inputs, kept });
      let next = shares.length > 1 ? attended : hidden;
      for (const { share, rows, kept: own } of inputs) {
        const fed = await this.#feedForward(layer, share.expert, rows, keeps ? own : undefined);
        next = putRows(next, fed, share, this.#hiddenSize);
      }
      hidden = next;
      // Runs block their thread; signals and timers are handled now.
      await nextTurn();
    }
    return { hidden, layers };
  }

  /** Computes the gradients of trained weights. @param gradient - of `pass.hidden` */
  async backward({ layers }: Pass, gradient: Float32Array, onGradient: OnGradient): Promise<void> {
    let slope = gradient;
    for (const [index, inputs] of [...layers.entries()].toReversed()) {
      const layer = this.weights.layers[index]!;
      let before = inputs.shares.length > 1 ? new Float32Array(slope.length) : slope;
      for (const { share, rows, kept } of inputs.shares) {
        const groups = [layer.common, layer.experts[share.expert]!];
        const session = await this.#pool.feedForward(this.#shapes(groups), true);
        const own = takeRows(slope, share, this.#hiddenSize);
        const slopes = await this.#slopes(session, groups, { rows, slope: own, kept, onGradient });
        before = putRows(before, slopes, share, this.#hiddenSize);
      }
      const groups = [layer.attention];
      const session = await this.#pool.attention(index, this.#shapes(groups), true);
      slope = await this.#slopes(session, groups, {
        rows: inputs.hidden,
        slope: before,
        kept: inputs.kept,
        onGradient,
      });
      await nextTurn();
    }
  }

  async #attend(
    index: number,
    { attention }: LayerWeights,
    hidden: Float32Array,
    kept: KeptOutputs | undefined,
  ): Promise<Float32Array> {
    const session = await this.#pool.attention(index, this.#shapes([attention]), false);
    const feeds = { ...this.#rows(HIDDEN, hidden), ...weightFeeds([attention]) };
    return floatOutput(await session.run(feeds, frozenFeeds([attention]), kept), "next");
  }

  async #feedForward(
    { common, experts }: LayerWeights,
    expert: number,
    rows: Float32Array,
    kept: KeptOutputs | undefined,
  ): Promise<Float32Array> {
    const groups = [common, experts[expert]!];
    const session = await this.#pool.feedForward(this.#shapes(groups), false);
    const feeds = { ...this.#rows(HIDDEN, rows), ...weightFeeds(groups) };
    return floatOutput(await session.run(feeds, frozenFeeds(groups), kept), "next");
  }

  #embed(tokenIds: Int32Array): Float32Array {
    const hidden = pickRows(this.weights.embedding, tokenIds, this.#hiddenSize);
    const { embeddingScale } = this.#pool.config;
    return embeddingScale === 1 ? hidden : hidden.map((value) => value * embeddingScale);
  }

  #rows(name: string, data: Float32Array): Record<string, { data: Float32Array; dims: readonly number[] }> {
    return { [name]: { data, dims: [data.length / this.#hiddenSize, this.#hiddenSize] } };
  }

  #shapes(groups: readonly WeightGroup[]): WeightShapes {
    const entries = groups.flatMap((group) => [...group]);
    return {
      shapes: new Map(entries.map(([name, { shape }]) => [name, shape])),
      trained: new Set(entries.flatMap(([name, { key }]) => (this.#trained.has(key) ? [name] : []))),
      frozen: new Set(entries.flatMap(([name, { frozen }]) => (frozen ? [name] : []))),
    };
  }

  /** Runs a half backwards. @returns the gradient of its input */
  async #slopes(
    session: StagedSession,
    groups: readonly WeightGroup[],
    half: {
      readonly rows: Float32Array;
      readonly slope: Float32Array;
      readonly kept: KeptOutputs;
      readonly onGradient: OnGradient;
    },
  ): Promise<Float32Array> {
    const feeds = {
      ...this.#rows(HIDDEN, half.rows),
      ...this.#rows(OUTPUT_GRADIENT, half.slope),
      ...weightFeeds(groups),
    };
    const outputs = await session.run(feeds, frozenFeeds(groups), half.kept);
    for (const group of groups) {
      for (const [name, { key }] of group) {
        const gradient = gradientName(name);
        if (outputs[gradient]) half.onGradient(key, floatOutput(outputs, gradient));
      }
    }
    return floatOutput(outputs, gradientName(HIDDEN));
  }
}

// Losses of a decoder's last states and their gradients, some rows at a time.

/** Rows of logits that are in memory together; larger arrays would be returned to the system after each use. */
const HEAD_ROWS = 128;

/** Tokens that follow each row. */
export interface Labels {
  readonly ids: Int32Array;
  /** Weight of each row; 0 for rows that nothing follows. */
  readonly weights: Float32Array;
}

interface DistilledRows {
  /** Weighted sums over rows. */
  readonly divergence: number;
  readonly crossEntropy: number;
  /** Gradient of `divergence + labelShare · crossEntropy` by the student's states. */
  readonly gradient: Float32Array;
  readonly normGradient: Float32Array;
  /** Divergence of each row, in nats. */
  readonly divergences: Float32Array;
}

/** The student's part and its teacher's. */
interface Pair<Part> {
  readonly student: Part;
  readonly teacher: Part;
}

/**
 * Computes the loss of rows, and its gradients.
 *
 * @param states - of the last layer, `[rows, hiddenSize]`
 * @param labels - with the weight of cross-entropies in the loss
 */
export async function distillRows(
  pool: GraphPool,
  states: Pair<Float32Array>,
  weights: Pair<DecoderWeights>,
  { ids, weights: rowWeights, labelShare }: Labels & { readonly labelShare: number },
): Promise<DistilledRows> {
  const frozen = { ...headFrozen(weights.student, "head"), ...headFrozen(weights.teacher, "teacher_head") };
  const session = await pool.distillation(labelShare, weights.student.headProduct !== undefined);
  const size = weights.student.finalNorm.values.length;
  const gradient = new Float32Array(states.student.length);
  const normGradient = new Float32Array(size);
  const divergences = new Float32Array(ids.length);
  const { norm: teacherNorm, head: teacherHead } = headFeeds(weights.teacher);
  const fixed = {
    ...headFeeds(weights.student),
    teacher_norm: teacherNorm,
    ...(teacherHead ? { teacher_head: teacherHead } : {}),
  };
  let [divergence, crossEntropy] = [0, 0];
  for (const [from, to] of chunks(ids.length)) {
    const rows = (data: Float32Array): GraphTensor => ({
      data: data.subarray(from * size, to * size),
      dims: [to - from, size],
    });
    const feeds = {
      ...fixed,
      [HIDDEN]: rows(states.student),
      taught: rows(states.teacher),
      ids: idsFeed(ids.subarray(from, to)),
      weights: { data: rowWeights.subarray(from, to), dims: [to - from, 1] },
    };
    const outputs = await session.run(feeds, frozen);
    gradient.set(floatOutput(outputs, gradientName(HIDDEN)), from * size);
    addInto(normGradient, floatOutput(outputs, gradientName("norm")));
    divergences.set(floatOutput(outputs, "divergences"), from);
    const rowsWeights = rowWeights.subarray(from, to);
    divergence += weightedSum(floatOutput(outputs, "divergences"), rowsWeights);
    crossEntropy += weightedSum(floatOutput(outputs, "losses"), rowsWeights);
  }
  return { divergence, crossEntropy, gradient, normGradient, divergences };
}

/** Computes each row's cross-entropy, in nats. */
export async function crossEntropies(
  pool: GraphPool,
  hidden: Float32Array,
  weights: HeadWeights,
  ids: Int32Array,
): Promise<Float32Array> {
  const session = await pool.crossEntropy(weights.headProduct !== undefined);
  const size = weights.finalNorm.values.length;
  const losses = new Float32Array(ids.length);
  for (const [from, to] of chunks(ids.length)) {
    const feeds = {
      ...headFeeds(weights),
      [HIDDEN]: { data: hidden.subarray(from * size, to * size), dims: [to - from, size] },
      ids: idsFeed(ids.subarray(from, to)),
    };
    const outputs = await session.run(feeds, headFrozen(weights, "head"));
    losses.set(floatOutput(outputs, "losses"), from);
  }
  return losses;
}

function headFeeds({ finalNorm, head, headProduct }: HeadWeights): { readonly norm: GraphTensor; head?: GraphTensor } {
  const size = finalNorm.values.length;
  const norm = { data: finalNorm.values, dims: [size] };
  return headProduct ? { norm } : { norm, head: { data: head, dims: [head.length / size, size] } };
}

function headFrozen({ headProduct }: HeadWeights, name: string): FrozenFeeds {
  return headProduct ? { [name]: headProduct } : {};
}

function* chunks(rows: number): Generator<readonly [from: number, to: number]> {
  for (let from = 0; from < rows; from += HEAD_ROWS) yield [from, Math.min(rows, from + HEAD_ROWS)];
}

function idsFeed(ids: Int32Array): GraphTensor {
  return { data: BigInt64Array.from(ids, BigInt), dims: [ids.length] };
}

function weightedSum(values: Float32Array, weights: Float32Array): number {
  return values.reduce((sum, value, i) => sum + value * weights[i]!, 0);
}

// Sessions of a decoder's graphs. Layers whose weights have the same shapes share them, and so do all of their experts.

export class GraphPool extends SessionPool {
  readonly config: ModelConfig;
  readonly #sequenceTokens: number;

  /** @param sequenceTokens - length of all sequences */
  constructor(config: ModelConfig, sequenceTokens: number, threads: number | undefined) {
    super({ threads });
    this.config = config;
    this.#sequenceTokens = sequenceTokens;
  }

  attention(layer: number, weights: WeightShapes, hasGradients: boolean): Promise<StagedSession> {
    const { config } = this;
    const setting = { layer: layerConfig(config, layer), sequenceTokens: this.#sequenceTokens };
    const key = `attention ${hasGradients} ${JSON.stringify(setting)} ${keyOf(weights)}`;
    return this.get(key, () => attentionGraph({ config, weights, hasGradients }, setting));
  }

  feedForward(weights: WeightShapes, hasGradients: boolean): Promise<StagedSession> {
    const { config } = this;
    const key = `feed-forward ${hasGradients} ${keyOf(weights)}`;
    return this.get(key, () => feedForwardGraph({ config, weights, hasGradients }));
  }

  distillation(labelShare: number, isFrozen: boolean): Promise<StagedSession> {
    const key = `distillation ${labelShare} ${isFrozen}`;
    return this.get(key, () => distillationGraph(this.config, { labelShare, isFrozen }));
  }

  crossEntropy(isFrozen: boolean): Promise<StagedSession> {
    return this.get(`cross-entropy ${isFrozen}`, () => crossEntropyGraph(this.config, isFrozen));
  }
}

// Distribution of a batch's rows to experts.

/** Rows of one expert. */
interface Share {
  readonly expert: number;
  /** Row indices, ascending; `undefined` for all rows. */
  readonly rows: Int32Array | undefined;
}

/** Groups rows by expert. @param experts - of each row */
function dealRows(experts: Uint16Array): readonly Share[] {
  const counts = new Map<number, number>();
  for (const expert of experts) counts.set(expert, (counts.get(expert) ?? 0) + 1);
  return [...counts.keys()]
    .toSorted((a, b) => a - b)
    .map((expert) => ({ expert, rows: counts.size === 1 ? undefined : placesOf(experts, expert) }));
}

/** Selects the rows `[…, width]` of a share: a copy, unless the share has all rows. */
function takeRows(all: Float32Array, { rows }: Share, width: number): Float32Array {
  return rows ? pickRows(all, rows, width) : all;
}

/** Writes a share's rows to their places. @returns `all`, or `part` if it has all rows */
function putRows(all: Float32Array, part: Float32Array, { rows }: Share, width: number): Float32Array {
  if (!rows) return part;
  rows.forEach((row, place) => all.set(part.subarray(place * width, (place + 1) * width), row * width));
  return all;
}

function placesOf(experts: Uint16Array, expert: number): Int32Array {
  return Int32Array.from(experts.keys()).filter((row) => experts[row] === expert);
}
