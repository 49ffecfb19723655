// An independent, plain implementation of the inference kernel: one sequence, no pages, no vectors, no threads. Slow
// on purpose; the kernel has to give the same bits.

import type { DecoderDescription, KvPrecision, LayerDescription } from "@readme-moe/kernel";
import { addedBy, type PlainLoraFactors } from "./plain-lora.ts";
import { attend, cached, rotate, type Cached } from "./plain-kernel-attention.ts";
import { plainRow, type PlainRow } from "./plain-kernel-logits.ts";
import { add, capped, divide, exponential, laneSum, multiply, subtract } from "./plain-kernel-numbers.ts";
import { plainChoice, plainMix, type PlainRouter, plainSharedWeight } from "./plain-mixture.ts";
import { product, weightsOf, type PlainWeights } from "./plain-kernel-product.ts";
import { emptyState, gated, type PlainRecurrence, type PlainState, recur } from "./plain-recurrence.ts";

type Norms = "attentionNorm" | "queryNorm" | "keyNorm" | "attentionOutputNorm" | "ffnNorm" | "ffnOutputNorm";
type Products = "query" | "key" | "value" | "attentionOutput";
type Mixing = "outputGate" | "sinks" | "recurrence";

/** An FFN with its weights in memory. */
export interface PlainFeedForward {
  readonly gate: PlainWeights | undefined;
  readonly up: PlainWeights;
  readonly down: PlainWeights;
}

/** A layer with its weights in memory. */
export type PlainLayer = Omit<LayerDescription, Norms | Products | Mixing | "shared" | "experts" | "mixture"> &
  Readonly<Record<Norms, Float32Array | undefined>> &
  Readonly<Record<Products, PlainWeights>> & {
    readonly outputGate?: PlainWeights | undefined;
    readonly sinks?: Float32Array | undefined;
    readonly recurrence?: (PlainRecurrence & Record<"strength" | "decay", PlainWeights | undefined>) | undefined;
    readonly shared: PlainFeedForward | undefined;
    readonly experts: readonly PlainFeedForward[];
    readonly mixture?: PlainMixture | undefined;
  };

/** Experts of which the layer chooses some for each token. */
interface PlainMixture extends PlainRouter {
  readonly experts: readonly PlainFeedForward[];
}

/** One token of a sequence. */
export interface PlainToken {
  readonly id: number;
  readonly expert: number;
  readonly lora?: PlainLora | undefined;
}

/** A lora of a model: changes of some products, by their weights. */
export interface PlainLora {
  readonly precision: "fp32" | "fp16" | "int8";
  readonly products: ReadonlyMap<PlainWeights, PlainLoraFactors>;
}

/** A model with its weights in memory. */
export interface PlainModel extends Omit<DecoderDescription, "embedding" | "layers" | "finalNorm" | "head"> {
  readonly embedding: PlainWeights;
  readonly layers: readonly PlainLayer[];
  readonly finalNorm: Float32Array | undefined;
  readonly head: PlainWeights;
  /** By set and position: cosines, then sines. */
  readonly angles: readonly (readonly Float32Array[])[];
}

export interface PlainOptions {
  readonly kvPrecision: KvPrecision;
  /** Whether float32 products have a fused multiply-add, which they have outside WebAssembly. */
  readonly isFused: boolean;
}

/** Logits of every position of a sequence. */
export function plainRows(
  model: PlainModel,
  tokens: readonly PlainToken[],
  options: PlainOptions,
): readonly PlainRow[] {
  const run = new Run(model, options);
  return tokens.map((token, position) => run.next(token, position));
}

/**
 * Sums of the squares of what each product takes in on all positions of some sequences, as `StepResults.inputSquares`.
 */
export function plainInputSquares(
  model: PlainModel,
  sequences: readonly (readonly PlainToken[])[],
  options: PlainOptions,
): Float32Array {
  const sums = new Map<PlainWeights | PlainLayer, Float64Array>();
  for (const tokens of sequences) {
    const run = new Run(model, options, (of, input) => {
      const sum = sums.get(of) ?? new Float64Array(input.length);
      for (const [i, x] of input.entries()) sum[i] = (sum[i] as number) + x * x;
      sums.set(of, sum);
    });
    for (const [position, token] of tokens.entries()) run.next(token, position);
  }
  const products = model.layers.flatMap((layer) => [
    layer.query,
    layer.attentionOutput,
    layer,
    ...(layer.shared ? [layer.shared.down] : []),
    ...(layer.mixture?.experts ?? layer.experts).flatMap(({ up, down }) => [up, down]),
  ]);
  const zeros = (of: PlainWeights | PlainLayer): Float64Array =>
    new Float64Array("up" in of || !("numIn" in of) ? model.hiddenSize : of.numIn);
  return Float32Array.from(products.flatMap((of) => Array.from(sums.get(of) ?? zeros(of))));
}

