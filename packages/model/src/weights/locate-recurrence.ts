// Finds the tensors of layers with a recurrence, whose parts `splitFused` has named.

import type { ModelConfig } from "../config/model-config.ts";
import type { RecurrenceConfig } from "../config/recurrence.ts";
import { invalid } from "../files/errors.ts";
import { countValues, type TensorStore } from "../tensor-store.ts";
import { computedTensor, selectRows } from "./computed-tensors.ts";
import {
  type AttentionRefs,
  type LinearRefs,
  type RecurrenceRefs,
  tensorRef,
  type TensorRef,
} from "./model-weights.ts";

/** Chooses rows of a product. */
export function rowsOf({ weight, bias }: LinearRefs, rows: readonly number[]): LinearRefs {
  return { weight: selectRows(weight, rows), bias: bias && selectRows(bias, rows) };
}

/**
 * Finds a recurrence.
 *
 * @param layer - beginning of the layer's names, such as `model.layers.3.`
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming the first tensor that is missing or has another shape
 */
export function locateRecurrence(store: TensorStore, config: ModelConfig, layer: string): AttentionRefs {
  const { recurrence, hiddenSize } = config;
  if (!recurrence) throw invalid(store.path, `describes no recurrence of ${layer}…`);
  const place: Place = { store, layer, hiddenSize, recurrence };
  switch (recurrence.kind) {
    case "convolution":
      return shortConvolution(place);
    case "delta":
      return gatedDelta(place);
    case "space":
      return stateSpace(place);
    default:
      throw new TypeError(`Unknown recurrence: ${String(recurrence.kind satisfies never)}`);
  }
}

interface Place {
  readonly store: TensorStore;
  readonly layer: string;
  readonly hiddenSize: number;
  readonly recurrence: RecurrenceConfig;
}

function product({ store, layer, hiddenSize }: Place, name: string, outSize: number, inSize = hiddenSize): LinearRefs {
  return { weight: tensorRef(store, `${layer}${name}.weight`, [outSize, inSize]), bias: undefined };
}

/** Finds a convolution's weights `[channels, 1, numTaps]`; GGUF files leave the 1 out. */
function convolutionOf({ store, layer, recurrence: { numTaps } }: Place, name: string, channels: number): TensorRef {
  const whole = `${layer}${name}.weight`;
  const isFlat = store.info(whole).shape.length === 2;
  return tensorRef(store, whole, isFlat ? [channels, numTaps] : [channels, 1, numTaps]);
}

const NONE = {
  convolutionBias: undefined,
  strength: undefined,
  decay: undefined,
  rates: undefined,
  rateBiases: undefined,
  skips: undefined,
  outputNorm: undefined,
} as const;

function shortConvolution(place: Place): AttentionRefs {
  const { hiddenSize } = place;
  return {
    query: product(place, "conv.query", hiddenSize),
    key: product(place, "conv.key", hiddenSize),
    value: product(place, "conv.value", hiddenSize),
    output: product(place, "conv.out_proj", hiddenSize),
    queryNorm: undefined,
    keyNorm: undefined,
    recurrence: { ...NONE, convolution: convolutionOf(place, "conv.conv", hiddenSize), firstChannels: [0, 0, 0] },
  };
}

/** Finds a vector. GGUF files may have further dimensions, of 1 or of groups. */
function vectorOf({ store, layer }: Place, name: string, size: number): TensorRef {
  const { shape } = store.info(layer + name);
  return { ...tensorRef(store, layer + name, countValues(shape) === size ? shape : [size]), shape: [size] };
}

/** Finds vectors of numbers by head. */
function headTensors(place: Place, module: string) {
  const { store, layer, recurrence } = place;
  const ofHeads = (name: string): TensorRef => vectorOf(place, `${module}.${name}`, recurrence.numValueHeads);
  // GGUF files have the rates themselves.
  const isComputed = store.has(`${layer}${module}.rates`);
  const stored = ofHeads(isComputed ? "rates" : "A_log");
  const logarithms = async (): Promise<Float32Array> =>
    (await store.readFloats(stored.name)).map((rate) => Math.log(-rate));
  const rates = isComputed ? computedTensor(stored, stored.shape, logarithms) : stored;
  return { rates, rateBiases: ofHeads("dt_bias"), ofHeads };
}

