// Draft heads: a layer that continues a model's states. It is trained for a model, in the layout in which vLLM and
// SGLang read those of EAGLE-3; or the checkpoint itself has it, as a layer that predicts a further token (MTP).

import { join } from "node:path";
import { fingerprintOf } from "../cache/cached-data.ts";
import { Fields, MOST } from "../config/fields.ts";
import type { ModelConfig } from "../config/model-config.ts";
import { parseConfig } from "../config/parse-config.ts";
import { invalid, notFound, unsupported } from "../files/errors.ts";
import { exists, type JsonObject, orClose, readJsonFile } from "../files/read-file.ts";
import { SafetensorsFile } from "../safetensors/safetensors-file.ts";
import { selectRows } from "../weights/computed-tensors.ts";
import { feedForwardRefs, nextLayerConfig } from "../weights/locate-weights.ts";
import { type LayerRefs, type LinearRefs, linearRefs, type TensorRef, tensorRef } from "../weights/model-weights.ts";
import { CONFIG_FILE, type Model, SINGLE_FILE } from "./model.ts";

/** Finds the folder of a model's draft head: `draft-head` in a folder, `NAME.draft-head` by a file. */
export async function findDraftHeadFolder(modelPath: string): Promise<string | undefined> {
  const folder = modelPath.endsWith(".gguf") ? modelPath.replace(/gguf$/, "draft-head") : join(modelPath, "draft-head");
  return (await exists(join(folder, CONFIG_FILE))) ? folder : undefined;
}

const MOST_CONFIG_BYTES = 1 << 20;

/** Tensors of a draft head, for a model of hidden size `h`. */
interface DraftHeadRefs {
  /** `[h, layers * h]`: fuses the model's states; with `stateNorm` the token's embedding and the state, `[h, 2 h]`. */
  readonly fusion: LinearRefs;
  /** Norm of the token's embedding, which stands in front of the normed stream or the normed state. */
  readonly tokenNorm: TensorRef;
  /** @default the embedding stands in front of the stream, so that query, key and value have `2 h` inputs */
  readonly stateNorm?: TensorRef | undefined;
  readonly layer: LayerRefs;
  readonly finalNorm: TensorRef;
  /** `[outputs, h]`: the model's own rows, unless the file has others. */
  readonly head: TensorRef;
}

/** A draft head with checked files. */
export interface DraftHead {
  /** Its folder, or the model's files. */
  readonly path: string;
  /** Layers of the model in front of which its states are taken, in rising order; their number stands for the end. */
  readonly layers: readonly number[];
  /** The head's own layer, as a decoder of one layer. */
  readonly config: ModelConfig;
  /** Token of the model for each output of the head. */
  readonly tokenIds: Int32Array;
  readonly weights: DraftHeadRefs;
  /** Hashes the files, see `Model.fingerprint`. */
  readonly fingerprint: Model["fingerprint"];
  close(): Promise<void>;
}

/**
 * Opens the draft head of a model, if it has one. Models that do not generate have none.
 *
 * @param asked - its folder, or "none" @default the one beside the model's files, else the checkpoint's own
 * @throws as `openDraftHead`
 */
export async function findDraftHead(
  model: Pick<Model, "path" | "config" | "weights" | "fingerprint">,
  asked?: string,
): Promise<DraftHead | undefined> {
  if (asked === "none" || model.config.pooling) return undefined;
  const folder = asked ?? (await findDraftHeadFolder(model.path));
  return folder === undefined ? nextLayerHead(model) : openDraftHead(folder, model);
}

/**
 * Most outputs of a head that shares the model's own: the first tokens, which byte pair encodings merged first since
 * they are frequent. All of Qwen 3.5's 248,320 would be a third of the bytes of its smallest model.
 */
const OWN_OUTPUTS = 32_768;

/** Describes the layer of a checkpoint that predicts a further token as a head. */
function nextLayerHead({
  path,
  config,
  weights: { next, head },
  fingerprint,
}: Pick<Model, "path" | "config" | "weights" | "fingerprint">): DraftHead | undefined {
  // The kernel puts an embedding and a state side by side in whole panels.
  if (!next || config.hiddenSize % 64 !== 0) return undefined;
  const tokenIds = new Int32Array(Math.min(config.vocabSize, OWN_OUTPUTS)).map((_, id) => id);
  return {
    path,
    layers: [config.numLayers],
    config: nextLayerConfig(config),
    tokenIds,
    weights: { ...next, head: selectRows(head, Array.from(tokenIds)) },
    fingerprint,
    close: async () => undefined,
  };
}

/**
 * Opens the draft head of a model.
 *
 * @param path - a folder with `config.json` and `model.safetensors`
 * @throws {ReadMeError} when a file cannot be read, is damaged, or does not belong to a model of these sizes
 */
export async function openDraftHead(path: string, model: Pick<Model, "config" | "weights">): Promise<DraftHead> {
  const configPath = join(path, CONFIG_FILE);
  const file = await readJsonFile(configPath, MOST_CONFIG_BYTES);
  if (file === undefined) throw notFound(path, "has no config.json, so it is no draft head");
  const json = new Fields(configPath, file);
  const config = parseHeadConfig(json, file, model.config);
  const layers = parseLayers(json, model.config);
  const tensorsPath = join(path, SINGLE_FILE);
  const fingerprint = await fingerprintOf([configPath, tensorsPath]);
  const store = await SafetensorsFile.open(tensorsPath);
  return orClose(store, async () => {
    const numOutputs = json.size("draft_vocab_size", config.vocabSize, config.vocabSize);
    const tokenIds = await readTokenIds(store, numOutputs, config.vocabSize);
    const weights = locateHead(store, { config, numStates: layers.length, tokenIds, ownHead: model.weights.head });
    return { path, layers, config, tokenIds, weights, fingerprint, close: () => store.close() };
  });
}