/** Experts that each mixture chooses at every position of a sequence, by layer. */
export function plainChoices(
  model: PlainModel,
  tokens: readonly PlainToken[],
  options: PlainOptions,
): ReadonlyMap<PlainLayer, readonly (readonly number[])[]> {
  const chosen = new Map<PlainLayer, (readonly number[])[]>(model.layers.map((layer) => [layer, []]));
  const run = new Run(model, options, (of, input) => {
    if (!("mixture" in of) || !of.mixture) return;
    chosen.get(of)?.push(plainChoice(of.mixture, input).map(({ expert }) => expert));
  });
  for (const [position, token] of tokens.entries()) run.next(token, position);
  return chosen;
}

/** Keys and values of one layer, by key head and position. */
interface Cache {
  readonly keys: Cached[][];
  readonly values: Cached[][];
  readonly state: PlainState | undefined;
}

function noHeads({ numKvHeads }: PlainLayer): Cached[][] {
  return Array.from({ length: numKvHeads }, () => []);
}

class Run {
  readonly #model: PlainModel;
  readonly #options: PlainOptions;
  readonly #caches: readonly Cache[];
  #lora: PlainLora | undefined;
  readonly #observe: (of: PlainWeights | PlainLayer, input: Float32Array) => void;

  constructor(
    model: PlainModel,
    options: PlainOptions,
    observe: (of: PlainWeights | PlainLayer, input: Float32Array) => void = () => undefined,
  ) {
    this.#observe = observe;
    this.#model = model;
    this.#options = options;
    this.#caches = model.layers.map((layer) => ({
      keys: noHeads(layer),
      values: noHeads(layer),
      state: layer.recurrence && emptyState(layer.recurrence),
    }));
  }

  next({ id, expert, lora }: PlainToken, position: number): PlainRow {
    this.#lora = lora;
    const { embedding, embeddingScale, layers, finalNorm, head, logitScale, caps } = this.#model;
    let stream: Float32Array = weightsOf(embedding, id).map((x) => multiply(x, Math.fround(embeddingScale)));
    for (const [index, layer] of layers.entries()) {
      const attended = this.#attend(index, this.#norm(stream, layer.attentionNorm), position);
      stream = this.#updated(stream, attended, { norm: layer.attentionOutputNorm, scale: layer.residualScale });
      const fed = this.#feedForwards(layer, this.#norm(stream, layer.ffnNorm), expert);
      stream = this.#updated(stream, fed, { norm: layer.ffnOutputNorm, scale: layer.residualScale });
    }
    const logits = this.#product(head, this.#norm(stream, finalNorm));
    return plainRow(logits.map((logit) => capped(multiply(logit, Math.fround(logitScale)), caps?.logits)));
  }

  #attend(index: number, input: Float32Array, position: number): Float32Array {
    const layer = this.#model.layers[index] as PlainLayer;
    const { keys, values, state } = this.#caches[index] as Cache;
    const { outputGate, recurrence } = layer;
    const gate = outputGate && this.#product(outputGate, input);
    if (recurrence && state) {
      const [query, key, value] = [layer.query, layer.key, layer.value].map((one) => this.#product(one, input));
      const [strength, decay] = [recurrence.strength, recurrence.decay].map((one) => one && this.#product(one, input));
      const products = { query: query!, key: key!, value: value!, gate, strength, decay };
      const out = recur(recurrence, products, state, (row, weights) => this.#norm(row, weights));
      return this.#product(layer.attentionOutput, out);
    }
    const angles = layer.angleSet === undefined ? undefined : this.#model.angles[layer.angleSet]?.[position];
    const turned = (head: Float32Array): Float32Array => (angles ? rotate(head, angles) : head);
    const kept = (head: Float32Array): Cached => cached(head, this.#options.kvPrecision);
    const ofQueries = this.#model.angles[layer.queryAngleSet ?? -1]?.[position] ?? angles;
    const queries = this.#normedHeads(this.#product(layer.query, input), layer.queryNorm, layer).map((head) =>
      ofQueries ? rotate(head, ofQueries) : head,
    );
    const newKeys = this.#normedHeads(this.#product(layer.key, input), layer.keyNorm, layer).map(turned);
    for (const [head, key] of newKeys.entries()) keys[head]?.push(kept(key));
    for (const [head, value] of split(this.#product(layer.value, input), layer).entries())
      values[head]?.push(kept(value));
    const outputs = queries.map((query, head) => {
      const kvHead = Math.floor(head / (layer.numHeads / layer.numKvHeads));
      const window = layer.slidingWindow ?? Infinity;
      const sight = { position, window, scale: Math.fround(layer.attentionScale), sink: layer.sinks?.[head] };
      return attend(query, keys[kvHead] ?? [], values[kvHead] ?? [], { ...sight, cap: this.#model.caps?.scores });
    });
    const all = Float32Array.from(outputs.flatMap((output) => Array.from(output)));
    return this.#product(layer.attentionOutput, gate ? gated(all, gate) : all);
  }

  #normedHeads(projected: Float32Array, norm: Float32Array | undefined, layer: PlainLayer): readonly Float32Array[] {
    if (layer.normsAllHeads) return split(this.#norm(projected, norm), layer);
    return split(projected, layer).map((head) => this.#norm(head, norm));
  }

  /** Outputs of the part that all tokens use, and of the token's experts. */
  #feedForwards(layer: PlainLayer, input: Float32Array, expert: number): Float32Array {
    this.#observe(layer, input);
    const { shared, experts, mixture, activation } = layer;
    const outputs = [shared, mixture ? undefined : experts[expert]]
      .filter((part) => part !== undefined)
      .map((part) => this.#feedForward(part, activation, input));
    if (mixture) {
      const outputOf = (chosen: number): Float32Array =>
        this.#feedForward(mixture.experts[chosen] as PlainFeedForward, activation, input);
      outputs.push(plainMix(plainChoice(mixture, input), outputOf, input.length));
    }
    const [first, second] = outputs;
    const weight = mixture && second ? plainSharedWeight(mixture, input) : 1;
    return (first as Float32Array).map((value, i) =>
      second ? add(multiply(value, weight), second[i] as number) : value,
    );
  }

  #feedForward(
    { gate, up, down }: PlainFeedForward,
    activation: PlainLayer["activation"],
    input: Float32Array,
  ): Float32Array {
    // Without a gate there is nothing to clamp.
    const activate = activation === "silu" ? silu : gelu;
    const values = this.#product(up, input);
    const gates = gate && this.#product(gate, input);
    const gatedValue = activation === "clamped" ? clamped : (g: number, u: number) => multiply(activate(g), u);
    return this.#product(
      down,
      values.map((value, i) => (gates ? gatedValue(gates[i] as number, value) : activate(value))),
    );
  }

  #updated(
    stream: Float32Array,
    update: Float32Array,
    { norm, scale }: { readonly norm: Float32Array | undefined; readonly scale: number },
  ): Float32Array {
    const normed = this.#norm(update, norm);
    return stream.map((x, i) => add(x, multiply(normed[i] as number, Math.fround(scale))));
  }

  #norm(x: Float32Array, weights: Float32Array | undefined): Float32Array {
    if (!weights) return x;
    const mean = divide(laneSum(x.map((value) => multiply(value, value))), x.length);
    const root = Math.fround(Math.sqrt(add(mean, Math.fround(this.#model.normEpsilon))));
    const factor = divide(1, root);
    return x.map((value, i) => multiply(multiply(value, factor), weights[i] as number));
  }

  #product(weights: PlainWeights, input: Float32Array): Float32Array {
    this.#observe(weights, input);
    const outputs = product(weights, input, this.#options.isFused);
    const low = this.#lora?.products.get(weights);
    if (!this.#lora || !low) return outputs;
    const more = addedBy(low, this.#lora.precision, input);
    return outputs.map((output, i) => add(output, more[i] as number));
  }
}

function split(row: Float32Array, { headSize }: PlainLayer): readonly Float32Array[] {
  return Array.from({ length: row.length / headSize }, (_, head) => row.slice(head * headSize, (head + 1) * headSize));
}

function silu(x: number): number {
  return divide(x, add(1, exponential(subtract(0, x))));
}

function clamped(gate: number, up: number): number {
  const low = Math.min(gate, 7);
  const value = divide(low, add(1, exponential(multiply(low, Math.fround(-1.702)))));
  return multiply(add(Math.max(Math.min(up, 7), -7), 1), value);
}

const ROOT_2_BY_PI = Math.fround(0.797_884_560_8);
const CUBIC = Math.fround(0.044_715);

/** `x (1 + tanh u) / 2`, which is `x - x / (1 + exp(2 u))`. */
function gelu(x: number): number {
  const u = multiply(ROOT_2_BY_PI, add(x, multiply(CUBIC, multiply(x, multiply(x, x)))));
  return subtract(x, divide(x, add(1, exponential(add(u, u)))));
}
