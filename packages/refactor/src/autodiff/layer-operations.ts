// A decoder's layer on a tape: the operations of `decoder` in `graphs`, with gradients.

import { decoderActivation, type LayerConfig, type ModelConfig, ropeTables, type RopeConfig } from "@readme-moe/model";
import type * as decoder from "../graphs/decoder-layer.ts";
import type { GraphBuilder, Value } from "../graphs/graph-builder.ts";
import * as operators from "../graphs/operators.ts";
import {
  add,
  geglu,
  timesNumber,
  swiglu,
  linear,
  linearWithLora,
  type LoraFactor,
  reshape,
  matmul,
  transpose,
  shift,
} from "./arithmetic.ts";
import { ANY_ROWS, type Tape, type Tensor } from "./tape.ts";

/** Weights of one half of a layer by name. */
export interface TapeWeights {
  has(name: string): boolean;
  /** Finds a weight. @throws {TypeError} when there is none */
  get(name: string): Tensor;
  /** Factor of changes of low rank. @default 1 */
  readonly change?: LoraFactor | undefined;
}

/** Makes weights out of what they come from, each declared on the tape when it is first used. */
export function tapeWeights<Source>(
  sources: ReadonlyMap<string, Source>,
  declare: (name: string, source: Source) => Tensor,
  change?: LoraFactor,
): TapeWeights {
  const made = new Map<string, Tensor>();
  return {
    change,
    has: (name) => sources.has(name),
    get(name) {
      const source = sources.get(name);
      if (source === undefined) throw new TypeError(`Expected a weight \`${name}\`, got none`);
      const tensor = made.get(name) ?? declare(name, source);
      made.set(name, tensor);
      return tensor;
    },
  };
}

export interface AttentionSetting {
  readonly layer: LayerConfig;
  readonly sequenceTokens: number;
}

/** Functions of an FFN's gate and its other input. */
const GATES = { silu: swiglu, "gelu-tanh": geglu } as const;

/** The rotary tables of each tape by set of angles: its layers share them. */
const tablesOf = new WeakMap<Tape, Map<number, RotaryTables>>();

/** Appends the operations of one half of a layer to a tape. */
export class TapeOperations implements decoder.LayerOperations<Tensor> {
  readonly #tape: Tape;
  readonly #weights: TapeWeights;
  readonly #config: ModelConfig;
  readonly #attention: AttentionSetting | undefined;

  /** @param attention - absent for FFNs, which take rows in any order */
  constructor(tape: Tape, weights: TapeWeights, config: ModelConfig, attention?: AttentionSetting) {
    this.#tape = tape;
    this.#weights = weights;
    this.#config = config;
    this.#attention = attention;
  }

  has(name: string): boolean {
    return this.#weights.has(name);
  }

