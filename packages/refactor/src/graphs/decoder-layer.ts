// The two halves of a decoder's layer, written once for all graphs. Exports, refactoring and tuning only differ in the
// operations that a layer consists of.

import type { FeedForwardRefs, LayerRefs, LinearRefs, ModelConfig, TensorRef } from "@readme-moe/model";

/** Operations on the rows of a graph, with the weights of one half of a layer under the names below. */
export interface LayerOperations<Rows> {
  /** Tells whether the half has the weight `name`. */
  has(name: string): boolean;
  /** Multiplies rows with `<name>.weight` and adds `<name>.bias`, if there is one. */
  linear(name: string, x: Rows): Rows;
  /** RMS norm of whole rows, or of each head of each row, with the scale `name`. */
  norm(name: string, x: Rows, over: "row" | "head"): Rows;
  /** Rotates queries and keys by their positions, and computes each head's weighted sums of values. */
  attend(queries: Rows, keys: Rows, values: Rows): Rows;
  /** `activation(gate) · up`, element by element. */
  gate(gate: Rows, up: Rows): Rows;
  add(a: Rows, b: Rows): Rows;
  scale(x: Rows, factor: number): Rows;
}

/** Parts of a config that the structure of both halves depends on. */
export type HalfConfig = Pick<ModelConfig, "qkNorm" | "residualScale">;

/** Computes the input of a half's products: the residual stream, normed in families that norm it in front. */
export function halfInput<Rows>(ops: LayerOperations<Rows>, stream: Rows): Rows {
  return ops.has("norm") ? ops.norm("norm", stream, "row") : stream;
}

/** Adds a half's output to the residual stream: normed in families that norm it behind, and scaled. */
export function joinStream<Rows>(
  ops: LayerOperations<Rows>,
  { residualScale }: HalfConfig,
  stream: Rows,
  output: Rows,
): Rows {
  const normed = ops.has("output_norm") ? ops.norm("output_norm", output, "row") : output;
  return ops.add(stream, residualScale === 1 ? normed : ops.scale(normed, residualScale));
}

/**
 * Computes the residual stream behind attention.
 *
 * @param input - the half's input, if the caller needs it, too
 */
export function attentionHalf<Rows>(
  ops: LayerOperations<Rows>,
  config: HalfConfig,
  stream: Rows,
  input: Rows = halfInput(ops, stream),
): Rows {
  const normed = (name: "query" | "key"): Rows => {
    const rows = ops.linear(name, input);
    const over = config.qkNorm === "all-heads" ? "row" : "head";
    return ops.has(`${name}_norm`) ? ops.norm(`${name}_norm`, rows, over) : rows;
  };
  const attended = ops.attend(normed("query"), normed("key"), ops.linear("value", input));
  return joinStream(ops, config, stream, ops.linear("output", attended));
}

/** Computes the activations of an FFN's neurons. @param part - name of the FFN, such as `expert` or `shared` */
export function neuronsOf<Rows>(ops: LayerOperations<Rows>, part: string, input: Rows): Rows {
  return ops.gate(ops.linear(`${part}.gate`, input), ops.linear(`${part}.up`, input));
}

/** Computes the residual stream behind the FFNs `parts`. */
export function feedForwardHalf<Rows>(
  ops: LayerOperations<Rows>,
  config: HalfConfig,
  stream: Rows,
  parts: readonly string[],
): Rows {
  const input = halfInput(ops, stream);
  const outputs = parts.map((part) => ops.linear(`${part}.down`, neuronsOf(ops, part, input)));
  const output = outputs.reduce((sum, next) => ops.add(sum, next));
  return joinStream(ops, config, stream, output);
}

/** Weights of a half by the names that `LayerOperations` has for them. */
export type NamedWeights = ReadonlyMap<string, TensorRef>;

export function attentionWeights({ attentionNorm, attention, attentionOutputNorm }: LayerRefs): NamedWeights {
  const { query, key, value, output, queryNorm, keyNorm } = attention;
  return named({
    norm: attentionNorm,
    ...linearWeights("query", query),
    ...linearWeights("key", key),
    ...linearWeights("value", value),
    ...linearWeights("output", output),
    query_norm: queryNorm,
    key_norm: keyNorm,
    output_norm: attentionOutputNorm,
  });
}

export function feedForwardNorms({ ffnNorm, ffnOutputNorm }: LayerRefs): NamedWeights {
  return named({ norm: ffnNorm, output_norm: ffnOutputNorm });
}

export function feedForwardWeights(part: string, { gate, up, down }: FeedForwardRefs): NamedWeights {
  return named({
    ...linearWeights(`${part}.gate`, gate),
    ...linearWeights(`${part}.up`, up),
    ...linearWeights(`${part}.down`, down),
  });
}

function linearWeights(name: string, { weight, bias }: LinearRefs): Record<string, TensorRef | undefined> {
  return { [`${name}.weight`]: weight, [`${name}.bias`]: bias };
}

function named(refs: Readonly<Record<string, TensorRef | undefined>>): NamedWeights {
  return new Map(Object.entries(refs).flatMap(([name, ref]) => (ref ? [[name, ref]] : [])));
}
