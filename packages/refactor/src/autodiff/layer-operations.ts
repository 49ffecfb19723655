// A decoder's layer on a tape: the operations of `decoder` in `graphs`, with gradients.

import type { Activation, LayerConfig, ModelConfig } from "@readme-moe/model";
import type * as decoder from "../graphs/decoder-layer.ts";
import { add, geglu, scale, swiglu } from "./arithmetic.ts";
import { causalAttention } from "./attention.ts";
import { rmsNorm } from "./normalization.ts";
import { linear, linearWithLora, type LoraFactor } from "./products.ts";
import { rotary, rotaryTables, type RotaryTables } from "./rotary.ts";
import { reshape } from "./shapes.ts";
import { ANY_ROWS, type Tape, type Tensor } from "./tape.ts";

/** Weights of one half of a layer by name. */
export interface TapeWeights {
  has(name: string): boolean;
  /** Finds a weight. @throws {TypeError} when there is none */
  get(name: string): Tensor;
  /** Factor of changes of low rank. @default 1 */
  readonly change?: LoraFactor | undefined;
}

/** Properties of a graph of attention. */
export interface AttentionSetting {
  readonly layer: LayerConfig;
  /** Length of all sequences. */
  readonly sequenceTokens: number;
}

/** Functions of an FFN's gate and its other input. */
const GATES: Readonly<Record<Activation, typeof swiglu>> = { silu: swiglu, "gelu-tanh": geglu };

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
    return GATES[this.#config.activation](this.#tape, gate, up);
  }

  add(a: Tensor, b: Tensor): Tensor {
    return add(this.#tape, a, b);
  }

  scale(x: Tensor, factor: number): Tensor {
    return scale(this.#tape, x, factor);
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
