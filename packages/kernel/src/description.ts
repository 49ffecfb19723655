// Description of a model for the kernel: plain data from which the packed file is written. `native/kernel.h` has the
// same layout.

import type { Activation, SoftCaps } from "@readme-moe/model";
import { formatNumber, type PackedTensor } from "./pack/block-types.ts";

/** One layer: attention or a recurrence, then an FFN. Norms that a family does not have are `undefined`. */
export interface LayerDescription {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headSize: number;
  /** Index of the set of angles (`setAngles`) that rotates queries and keys; `undefined` for layers without RoPE. */
  readonly angleSet: number | undefined;
  /** Index of the set that rotates queries. @default `angleSet` */
  readonly queryAngleSet?: number | undefined;
  /** Number of a head's dimensions that are rotated, from its first one. */
  readonly rotatedSize: number;
  /** Number of positions that a query sees up to its own, in an encoder from its own on too; `undefined` sees all. */
  readonly slidingWindow: number | undefined;
  /** Factor of attention scores before the softmax. */
  readonly attentionScale: number;
  /** Factor of what attention and FFN add to the residual stream. */
  readonly residualScale: number;
  readonly activation: Activation;
  /** Whether the norms of queries and keys are taken over all heads together. @default false */
  readonly normsAllHeads?: boolean | undefined;
  readonly attentionNorm: PackedTensor | undefined;
  /** Norms whose results replace the residual stream. @default none */
  readonly streamNorms?: readonly ("attention" | "ffn")[] | undefined;
  readonly query: PackedTensor;
  readonly key: PackedTensor | undefined;
  readonly value: PackedTensor | undefined;
  readonly queryNorm: PackedTensor | undefined;
  readonly keyNorm: PackedTensor | undefined;
  /** Norm of each head's values. @default none */
  readonly valueNorm?: PackedTensor | undefined;
  /** Earlier layer whose keys and values attention reads, in place of `key` and `value`. @default none */
  readonly keysOf?: number | undefined;
  /** Product whose sigmoid, of a recurrence SiLU, multiplies what `attentionOutput` takes. @default none */
  readonly outputGate?: PackedTensor | undefined;
  /** Scores of heads, a table of one row, that take weight from those of positions. @default none */
  readonly sinks?: PackedTensor | undefined;
  /** Mixing of tokens by a recurrence; `numKvHeads` are then heads of queries and keys. @default attention */
  readonly recurrence?: RecurrenceDescription | undefined;
  readonly attentionOutput: PackedTensor;
  readonly attentionOutputNorm: PackedTensor | undefined;
  readonly ffnNorm: PackedTensor | undefined;
  /** FFN that every token uses; a dense model's whole FFN. */
  readonly shared: FeedForwardDescription | undefined;
  /** One per expert, of equal sizes; a token uses its expert's. @default none */
  readonly experts?: readonly ExpertDescription[] | undefined;
  /** Experts that the layer itself chooses for each token, in place of `experts`. @default none */
  readonly mixture?: MixtureDescription | undefined;
  readonly ffnOutputNorm: PackedTensor | undefined;
  /** Update of the residual stream by the layer's own inputs, `DecoderDescription.layerInputs`. @default none */
  readonly input?: LayerInputDescription | undefined;
  /** Factors of the residual stream behind the layer, a table of one row. @default none */
  readonly streamScale?: PackedTensor | undefined;
  /** Products of latent attention; `keyNorm` is that of the key's latent row, and there is no `value`. @default none */
  readonly latent?: LatentDescription | undefined;
}

/** Products of latent attention besides those of a layer; `native/kernel.h` has the order of rows. */
interface LatentDescription {
  /** Product in front of `query`, and the norm of its outputs. @default queries are of the stream */
  readonly queryLow: PackedTensor | undefined;
  readonly queryLowNorm: PackedTensor | undefined;
  /** One per head, `[latent, plain]`. */
  readonly queries: readonly PackedTensor[];
  /** One per head, `[value, latent]`. */
  readonly outputs: readonly PackedTensor[];
}