function gatedDelta(place: Place): AttentionRefs {
  const { store, layer, hiddenSize, recurrence } = place;
  const { numKeyHeads, keySize, numValueHeads, valueSize } = recurrence;
  const [keys, values] = [numKeyHeads * keySize, numValueHeads * valueSize];
  const { rates, rateBiases } = headTensors(place, "linear_attn");
  const refs: Omit<RecurrenceRefs, "strength" | "decay"> = {
    ...NONE,
    rates,
    rateBiases,
    convolution: convolutionOf(place, "linear_attn.conv1d", 2 * keys + values),
    firstChannels: [0, keys, 2 * keys],
    outputNorm: vectorOf(place, "linear_attn.norm.weight", valueSize),
  };
  const output = product(place, "linear_attn.out_proj", hiddenSize, values);
  const rest = { output, queryNorm: undefined, keyNorm: undefined };
  const own = (name: string, outSize: number): LinearRefs => product(place, `linear_attn.${name}`, outSize);
  const shared = numValueHeads / numKeyHeads;
  const gainsOf = (): readonly LinearRefs[] =>
    byHead(own("in_proj_ba", 2 * numValueHeads), numKeyHeads, [shared, shared]);
  if (!store.has(`${layer}linear_attn.in_proj_qkvz.weight`)) {
    // GGUF files of Qwen3-Next have strengths and decays of a head of keys side by side.
    const isJoined = store.has(`${layer}linear_attn.in_proj_ba.weight`);
    const [strength, decay] = isJoined ? gainsOf() : ["in_proj_b", "in_proj_a"].map((name) => own(name, numValueHeads));
    return {
      query: own("query", keys),
      key: own("key", keys),
      value: own("value", values),
      gate: own("in_proj_z", values),
      ...rest,
      recurrence: { ...refs, strength, decay },
    };
  }
  // Qwen3-Next has the parts of each head of keys side by side.
  const products = own("in_proj_qkvz", 2 * keys + 2 * values);
  const [query, key, value, gate] = byHead(products, numKeyHeads, [
    keySize,
    keySize,
    shared * valueSize,
    shared * valueSize,
  ]);
  const [strength, decay] = gainsOf();
  return { query: query!, key: key!, value: value!, gate, ...rest, recurrence: { ...refs, strength, decay } };
}

/** Splits a product whose rows are those of one head after another, by the sizes of a head's parts. */
function byHead(refs: LinearRefs, numHeads: number, sizes: readonly number[]): readonly LinearRefs[] {
  const perHead = sizes.reduce((sum, size) => sum + size, 0);
  return sizes.map((size, part) => {
    const first = sizes.slice(0, part).reduce((sum, one) => sum + one, 0);
    const rows = Array.from(
      { length: numHeads * size },
      (_, row) => Math.floor(row / size) * perHead + first + (row % size),
    );
    return rowsOf(refs, rows);
  });
}

function stateSpace(place: Place): AttentionRefs {
  const { store, layer, hiddenSize, recurrence } = place;
  const { numKeyHeads, keySize, numValueHeads, valueSize, hasConvolutionBias } = recurrence;
  const [keys, values] = [numKeyHeads * keySize, numValueHeads * valueSize];
  const channels = values + 2 * keys;
  const { rates, rateBiases, ofHeads } = headTensors(place, "mamba");
  const convolutionBias = hasConvolutionBias ? tensorRef(store, `${layer}mamba.conv1d.bias`, [channels]) : undefined;
  return {
    query: product(place, "mamba.query", keys),
    key: product(place, "mamba.key", keys),
    value: product(place, "mamba.value", values),
    gate: product(place, "mamba.gate", values),
    output: product(place, "mamba.out_proj", hiddenSize, values),
    queryNorm: undefined,
    keyNorm: undefined,
    recurrence: {
      convolution: convolutionOf(place, "mamba.conv1d", channels),
      convolutionBias,
      // Channels are those of values, then keys, then queries.
      firstChannels: [values + keys, values, 0],
      strength: undefined,
      decay: product(place, "mamba.decay", numValueHeads),
      rates,
      rateBiases,
      skips: ofHeads("D"),
      outputNorm: vectorOf(place, "mamba.norm.weight", values),
    },
  };
}
