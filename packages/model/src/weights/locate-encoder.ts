// The tensors of encoders, under the names of their families.

import { unsupported } from "../files/errors.ts";
import { type ClassifierLayer, encoderFamily, type EncoderFamily, TAGGER } from "../config/encoder-config.ts";
import type { LabelConfig, ModelConfig } from "../config/model-config.ts";
import type { TensorStore } from "../tensor-store.ts";
import { DENSE_NAME } from "./locate-weights.ts";
import {
  type ClassifierRefs,
  type EncoderRefs,
  type ExpertLayout,
  type LayerRefs,
  type LinearRefs,
  type ModelWeights,
  type NormRef,
  tensorRef,
  type TensorRef,
} from "./model-weights.ts";
import { TensorParts } from "./tensor-parts.ts";

/** Names of the scales and biases of norms, of checkpoints that were converted from TensorFlow last. */
const NORM_PARTS = [
  ["weight", "bias"],
  ["gamma", "beta"],
] as const;

/**
 * Finds all tensors of an encoder, in a checkpoint with a head or without one.
 *
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming the first tensor that is missing or has another shape
 */
export function locateEncoder(
  store: TensorStore,
  config: ModelConfig,
): { readonly experts: ExpertLayout; readonly weights: ModelWeights } {
  const { intermediateSize, numLayers } = config;
  return {
    experts: {
      names: [DENSE_NAME],
      expertSizes: Array.from({ length: numLayers }, () => intermediateSize),
      sharedSizes: Array.from({ length: numLayers }, () => 0),
    },
    weights: new EncoderTensors(store, config).all(),
  };
}

class EncoderTensors {
  readonly #store: TensorStore;
  readonly #config: ModelConfig;
  readonly #family: EncoderFamily;
  readonly #prefix: string;

  constructor(store: TensorStore, config: ModelConfig) {
    this.#store = store;
    this.#config = config;
    this.#family = encoderFamily(config.modelType);
    const { prefix, words } = this.#family;
    this.#prefix = store.has(`${words}.weight`) ? "" : prefix;
  }

  all(): ModelWeights {
    const { vocabSize, hiddenSize, numLayers, encoder } = this.#config;
    const { words, finalNorm } = this.#family;
    const embedding = this.#matrix(words, vocabSize, hiddenSize);
    const refs = this.#besides();
    const layers = Array.from({ length: numLayers }, (_, index) => this.#layer(index));
    const last = encoder?.isPostNorm ? layers.at(-1)?.ffnOutputNorm : this.#norm(finalNorm ?? "");
    return { embedding, layers, finalNorm: last ?? refs.embeddingNorm, head: embedding, encoder: refs };
  }

  #besides(): EncoderRefs {
    const { hiddenSize, numHeads, contextTokens, encoder } = this.#config;
    const { positions, segments, distances, embeddingNorm } = this.#family;
    const { firstPosition = 0, numSegments = 0, numDistanceBuckets = 0 } = encoder ?? {};
    const { pooling } = this.#config;
    const end = firstPosition + contextTokens;
    return {
      positions: positions === undefined ? undefined : this.#rows(positions, end, firstPosition, end),
      segments: segments === undefined ? undefined : this.#matrix(segments, numSegments, hiddenSize),
      distances: distances === undefined ? undefined : this.#matrix(distances, numDistanceBuckets, numHeads),
      embeddingNorm: this.#norm(embeddingNorm),
      classifier: pooling?.kind === "labels" ? this.#classifier(pooling) : [],
      masked: pooling?.kind === "embedding" ? this.#masked() : [],
    };
  }

  /** Finds the layers behind a state, whose names stand outside the encoder's. */
  #classifier({ mode, labels }: LabelConfig): readonly ClassifierRefs[] {
    const { hiddenSize, modelType } = this.#config;
    const { classifier, tagger = TAGGER } = this.#family;
    const layers = mode === undefined ? tagger : classifier;
    if (!layers || !classifier)
      throw unsupported(this.#store.path, `is a classifier of the family ${modelType}, which is not supported`);
    return layers.map((layer, index) =>
      this.#classifierLayer(layer, index === layers.length - 1 ? labels.length : hiddenSize),
    );
  }

  #classifierLayer({ name, activation, norm }: ClassifierLayer, size: number): ClassifierRefs {
    const bias = `${name}.bias`;
    return {
      weight: tensorRef(this.#store, `${name}.weight`, [size, this.#config.hiddenSize]),
      bias: this.#store.has(bias) ? tensorRef(this.#store, bias, [size]) : undefined,
      activation,
      norm: norm === undefined ? undefined : this.#normAt(norm),
    };
  }