/** `norm(output(activation(gate(stream)) * input))` behind the FFN. */
interface LayerInputDescription {
  readonly gate: PackedTensor;
  readonly output: PackedTensor;
  readonly outputNorm: PackedTensor | undefined;
}

/** Inputs of all layers: `norm(projection(embedding)) + tableScale * table(token)`, the norm by layer. */
interface LayerInputsDescription {
  /** Number of inputs of one layer, a multiple of 16. */
  readonly size: number;
  /** `[vocabSize, numLayers * size]`. */
  readonly table: PackedTensor;
  readonly tableScale: number;
  readonly projection: PackedTensor;
  /** Its epsilon is `normEpsilon * hiddenSize`. */
  readonly norm: PackedTensor;
}

/** Kinds of recurrences, in the order of `native/kernel.h`, which has their arithmetic. */
const RECURRENCES = ["convolution", "delta", "space"] as const;

/** A recurrence: a sequence has a state of fixed size, through which its tokens run in their order. */
export interface RecurrenceDescription {
  readonly kind: (typeof RECURRENCES)[number];
  /** Size of each of `numHeads` heads of values. */
  readonly valueSize: number;
  /** Whether heads of values with the same keys lie `numKvHeads` apart, not side by side. @default false */
  readonly isTiled?: boolean | undefined;
  /** Number of positions that the convolution sees, at most 8. */
  readonly numTaps: number;
  /** `[numTaps, width]`, the oldest position first, and perhaps a row of biases; as wide as what is convolved. */
  readonly convolution: PackedTensor;
  /** `[3, heads]`: rates and biases of decays, and skips. Not of convolutions alone. */
  readonly rates: PackedTensor | undefined;
  readonly strength: PackedTensor | undefined;
  readonly decay: PackedTensor | undefined;
  readonly outputNorm: PackedTensor | undefined;
}

/** `down(activation(gate(x)) * up(x))`. */
export interface FeedForwardDescription {
  /** `undefined` for FFNs without a gate: `down(activation(up(x)))`. */
  readonly gate: PackedTensor | undefined;
  readonly up: PackedTensor;
  readonly down: PackedTensor;
}

/** FFN of an expert, which always has a gate. */
export interface ExpertDescription extends FeedForwardDescription {
  readonly gate: PackedTensor;
}

/**
 * Experts of which a layer chooses some for each token, by the logits of its router. Their outputs are multiplied by
 * the softmax of these logits and added up, the most probable expert first.
 */
export interface MixtureDescription {
  /** `[experts, hiddenSize]`, in the format `float`; a row more is the gate of the `shared` part. */
  readonly router: PackedTensor;
  /** One per output of the router, of equal sizes, at most 1,024. */
  readonly experts: readonly ExpertDescription[];
  /** Number of experts that a token uses, at most 64 and not more than there are. */
  readonly expertsPerToken: number;
  /** Whether the softmax is over the chosen experts alone, so that their weights sum to 1. */
  readonly normalizesWeights: boolean;
  /**
   * Biases by expert, a table of one row: weights are sigmoids of the logits in place of the softmax, and experts are
   * chosen by sigmoids with biases. @default a softmax
   */
  readonly biases?: PackedTensor | undefined;
  /** Factor of weights. @default 1 */
  readonly weightScale?: number | undefined;
  /** Factors of weights by expert, a table of one row. @default none */
  readonly expertScales?: PackedTensor | undefined;
  /** Norms of a layer whose FFN has a `shared` part beside the mixture. @default both read `ffnNorm`'s rows */
  readonly norms?: MixtureNorms | undefined;
}

interface MixtureNorms {
  /** Norm of what the router and experts read. */
  readonly inputNorm: PackedTensor;
  /** Norms of outputs of the `shared` part and of the experts, in front of their sum. */
  readonly sharedOutputNorm: PackedTensor;
  readonly outputNorm: PackedTensor;
}

