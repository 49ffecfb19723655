// Opens adapters in PEFT's layout: adapter_config.json and adapter_model.safetensors in one folder.

import { stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { describeValue, ReadMeError } from "@readme-moe/core";
import { fingerprintOf } from "../cache/cached-data.ts";
import { Fields } from "../config/fields.ts";
import { layerHeads, type ModelConfig } from "../config/model-config.ts";
import { fileError, quoted, unsupported } from "../files/errors.ts";
import { isStoredFloat } from "../files/floats.ts";
import { exists, orClose, readJsonFile } from "../files/read-file.ts";
import type { Model } from "../folder/model.ts";
import { parsePeftConfig, type ScaleOf } from "./peft-config.ts";
import {
  ADAPTER_CONFIG_FILE,
  ADAPTER_FILE,
  expertNameProblem,
  type Lora,
  type LoraProduct,
  type LoraRefs,
  MAX_RANK,
} from "./lora.ts";
import { SafetensorsFile } from "../safetensors/safetensors-file.ts";
import type { RowRange } from "../tensor-store.ts";
import { tensorRef, type TensorRef } from "../weights/model-weights.ts";
import { fusedModules, llamaName, TensorParts } from "../weights/tensor-parts.ts";

// Real configs have some kilobytes, and a hundred when they list each module's rank.
const MAX_CONFIG_BYTES = 1 << 20;

/** Modules of a layer by their names in Hugging Face checkpoints, the same in all families. */
const LAYER_MODULES: ReadonlyMap<string, LoraProduct> = new Map([
  ["self_attn.q_proj", "query"],
  ["self_attn.k_proj", "key"],
  ["self_attn.v_proj", "value"],
  ["self_attn.o_proj", "attentionOutput"],
  ["mlp.gate_proj", "gate"],
  ["mlp.up_proj", "up"],
  ["mlp.down_proj", "down"],
]);

const LAYER_MODULE = /^model\.layers\.(?<layer>0|[1-9]\d{0,8})\.(?<part>.+)$/;

/** The place of a product in a model. */
interface Place {
  /** `undefined` for the head. */
  readonly layer: number | undefined;
  readonly product: LoraProduct | undefined;
  /** Name of the product's own module. */
  readonly module: string;
  readonly inSize: number;
  readonly outSize: number;
  /** Rows of `b` that are this product's, in a module of several. @default all */
  readonly rows?: RowRange;
}

/**
 * Opens an adapter that PEFT wrote, or a tool with the same layout. Checks that every tensor belongs to a product of
 * the model and has its shape. `base_model_name_or_path` is not looked at, since it may be any path or name.
 *
 * @param path - the adapter's folder
 * @param name - 1 to 64 characters of `[A-Za-z0-9._-]`, beginning with a letter or digit; not `none` or `router`
 * @param model - a dense model of any family
 * @throws {ReadMeError} naming the file, and the field or tensor, that is missing, damaged or not supported
 * @throws {TypeError} for another `name`
 */
export async function openLora(path: string, name: string, model: Pick<Model, "config" | "experts">): Promise<Lora> {
  const problem = expertNameProblem(name);
  if (problem !== undefined) throw new TypeError(`Expected \`name\` to be ${problem}, got ${describeValue(name)}`);
  if (typeof path !== "string" || path === "") {
    throw new TypeError(`Expected \`path\` to name the folder of an adapter, got ${describeValue(path)}`);
  }
  const folder = resolve(path);
  refuseExperts(folder, model);
  const scaleOf = await readConfig(folder);
  const store = await openTensors(folder, maxModules(model.config));
  return orClose(store, async () => {
    const { layers, head } = await locate(store, scaleOf, model.config);
    const all = [...layers.flatMap((layer) => Object.values(layer)), ...(head ? [head] : [])];
    const sizes = store.names.map((tensor) => store.info(tensor).shape.reduce((size, axis) => size * axis, 1));
    const files = [join(folder, ADAPTER_CONFIG_FILE), store.path];
    return {
      name,
      path: folder,
      layers,
      head,
      files,
      numParameters: sizes.reduce((sum, size) => sum + size, 0),
      maxRank: Math.max(...all.map(({ rank }) => rank)),
      fingerprint: await fingerprintOf(files),
      close: () => store.close(),
    };
  });
}

/** @throws {ReadMeError} when the model's FFNs are cut into experts already */
function refuseExperts(folder: string, { config, experts }: Pick<Model, "config" | "experts">): void {
  if (config.encoder) throw unsupported(folder, "changes an encoder, which has no adapters here");
  if (config.mixture) return;
  const isWhole = experts.expertSizes.every((size) => size === config.intermediateSize);
  if (experts.names.length === 1 && isWhole && experts.sharedSizes.every((size) => size === 0)) return;
  throw unsupported(folder, `changes a dense model, but this model has ${experts.names.length} experts in its FFNs`);
}

async function readConfig(folder: string): Promise<ScaleOf> {
  const path = join(folder, ADAPTER_CONFIG_FILE);
  const stats = await stat(folder).catch((cause: unknown) => {
    throw fileError(folder, cause);
  });
  if (!stats.isDirectory()) {
    throw new ReadMeError(
      "ERR_MODEL_INVALID",
      `${folder}: is a file; an adapter is a folder with ${ADAPTER_CONFIG_FILE}`,
    );
  }
  const json = await readJsonFile(path, MAX_CONFIG_BYTES);
  if (json !== undefined) return parsePeftConfig(new Fields(path, json));
  throw new ReadMeError("ERR_FILE_NOT_FOUND", `${folder}: has no ${ADAPTER_CONFIG_FILE}, so it is no adapter of PEFT`);
}

/** Largest number of modules that an adapter can change. */
function maxModules({ numLayers }: ModelConfig): number {
  return numLayers * LAYER_MODULES.size + 1;
}

async function locate(
  store: SafetensorsFile,
  scaleOf: ScaleOf,
  model: ModelConfig,
): Promise<Pick<Lora, "layers" | "head">> {
  const layers = Array.from({ length: model.numLayers }, (): Partial<Record<LoraProduct, LoraRefs>> => ({}));
  let head: LoraRefs | undefined;
  for (const [module, pair] of pairsOf(store, maxModules(model))) {
    // The requests of an engine that runs go on meanwhile.
    await nextTurn();
    const places = placesOf(store, module, model);
    const allRefs = refsOf(store, module, { pair, places, scaleOf });
    for (const [index, refs] of allRefs.entries()) {
      const { layer, product, module: own } = places[index] as Place;
      if (layer === undefined || product === undefined) {
        head = refs;
        continue;
      }
      if (layers[layer]?.[product]) throw invalid(store, `changes ${quoted(own)} twice, once with other products`);
      layers[layer] = { ...layers[layer], [product]: refs };
    }
  }
  return { layers, head };
}

/** Finds a module's products in the model, one or several. @throws {ReadMeError} when it has none of this name */
function placesOf(store: SafetensorsFile, module: string, model: ModelConfig): readonly Place[] {
  const { vocabSize, hiddenSize, numLayers } = model;
  if (module === "lm_head") {
    return [{ layer: undefined, product: undefined, module, inSize: hiddenSize, outSize: vocabSize }];
  }
  const { layer = "", part: own = "" } = LAYER_MODULE.exec(module)?.groups ?? {};
  // Names in the table end with a dot.
  const part = llamaName(model, `${own}.`).slice(0, -1);
  const isOfAttention = part.startsWith("self_attn.");
  if (layer !== "" && isOfAttention && model.layers[Number(layer)]?.isRecurrent) {
    throw unsupported(store.path, `changes ${quoted(module)}, in a layer without attention`);
  }
  if (model.latent && isOfAttention) {
    throw unsupported(store.path, `changes ${quoted(module)}, in latent attention; supported is lm_head`);
  }
  if (model.gatesAttention && part === "self_attn.q_proj") {
    throw unsupported(
      store.path,
      `changes ${quoted(module)}, which has rows of a gate; supported are the other products`,
    );
  }
  const isOfMixture = layer !== "" && model.layers[Number(layer)]?.isMixture === true;
  if (isOfMixture && !isOfAttention) {
    const supported = "over a mixture, adapters of attention and lm_head can be used";
    throw unsupported(store.path, `changes ${quoted(module)}, in a layer that chooses among experts; ${supported}`);
  }
  const fused = fusedModules(model);
  const parts = fused.get(part) ?? [{ module: part }];
  const products = parts.map((one) => ({ ...one, product: LAYER_MODULES.get(one.module) }));
  if (products.some(({ product }) => product === undefined)) {
    const known = [...fused.keys(), ...LAYER_MODULES.keys()].map((name) => name.split(".").at(-1)).join(", ");
    throw unsupported(store.path, `changes ${quoted(module)}; supported are ${known} of layers, and lm_head`);
  }
  if (Number(layer) >= numLayers) {
    throw invalid(store, `changes ${quoted(module)}, but the model has ${numLayers} layers, 0 to ${numLayers - 1}`);
  }
  const sizes = sizesOf(model, Number(layer));
  const { keysOf, keysAreValues } = model.layers[Number(layer)] ?? {};
  if ((keysOf !== undefined || keysAreValues) && /[kv]_proj$/.test(part)) {
    const reason = "in a layer that has no keys or no values of its own; supported are the other products";
    throw unsupported(store.path, `changes ${quoted(module)}, ${reason}`);
  }
  return products.flatMap(({ product, ...one }): readonly Place[] => {
    if (product === undefined) return [];
    const [inSize, outSize] = sizes[product];
    return [{ ...one, layer: Number(layer), product, inSize, outSize }];
  });
}

function sizesOf(
  model: ModelConfig,
  layer: number,
): Readonly<Record<LoraProduct, readonly [inSize: number, outSize: number]>> {
  const { hiddenSize } = model;
  const { numHeads, numKvHeads, headSize } = layerHeads(model, layer);
  const [querySize, keySize] = [numHeads * headSize, numKvHeads * headSize];
  const ffnSize = model.layers[layer]?.ffnSize ?? model.intermediateSize;
  return {
    query: [hiddenSize, querySize],
    key: [hiddenSize, keySize],
    value: [hiddenSize, keySize],
    attentionOutput: [querySize, hiddenSize],
    gate: [hiddenSize, ffnSize],
    up: [hiddenSize, ffnSize],
    down: [ffnSize, hiddenSize],
  };
}

/** Finds the change of each of a module's products. Those of one module have the same `a`. */
function refsOf(
  store: SafetensorsFile,
  module: string,
  { pair, places, scaleOf }: { readonly pair: Pair; readonly places: readonly Place[]; readonly scaleOf: ScaleOf },
): readonly LoraRefs[] {
  if (pair.a === undefined || pair.b === undefined) {
    const [held, missing] = pair.a === undefined ? ["lora_B", "lora_A"] : ["lora_A", "lora_B"];
    throw invalid(store, `holds ${held} of ${quoted(module)}, but no ${missing}`);
  }
  const [rank = 0] = store.info(pair.a).shape;
  if (rank < 1 || rank > MAX_RANK) {
    throw unsupported(store.path, `changes ${quoted(module)} by rank ${rank}; supported are ranks up to ${MAX_RANK}`);
  }
  const scale = scaleOf(module, rank);
  const a = floatRef(store, pair.a, [rank, places[0]?.inSize ?? 0]);
  const numRows = places.reduce((sum, { outSize }) => sum + outSize, 0);
  const b = floatRef(store, pair.b, [numRows, rank]);
  const parts = places.map(({ module: own, rows, outSize }): TensorRef => {
    if (rows === undefined) return b;
    const name = b.name.replace(module, own);
    return tensorRef(new TensorParts(store, new Map([[name, { of: b.name, rows }]])), name, [outSize, rank]);
  });
  return parts.map((part) => ({ a, b: part, rank, scale }));
}

/** @throws {ReadMeError} when the tensor has another shape, or holds no floats */
function floatRef(store: SafetensorsFile, name: string, shape: readonly number[]): TensorRef {
  const { type } = store.info(name);
  if (!isStoredFloat(type)) {
    throw unsupported(store.path, `tensor ${quoted(name)} has the type ${type}; supported are F32, F16 and BF16`);
  }
  const actual = store.info(name).shape;
  if (actual.join() !== shape.join()) {
    const problem = `has shape [${actual.join(", ")}], where its rank and the model need [${shape.join(", ")}]`;
    throw invalid(store, `tensor ${quoted(name)} ${problem}; it may belong to another model`);
  }
  return tensorRef(store, name, shape);
}

// The header's share of a tensor, and of metadata such as notes of a training.
const HEADER_BYTES_PER_TENSOR = 512;
const MAX_METADATA_BYTES = 1 << 18;

/** PEFT wraps the model twice. An adapter's name between matrix and `weight` is an older layout. */
const TENSOR = /^base_model\.model\.(?<module>.+)\.lora_(?<matrix>[AB])(?:\.[^.]+)?\.weight$/;

/** Kinds of tensors that belong to something else than plain LoRA, by a part of their names. */
const OTHER_TENSORS: readonly (readonly [RegExp, string])[] = [
  [/\.lora_magnitude_vector(?:\.|$)/, "belongs to DoRA, which is not supported"],
  [/\.lora_embedding_[AB](?:\.|$)/, "changes the embedding, which is not supported"],
  [/\.lora_B(?:\.[^.]+)?\.bias$/, "is the bias of an adapter (`lora_bias`), which is not supported"],
  [/\.token_adapter\.|trainable_tokens/, "trains single tokens, which is not supported"],
];

/** Names of a module's tensors. */
interface Pair {
  readonly a?: string;
  readonly b?: string;
}

/**
 * Opens the file of an adapter.
 * @param most - largest number of modules that it can change, which bounds its header
 */
async function openTensors(folder: string, most: number): Promise<SafetensorsFile> {
  const maxHeaderBytes = MAX_METADATA_BYTES + 2 * most * HEADER_BYTES_PER_TENSOR;
  if (await exists(join(folder, ADAPTER_FILE))) return SafetensorsFile.open(join(folder, ADAPTER_FILE), maxHeaderBytes);
  if (await exists(join(folder, "adapter_model.bin"))) {
    throw unsupported(folder, `holds PyTorch's pickled adapter_model.bin, which is not read; save as safetensors`);
  }
  throw new ReadMeError("ERR_FILE_NOT_FOUND", `${folder}: has no ${ADAPTER_FILE}`);
}

/** Groups the file's tensors by module. @throws {ReadMeError} for a tensor that is no matrix of a module */
function pairsOf(store: SafetensorsFile, most: number): ReadonlyMap<string, Pair> {
  const pairs = new Map<string, Pair>();
  for (const name of store.names) {
    const { module, matrix } = TENSOR.exec(name)?.groups ?? {};
    if (module === undefined) throw unsupported(store.path, `tensor ${quoted(name)} ${otherTensor(name)}`);
    const pair = pairs.get(module) ?? {};
    const other = matrix === "A" ? pair.a : pair.b;
    if (other !== undefined) {
      throw unsupported(store.path, `tensors ${quoted(other)} and ${quoted(name)} are of two adapters in one file`);
    }
    pairs.set(module, { ...pair, [matrix === "A" ? "a" : "b"]: name });
    if (pairs.size > most) throw invalid(store, `changes more modules than the ${most} that the model has`);
  }
  if (pairs.size === 0) throw invalid(store, "holds no tensor");
  return pairs;
}

function otherTensor(name: string): string {
  const known = OTHER_TENSORS.find(([pattern]) => pattern.test(name));
  return known?.[1] ?? "is none of LoRA's, such as `base_model.model.….lora_A.weight`";
}

function invalid(store: SafetensorsFile, message: string): ReadMeError {
  return new ReadMeError("ERR_MODEL_INVALID", `${store.path}: ${message}`);
}