  /** Finds the layers that fill masks, if the checkpoint has them. ONNX files name a product by its bias. */
  #masked(): readonly ClassifierRefs[] {
    const { hiddenSize, vocabSize, activation } = this.#config;
    const { masked, words } = this.#family;
    if (!masked || activation !== "gelu") return [];
    const { transform, decoder, bias: module = decoder } = masked;
    const bias = `${module}.bias`;
    if (![`${transform.name}.weight`, bias].every((name) => this.#store.has(name))) return [];
    const own = [decoder, module].map((name) => `${name}.weight`).find((name) => this.#store.has(name));
    const weight = own ?? `${this.#prefix}${words}.weight`;
    return [
      this.#classifierLayer(transform, hiddenSize),
      {
        weight: tensorRef(this.#store, weight, [vocabSize, hiddenSize]),
        bias: tensorRef(this.#store, bias, [vocabSize]),
        activation: undefined,
        norm: undefined,
      },
    ];
  }

  #layer(index: number): LayerRefs {
    const { hiddenSize, intermediateSize, encoder } = this.#config;
    const { names, layers } = this.#family;
    const at = (name: string): string => `${layers}${index}.${name}`;
    const { gate } = names;
    const inner = { outSize: intermediateSize, inSize: hiddenSize };
    const isFused = gate === names.up;
    const allRows = isFused ? 2 * intermediateSize : intermediateSize;
    const up = this.#linear(at(names.up), { ...inner, allRows, from: allRows - intermediateSize });
    const down = this.#linear(at(names.down), { outSize: hiddenSize, inSize: intermediateSize });
    const ffn = gate === undefined ? undefined : { gate: this.#linear(at(gate), { ...inner, allRows }), up, down };
    // The first norm of ModernBERT's first layer is the one of embeddings.
    const hasFirst = encoder?.isPostNorm || index > 0;
    const attentionNorm = hasFirst ? this.#norm(at(names.attentionNorm)) : undefined;
    const ffnNorm = this.#norm(at(names.ffnNorm));
    const norms = encoder?.isPostNorm
      ? { attentionNorm: undefined, attentionOutputNorm: attentionNorm, ffnNorm: undefined, ffnOutputNorm: ffnNorm }
      : { attentionNorm, attentionOutputNorm: undefined, ffnNorm, ffnOutputNorm: undefined };
    const [query, key, value] = [0, 1, 2].map((place) => this.#ofAttention(at, place));
    const output = this.#linear(at(names.attentionOutput), { outSize: hiddenSize, inSize: hiddenSize });
    return {
      ...norms,
      attention: { query: query!, key: key!, value: value!, output, queryNorm: undefined, keyNorm: undefined },
      shared: ffn,
      experts: [],
      plain: ffn ? undefined : { up, down },
    };
  }

  /** Finds query, key or value, by their order. */
  #ofAttention(at: (name: string) => string, place: number): LinearRefs {
    const { hiddenSize } = this.#config;
    const { qkv } = this.#family.names;
    const size = { outSize: hiddenSize, inSize: hiddenSize };
    if (typeof qkv !== "string") return this.#linear(at(qkv[place] ?? ""), size);
    return this.#linear(at(qkv), { ...size, allRows: 3 * hiddenSize, from: place * hiddenSize });
  }

  #matrix(name: string, numOut: number, numIn: number): TensorRef {
    return tensorRef(this.#store, `${this.#prefix}${name}.weight`, [numOut, numIn]);
  }

  /** Finds rows `[from, to)` of a matrix of `numOut` rows of the hidden size. */
  #rows(name: string, numOut: number, from: number, to: number): TensorRef {
    const whole = this.#matrix(name, numOut, this.#config.hiddenSize);
    return part(whole, from, to);
  }

  /** Finds a product, which may be rows of a fused one. */
  #linear(
    name: string,
    size: { readonly outSize: number; readonly inSize: number; readonly allRows?: number; readonly from?: number },
  ): LinearRefs {
    const { outSize, inSize, allRows = outSize, from = 0 } = size;
    const rows = (ref: TensorRef): TensorRef => part(ref, from, from + outSize);
    const bias = `${this.#prefix}${name}.bias`;
    return {
      weight: rows(this.#matrix(name, allRows, inSize)),
      bias: this.#config.hasMlpBias ? rows(tensorRef(this.#store, bias, [allRows])) : undefined,
    };
  }

  #norm(name: string): NormRef {
    return this.#normAt(`${this.#prefix}${name}`);
  }

  #normAt(path: string): NormRef {
    const [weight, bias] = NORM_PARTS.find(([scales]) => this.#store.has(`${path}.${scales}`)) ?? NORM_PARTS[0];
    const size = [this.#config.hiddenSize];
    const scales = tensorRef(this.#store, `${path}.${weight}`, size);
    const hasBias = this.#store.has(`${path}.${bias}`);
    return { ...scales, bias: hasBias ? tensorRef(this.#store, `${path}.${bias}`, size) : undefined };
  }
}

/** Finds rows of a tensor. */
function part(whole: TensorRef, from: number, to: number): TensorRef {
  const { store, name, shape } = whole;
  if (from === 0 && to === shape[0]) return whole;
  const own = `${name}[${from}:${to}]`;
  return tensorRef(new TensorParts(store, new Map([[own, { of: name, rows: { from, to } }]])), own, [
    to - from,
    ...shape.slice(1),
  ]);
}