/** Parts of a model whose queries see later positions too. Its sequences are in one step each. */
export interface EncoderDescription {
  /** Tables that are added to embeddings, `[positions, hiddenSize]` and `[segments, hiddenSize]`. */
  readonly positions: PackedTensor | undefined;
  /** A token of segment `s` is `s * vocabSize` plus its id. */
  readonly segments: PackedTensor | undefined;
  /** Addends of attention scores, `[heads, 2 * reach]`: at `reach + d` that of a key `d` positions behind its query. */
  readonly distances: PackedTensor | undefined;
  /** Reads the model's channel at each place of a state. @default its own order */
  readonly channels?: (() => Promise<Uint32Array>) | undefined;
}

/** Description of a decoder, or an encoder: what a step computes, from which weights. */
export interface DecoderDescription {
  /** Number of tokens, and of the embedding's rows. */
  readonly vocabSize: number;
  /** Number of the head's outputs. @default `vocabSize`, or `hiddenSize` without a head */
  readonly numLogits?: number | undefined;
  readonly hiddenSize: number;
  readonly normEpsilon: number;
  /** Factor of embeddings. */
  readonly embeddingScale: number;
  /** Factor of logits. */
  readonly logitScale: number;
  /** Bounds of scores and of logits: `x` becomes `cap * tanh(x / cap)`. @default none */
  readonly caps?: SoftCaps | undefined;
  /** Number of experts in each layer with experts. @default 1 */
  readonly numExperts?: number | undefined;
  /** A table, or the head's weights if the two are tied. */
  readonly embedding: PackedTensor;
  readonly layers: readonly LayerDescription[];
  /** Norm in front of the head. */
  readonly finalNorm: PackedTensor | undefined;
  /** `undefined` for a model that gives states: rows behind the final norm, or their means. */
  readonly head: PackedTensor | undefined;
  /** @default a decoder */
  readonly encoder?: EncoderDescription | undefined;
  /** @default layers have no inputs of their own */
  readonly layerInputs?: LayerInputsDescription | undefined;
  /** Norm of embeddings that stand in front of the normed stream at the first layer's attention. @default none */
  readonly tokenNorm?: PackedTensor | undefined;
  /** Product of what `Kernel.writeStream` takes, whose outputs are the stream. @default none */
  readonly fusion?: PackedTensor | undefined;
  /** Norm of rows that `fusion` takes behind the normed embeddings, in place of the first layer. @default none */
  readonly stateNorm?: PackedTensor | undefined;
}

// "RRMK", and the layout's version, which changes when older files can no longer be read.
const MAGIC = 0x4b4d5252;
const VERSION = 11;
const MODEL_WORDS = 29;
const LAYER_WORDS = 56;
const TENSOR_WORDS = 6;
const ACTIVATIONS: readonly Activation[] = ["silu", "gelu-tanh", "gelu", "clamped"];

/** Offsets of a tensor's parts, in units of 64 bytes from the file's beginning; -1 for a part that does not exist. */
export interface TensorPlace {
  readonly weights: number;
  readonly scales: number;
  readonly bias: number;
}

/** Lists a layer's experts, whoever chooses them. */
export function expertsOf({ experts = [], mixture }: LayerDescription): readonly ExpertDescription[] {
  return mixture?.experts ?? experts;
}

/** Lists the tensors that a layer has in front of its experts, in the order of the header. */
function firstTensorsOf(layer: LayerDescription): readonly (PackedTensor | undefined)[] {
  return [
    layer.attentionNorm,
    layer.query,
    layer.key,
    layer.value,
    layer.queryNorm,
    layer.keyNorm,
    layer.attentionOutput,
    layer.attentionOutputNorm,
    layer.ffnNorm,
    layer.shared?.gate,
    layer.shared?.up,
    layer.shared?.down,
  ];
}