/** Reads the config of a head's layer, which has the model's embeddings. */
function parseHeadConfig(json: Fields, file: JsonObject, model: ModelConfig): ModelConfig {
  if (json.size("num_hidden_layers", MOST.layers, 1) !== 1) json.unsupported("num_hidden_layers", "supported is 1");
  const config = parseConfig(json.path, { ...file, num_hidden_layers: 1 });
  for (const name of ["hiddenSize", "vocabSize"] as const) {
    if (config[name] === model[name]) continue;
    throw unsupported(json.path, `is a draft head of a model with \`${name}\` ${config[name]}, not ${model[name]}`);
  }
  if (config.modelType !== "llama") json.unsupported("model_type", "supported is llama");
  // The kernel puts the halves of attention's inputs side by side in whole panels.
  if (config.hiddenSize % 64 !== 0) json.unsupported("hidden_size", "supported are multiples of 64");
  return config;
}

/** Reads the layers whose states the head takes: by default a low, a middle and a high one. */
function parseLayers(json: Fields, { numLayers }: ModelConfig): readonly number[] {
  const eagle = json.object("eagle_config");
  const given = eagle?.list("eagle_aux_hidden_state_layer_ids") ?? [2, Math.floor(numLayers / 2), numLayers - 3];
  const layers = given.map(Number);
  const isRising = layers.every((layer, i) => Number.isInteger(layer) && layer > (layers[i - 1] ?? 0));
  if (layers.length < 2 || !isRising || layers.at(-1)! >= numLayers) {
    throw json.invalid(
      `expected layers of a model of ${numLayers} layers in rising order, got ${JSON.stringify(given)}`,
    );
  }
  return layers;
}

/** Reads the token of each output, which is stored as a distance from the output's index. */
async function readTokenIds(store: SafetensorsFile, numOutputs: number, vocabSize: number): Promise<Int32Array> {
  if (!store.has("d2t")) {
    if (numOutputs === vocabSize) return new Int32Array(vocabSize).map((_, id) => id);
    throw invalid(store.path, "has no tensor d2t, the tokens of its outputs");
  }
  tensorRef(store, "d2t", [numOutputs]);
  const bytes = await store.readBytes("d2t");
  if (store.info("d2t").type !== "I64") throw invalid(store.path, "tensor d2t does not hold I64");
  const distances = new BigInt64Array(bytes.slice().buffer);
  return Int32Array.from(distances, (distance, output) => {
    const id = Number(distance) + output;
    if (id >= 0 && id < vocabSize) return id;
    throw invalid(store.path, `tensor d2t names token ${id}, the model has ${vocabSize}`);
  });
}

interface HeadPlaces {
  readonly config: ModelConfig;
  readonly numStates: number;
  readonly tokenIds: Int32Array;
  readonly ownHead: TensorRef;
}

function locateHead(store: SafetensorsFile, { config, numStates, tokenIds, ownHead }: HeadPlaces): DraftHeadRefs {
  const { hiddenSize, intermediateSize, numHeads, numKvHeads, headSize } = config;
  const { hasQkvBias, hasOutputBias, hasMlpBias } = config;
  const layer = store.has("midlayer.input_layernorm.weight") ? "midlayer" : "layers.0";
  const norm = (name: string): TensorRef => tensorRef(store, `${name}.weight`, [hiddenSize]);
  const linear = (name: string, [outSize, inSize]: readonly [number, number], hasBias = false): LinearRefs =>
    linearRefs(store, name, { outSize, inSize, hasBias });
  const [attention, ffn] = [`${layer}.self_attn`, `${layer}.mlp`];
  const mixed = 2 * hiddenSize;
  const ffnSize = { size: intermediateSize, hiddenSize, hasBias: hasMlpBias };
  return {
    fusion: linear("fc", [hiddenSize, numStates * hiddenSize], store.has("fc.bias")),
    tokenNorm: norm(`${layer}.input_layernorm`),
    layer: {
      attentionNorm: norm(`${layer}.hidden_norm`),
      attention: {
        query: linear(`${attention}.q_proj`, [numHeads * headSize, mixed], hasQkvBias),
        key: linear(`${attention}.k_proj`, [numKvHeads * headSize, mixed], hasQkvBias),
        value: linear(`${attention}.v_proj`, [numKvHeads * headSize, mixed], hasQkvBias),
        output: linear(`${attention}.o_proj`, [hiddenSize, numHeads * headSize], hasOutputBias),
        queryNorm: undefined,
        keyNorm: undefined,
      },
      attentionOutputNorm: undefined,
      ffnNorm: norm(`${layer}.post_attention_layernorm`),
      shared: undefined,
      experts: [feedForwardRefs(store, { prefix: `${ffn}.` }, ffnSize)],
      ffnOutputNorm: undefined,
    },
    finalNorm: norm("norm"),
    head: store.has("lm_head.weight")
      ? tensorRef(store, "lm_head.weight", [tokenIds.length, hiddenSize])
      : selectRows(ownHead, Array.from(tokenIds)),
  };
}