  /** Also adds the change of low rank of `<name>.right` and `<name>.left`, if there is one. */
  linear(name: string, x: Tensor): Tensor {
    const weight = this.#weights.get(`${name}.weight`);
    const bias = this.has(`${name}.bias`) ? this.#weights.get(`${name}.bias`) : undefined;
    if (!this.has(`${name}.left`)) return linear(this.#tape, x, weight, bias);
    const [left, right] = [this.#weights.get(`${name}.left`), this.#weights.get(`${name}.right`)];
    return linearWithLora(this.#tape, x, { weight, left, right, bias, ...this.#weights.change });
  }

  norm(name: string, x: Tensor, over: "row" | "head"): Tensor {
    const { rmsNormEpsilon: epsilon, normOffset: offset, headSize } = this.#config;
    const weight = this.#weights.get(name);
    if (over === "row") return rmsNorm(this.#tape, x, weight, { epsilon, offset });
    const [rows = 0, width = 0] = x.shape;
    const numHeads = rows === ANY_ROWS ? ANY_ROWS : (rows * width) / headSize;
    const heads = reshape(this.#tape, x, [numHeads, headSize]);
    return reshape(this.#tape, rmsNorm(this.#tape, heads, weight, { epsilon, offset }), x.shape);
  }

  attend(queries: Tensor, keys: Tensor, values: Tensor): Tensor {
    if (!this.#attention) throw new TypeError("Expected the properties of attention, got those of an FFN");
    const { layer, sequenceTokens: tokens } = this.#attention;
    const { numHeads, numKvHeads, headSize, attentionScale } = this.#config;
    const { angleSet: set } = layer;
    const positioned = (x: Tensor): Tensor => (set === undefined ? x : this.#rotate(x, set, tokens));
    const rows = { query: positioned(queries), key: positioned(keys), value: values };
    const sizes = { tokens, numHeads, numKvHeads, headSize, window: layer.slidingWindow, scale: attentionScale };
    return causalAttention(this.#tape, rows, sizes);
  }

  gate(gate: Tensor, up: Tensor): Tensor {
    return GATES[decoderActivation(this.#config)](this.#tape, gate, up);
  }

  add(a: Tensor, b: Tensor): Tensor {
    return add(this.#tape, a, b);
  }

  scale(x: Tensor, factor: number): Tensor {
    return timesNumber(this.#tape, x, factor);
  }

  #rotate(x: Tensor, set: number, tokens: number): Tensor {
    const tables = this.#rotaryTables(set, tokens);
    const { headSize, rotatedSize } = this.#config;
    const [rows = 0, width = 0] = x.shape;
    const sequences = rows === ANY_ROWS ? ANY_ROWS : rows / tokens;
    const partial = rotatedSize < headSize ? { rotatedSize, numHeads: width / headSize } : undefined;
    const apart = reshape(this.#tape, x, [sequences, tokens, width]);
    return reshape(this.#tape, rotary(this.#tape, apart, tables, partial), x.shape);
  }

  #rotaryTables(set: number, tokens: number): RotaryTables {
    const bySet = tablesOf.get(this.#tape) ?? new Map<number, RotaryTables>();
    const { ropes, rotatedSize } = this.#config;
    const tables = bySet.get(set) ?? rotaryTables(this.#tape, { set, rope: ropes[set]!, rotatedSize, tokens });
    tablesOf.set(this.#tape, bySet.set(set, tables));
    return tables;
  }
}

// Causal self-attention of whole sequences without a past, grouped heads included.

/**
 * Queries `[sequences · tokens, numHeads · headSize]`, keys and values `[sequences · tokens, numKvHeads · headSize]`.
 */
interface AttentionRows {
  readonly query: Tensor;
  readonly key: Tensor;
  readonly value: Tensor;
}

interface AttentionSizes {
  /** Length of each sequence. */
  readonly tokens: number;
  readonly numHeads: number;
  /** Number of key heads, each of which serves `numHeads / numKvHeads` heads. */
  readonly numKvHeads: number;
  readonly headSize: number;
  /** Number of positions that a query sees, its own included. @default all */
  readonly window?: number | undefined;
  /** Factor of scores. @default 1 / √headSize */
  readonly scale?: number | undefined;
}

/**
 * Computes `softmax(query · keyᵀ · scale) · value` of each head. Queries and keys are already rotated. The result has
 * the shape of the queries.
 */
export function causalAttention(tape: Tape, { query, key, value }: AttentionRows, sizes: AttentionSizes): Tensor {
  const { tokens, numHeads, numKvHeads, headSize, window, scale = 1 / Math.sqrt(headSize) } = sizes;
  const [numRows = 0] = query.shape;
  const sequences = numRows === ANY_ROWS ? ANY_ROWS : numRows / tokens;
  const heads = (x: Tensor, count: number): Tensor =>
    transpose(tape, reshape(tape, x, [sequences, tokens, count, headSize]), [0, 2, 1, 3]);
  // Query heads with the same keys follow each other, as more rows of one product.
  const rows = (numHeads / numKvHeads) * tokens;
  const queries = reshape(tape, heads(query, numHeads), [sequences, numKvHeads, rows, headSize]);
  const scores = matmul(tape, queries, heads(key, numKvHeads), { alpha: scale, transB: true });
  const square = reshape(tape, scores, [sequences, numHeads, tokens, tokens]);
  const weights = reshape(tape, causalSoftmax(tape, square, window), scores.shape);
  const attended = matmul(tape, weights, heads(value, numKvHeads));
  const apart = reshape(tape, attended, [sequences, numHeads, tokens, headSize]);
  return reshape(tape, transpose(tape, apart, [0, 2, 1, 3]), [numRows, numHeads * headSize]);
}

// Far below any score, and finite, so that products with zero stay numbers.
const HIDDEN = -1e30;

const masks = new WeakMap<GraphBuilder, Map<string, Value>>();

/**
 * Returns the mask that is added to scores `[…, tokens, tokens]`: zero where the column is neither after the row nor
 * `window` or more before it. A graph has one mask for each size.
 */
export function causalMask(g: GraphBuilder, tokens: number, window: number = tokens): Value {
  const known = masks.get(g) ?? new Map<string, Value>();
  masks.set(g, known);
  const name = `causal_mask:${tokens}:${window}`;
  const value = known.get(name) ?? g.weight(name, "float32", [tokens, tokens], () => maskBytes(tokens, window));
  known.set(name, value);
  return value;
}

function maskBytes(tokens: number, window: number): Uint8Array {
  const mask = new Float32Array(tokens * tokens);
  for (let row = 0; row < tokens; row++) {
    mask.fill(HIDDEN, row * tokens + row + 1, (row + 1) * tokens);
    mask.fill(HIDDEN, row * tokens, row * tokens + Math.max(0, row + 1 - window));
  }
  return new Uint8Array(mask.buffer);
}

const { Neg, RotaryEmbedding } = operators;

/** Constants of rotary embeddings: see `ropeTables`. */
interface RotaryTables {
  /** int64 `[batch, tokens]`, or `[1]` for the first position of all rows. */
  readonly positions: Tensor;
  /** `[maxPositions, rotatedSize / 2]` */
  readonly cos: Tensor;
  readonly sin: Tensor;
}

/** Heads of which a part is rotated. */
interface PartialHeads {
  /** Number of each head's dimensions that are rotated, from its first one. */
  readonly rotatedSize: number;
  readonly numHeads: number;
}

/** One set of angles for sequences of `tokens` tokens. */
interface AngleSet {
  /** Index of the set, which makes the names of constants different. */
  readonly set: number;
  readonly rope: RopeConfig;
  readonly rotatedSize: number;
  readonly tokens: number;
}

/** Makes the tables of sequences of `tokens` tokens, which begin at position 0. */
export function rotaryTables(tape: Tape, { set, rope, rotatedSize, tokens }: AngleSet): RotaryTables {
  const shape = [tokens, rotatedSize / 2];
  const { cos, sin } = ropeTables(rope, rotatedSize, 0, tokens);
  return {
    positions: tape.constant(`positions.${set}`, "int64", [1], BigInt64Array.of(0n)),
    cos: tape.constant(`cos.${set}`, "float32", shape, cos),
    sin: tape.constant(`sin.${set}`, "float32", shape, sin),
  };
}

/**
 * Rotates pairs `(i, i + rotatedSize / 2)` of each head; `x` `[batch, tokens, numHeads · headSize]`.
 *
 * @param partial - @default whole heads are rotated
 */
export function rotary(tape: Tape, x: Tensor, { positions, cos, sin }: RotaryTables, partial?: PartialHeads): Tensor {
  const g = tape.graph;
  const tables = { positions: positions.value, cos: cos.value, sin: sin.value };
  return tape.record(RotaryEmbedding(g, x.value, tables, partial), x.shape, [
    // The transpose of a rotation is the rotation by the opposite angle.
    [x, (gradient) => RotaryEmbedding(g, gradient, { ...tables, sin: Neg(g, sin.value) }, partial)],
  ]);
}

const {
  Add,
  Mul,
  Reciprocal,
  ReduceMean,
  ReduceSum,
  Reshape,
  SimplifiedLayerNormalization,
  Softmax,
  Sqrt,
  Sub,
  Unsqueeze,
} = operators;

/** Number under a norm's root, and the number that is added to its stored scales. */
interface NormNumbers {
  readonly epsilon: number;
  /** @default 0 */
  readonly offset?: number;
}

/** `x / rms(x) · (stored + offset)` over the last axis; `x` `[rows, size]`, `stored` `[size]`. */
export function rmsNorm(tape: Tape, x: Tensor, stored: Tensor, { epsilon, offset = 0 }: NormNumbers): Tensor {
  const g = tape.graph;
  const scale = offset === 0 ? stored : shift(tape, stored, offset);
  if (!x.needsGradient && !scale.needsGradient) {
    return tape.record(SimplifiedLayerNormalization(g, x.value, scale.value, epsilon), x.shape, []);
  }
  const square = ReduceMean(g, Mul(g, x.value, x.value), 1);
  // Composed of plain operators: the inverse deviation, an optional output of the runtime's norm, is wrong on some
  // devices.
  const inverse = Reciprocal(g, Sqrt(g, Add(g, square, g.floats([epsilon]))));
  const normed = Mul(g, x.value, inverse);
  return tape.record(Mul(g, normed, scale.value), x.shape, [
    [
      x,
      (gradient) => {
        const scaled = Mul(g, gradient, scale.value);
        const along = ReduceMean(g, Mul(g, scaled, normed), 1);
        return Mul(g, inverse, Sub(g, scaled, Mul(g, normed, along)));
      },
    ],
    [scale, (gradient) => Reshape(g, ReduceSum(g, Mul(g, gradient, normed), 0), scale.shape)],
  ]);
}

/**
 * Softmax over the last axis of `[…, tokens, tokens]`, in which a row sees columns up to its own index.
 *
 * @param window - number of columns that a row sees, its own included; all by default
 */
export function causalSoftmax(tape: Tape, scores: Tensor, window?: number): Tensor {
  const g = tape.graph;
  const mask = causalMask(g, scores.shape.at(-1)!, window);
  const last = scores.shape.length - 1;
  const weights = Softmax(g, Add(g, scores.value, mask), -1);
  return tape.record(weights, scores.shape, [
    [
      scores,
      (gradient) => {
        const along = Unsqueeze(g, ReduceSum(g, Mul(g, gradient, weights), last), [last]);
        return Mul(g, weights, Sub(g, gradient, along));
      },
    ],
  ]);
}