/** Lists the sets of angles of keys and of queries. */
export function angleSetsOf({ angleSet, queryAngleSet = angleSet }: LayerDescription): readonly number[] {
  return angleSet === undefined || queryAngleSet === undefined ? [] : [angleSet, queryAngleSet];
}

/** Lists the tensors of a recurrence and of gates, in the order of the header. */
function mixingTensorsOf({ recurrence, outputGate, sinks }: LayerDescription): readonly (PackedTensor | undefined)[] {
  const { convolution, rates, strength, decay, outputNorm } = recurrence ?? {};
  return [convolution, rates, outputGate, strength, decay, outputNorm, sinks];
}

/** Lists the tensors of a layer's own inputs, in the order of the header. */
function inputTensorsOf({ input, streamScale }: LayerDescription): readonly (PackedTensor | undefined)[] {
  return [input?.gate, input?.output, input?.outputNorm, streamScale];
}

/** Lists the norms and factors of a mixture, in the order of the header. */
export function mixtureTensorsOf({ mixture }: LayerDescription): readonly (PackedTensor | undefined)[] {
  const { inputNorm, sharedOutputNorm, outputNorm } = mixture?.norms ?? {};
  return [inputNorm, sharedOutputNorm, outputNorm, mixture?.expertScales];
}

/** Lists the products by head of a layer, in the order of the kernel. */
export function headProductsOf({ latent }: LayerDescription): readonly PackedTensor[] {
  return latent ? [...latent.queries, ...latent.outputs] : [];
}

/**
 * Lists all tensors of a description, each once. Those by head of a layer are contiguous, and so are the three of an
 * expert's layer, behind all shared ones.
 */
export function tensorsOf(description: DecoderDescription): readonly PackedTensor[] {
  const { embedding, layers, finalNorm, head, encoder, layerInputs, tokenNorm, fusion, stateNorm } = description;
  const ofLayers = layers.flatMap((layer) => {
    const { mixture, valueNorm, ffnOutputNorm, latent } = layer;
    const ofBlocks = [...firstTensorsOf(layer), ...mixingTensorsOf(layer), mixture?.router, mixture?.biases];
    const ofHeads = [...headProductsOf(layer), latent?.queryLow, latent?.queryLowNorm];
    return [...ofBlocks, ...mixtureTensorsOf(layer), ffnOutputNorm, valueNorm, ...inputTensorsOf(layer), ...ofHeads];
  });
  const ofExperts = layers.flatMap(expertsOf).flatMap(({ gate, up, down }) => [gate, up, down]);
  const ofEncoder = [encoder?.positions, encoder?.segments, encoder?.distances];
  const ofInputs = [layerInputs?.table, layerInputs?.projection, layerInputs?.norm];
  const shared = [embedding, ...ofEncoder, ...ofInputs, tokenNorm, fusion, stateNorm, ...ofLayers, finalNorm, head];
  const all = [...shared, ...ofExperts].filter((tensor) => tensor !== undefined);
  return Array.from(new Set(all));
}

/** Computes the size of the packed file's header, in bytes. */
export function headerBytes(description: DecoderDescription, numTensors: number): number {
  return 4 * (MODEL_WORDS + description.layers.length * LAYER_WORDS + numTensors * TENSOR_WORDS);
}

/** Encodes the packed file's header. @param places - by tensor, in the order of `tensorsOf` */
export function encodeHeader(
  description: DecoderDescription,
  places: ReadonlyMap<PackedTensor, TensorPlace>,
): Uint8Array {
  const tensors = Array.from(places.keys());
  const words = new WordWriter(headerBytes(description, tensors.length));
  const indices = new Map(tensors.map((tensor, index) => [tensor, index]));
  // The kernel refuses sets of angles that no layer uses.
  const numAngleSets = Math.max(-1, ...description.layers.flatMap(angleSetsOf)) + 1;
  const indexOf = (tensor: PackedTensor | undefined): number => (tensor ? (indices.get(tensor) ?? -1) : -1);
  words.integers([MAGIC, VERSION, description.layers.length, tensors.length]);
  words.integers([description.vocabSize, description.hiddenSize]);
  words.integers([indexOf(description.embedding), indexOf(description.finalNorm), indexOf(description.head)]);
  words.floats([description.embeddingScale, description.logitScale, description.normEpsilon]);
  words.floats([description.caps?.scores ?? 0, description.caps?.logits ?? 0]);
  const { numExperts = 1, head, encoder } = description;
  const numLogits = description.numLogits ?? (head ? description.vocabSize : description.hiddenSize);
  words.integers([numAngleSets, numExperts, numLogits, encoder ? 1 : 0]);
  words.integers([encoder?.positions, encoder?.segments, encoder?.distances].map(indexOf));
  const { table, projection, norm, size = 0, tableScale = 1 } = description.layerInputs ?? {};
  words.integers([...[table, projection, norm].map(indexOf), size]);
  words.floats([tableScale]);
  words.integers([description.tokenNorm, description.fusion, description.stateNorm].map(indexOf));
  for (const layer of description.layers) {
    words.integers([...firstTensorsOf(layer), layer.ffnOutputNorm].map(indexOf));
    const [ofKeys = -1, ofQueries = -1] = angleSetsOf(layer);
    words.integers([layer.numHeads, layer.numKvHeads, layer.headSize, ofKeys, ofQueries, layer.rotatedSize]);
    const { slidingWindow = 0, activation, streamNorms = [], normsAllHeads = false } = layer;
    const replaced = (streamNorms.includes("attention") ? 1 : 0) + (streamNorms.includes("ffn") ? 2 : 0);
    words.integers([slidingWindow, ACTIVATIONS.indexOf(activation), replaced, normsAllHeads ? 1 : 0]);
    words.floats([layer.attentionScale, layer.residualScale]);
    const { mixture } = layer;
    words.integers([indexOf(expertsOf(layer)[0]?.gate), indexOf(mixture?.router), mixture?.experts.length ?? 0]);
    words.integers([mixture?.expertsPerToken ?? 0, mixture?.normalizesWeights ? 1 : 0, indexOf(mixture?.biases)]);
    words.floats([mixture?.weightScale ?? 1]);
    const { recurrence } = layer;
    words.integers([
      recurrence ? 1 + RECURRENCES.indexOf(recurrence.kind) : 0,
      recurrence?.valueSize ?? layer.headSize,
    ]);
    words.integers([recurrence?.isTiled ? 1 : 0, recurrence?.numTaps ?? 0, ...mixingTensorsOf(layer).map(indexOf)]);
    words.integers([indexOf(layer.valueNorm), layer.keysOf ?? -1, ...inputTensorsOf(layer).map(indexOf)]);
    const { queries: [firstHead] = [], queryLow, queryLowNorm } = layer.latent ?? {};
    words.integers([firstHead, queryLow, queryLowNorm, ...mixtureTensorsOf(layer)].map(indexOf));
  }
  for (const [{ format, numOut, numIn }, place] of places) {
    words.integers([formatNumber(format), numOut, numIn, place.weights, place.scales, place.bias]);
  }
  return words.bytes;
}

/** Writes 32-bit words, little-endian. */
class WordWriter {
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(numBytes: number) {
    this.bytes = new Uint8Array(numBytes);
    this.#view = new DataView(this.bytes.buffer);
  }

  integers(values: readonly number[]): void {
    for (const value of values) this.#view.setInt32(this.#next(), value, true);
  }

  floats(values: readonly number[]): void {
    for (const value of values) this.#view.setFloat32(this.#next(), value, true);
  }

  #next(): number {
    this.#at += 4;
    return this.#at - 4;
  }
}
