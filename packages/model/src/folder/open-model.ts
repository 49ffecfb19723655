import { readdir, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { fingerprintOf } from "../cache/cached-data.ts";
import { ENCODER_TYPES } from "../config/encoder-config.ts";
import { Fields } from "../config/fields.ts";
import { ggufConfig } from "../config/gguf-config.ts";
import type { ModelConfig } from "../config/model-config.ts";
import { parseConfig } from "../config/parse-config.ts";
import { generationDefaults, ggufDefaults } from "../config/sampling-defaults.ts";
import { fileError, invalid, notFound, unsupported } from "../files/errors.ts";
import { exists, orClose, readJsonFile, together } from "../files/read-file.ts";
import { GgufTensorStore } from "../gguf/gguf-tensor-store.ts";
import { openExpertSet } from "../lora/lora-set.ts";
import { ADAPTER_CONFIG_FILE, ADAPTER_FILE, SET_FILE } from "../lora/lora.ts";
import { chooseOnnxFile, onnxFilesAmong, OnnxTensorStore } from "../onnx/onnx-tensor-store.ts";
import { SafetensorsFile, ShardedSafetensors } from "../safetensors/safetensors-file.ts";
import type { TensorStore } from "../tensor-store.ts";
import { loadFolderText, loadGgufText, poolingText } from "../text/load-text.ts";
import { locateEncoder } from "../weights/locate-encoder.ts";
import { isOfficialConversion, locateOfficial } from "../weights/locate-router.ts";
import { locateMixture } from "../weights/locate-mixture.ts";
import { locateDense, locateModules, locateNext } from "../weights/locate-weights.ts";
import { mxfp4Tensors, textTensors } from "../weights/tensor-parts.ts";
import {
  CONFIG_FILE,
  INDEX_FILE,
  isPublished,
  type Located,
  type Model,
  once,
  ROUTER_FILE,
  SINGLE_FILE,
} from "./model.ts";
import { openReadMe } from "./read-me-folder.ts";
import { readPooling } from "./read-pooling.ts";

const MAX_CONFIG_BYTES = 4 << 20;

/**
 * Opens a model: a Read-ME folder, a Hugging Face folder (dense, a mixture, or converted by the paper's code), a GGUF
 * or ONNX file, or a folder whose only weights are one GGUF file or ONNX files. Checks the config, and that every
 * tensor is there with its shape. Among ONNX files, the most exact one is chosen; a path to one of them chooses it.
 *
 * @throws {ReadMeError} naming the file, and the tensor or field, that is missing, damaged or not supported
 */
export async function openModel(path: string): Promise<Model> {
  const place = await findModel(path);
  return place.gguf === undefined ? openFolder(place.folder, place.onnx) : openGguf(place.gguf, place.folder);
}

type ModelPlace =
  /** A GGUF file, and its folder if that was named. */
  | { readonly gguf: string; readonly folder: string | undefined }
  /** A folder with config.json, and its ONNX file if the weights are in one. */
  | { readonly gguf: undefined; readonly folder: string; readonly onnx: string | undefined };

/**
 * Finds the files that a path to a model means, whatever is read from them.
 *
 * @throws {ReadMeError} `ERR_FILE_NOT_FOUND`; `ERR_MODEL_INVALID` when several files could be meant
 */
export async function findModel(path: string): Promise<ModelPlace> {
  if (typeof path !== "string" || path === "") {
    throw new TypeError("Expected `path` to name a folder, a GGUF file or an ONNX file");
  }
  const absolute = resolve(path);
  const failed = (cause: unknown): never => {
    throw fileError(absolute, cause);
  };
  if (!(await stat(absolute).catch(failed)).isDirectory()) {
    const isOnnx = /\.onnx$/i.test(absolute);
    return isOnnx ? inFolder(folderOfOnnx(absolute), absolute) : { gguf: absolute, folder: undefined };
  }
  const names = await readdir(absolute).catch(failed);
  if (names.some(isWeights)) return inFolder(absolute);
  const [gguf, ...others] = names.filter((name) => name.toLowerCase().endsWith(".gguf"));
  if (gguf === undefined) {
    const files = await onnxFilesIn(absolute, names);
    return inFolder(absolute, files.length > 0 ? chosenOnnx(absolute, files) : undefined);
  }
  if (others.length === 0) return { gguf: join(absolute, gguf), folder: absolute };
  throw invalid(absolute, `holds ${others.length + 1} GGUF files; name one of them`);
}

function inFolder(folder: string, onnx?: string): ModelPlace {
  return { gguf: undefined, folder, onnx };
}

/** Tells whether a folder's weights are safetensors; a router may also belong to the experts of a GGUF file. */
function isWeights(name: string): boolean {
  return (
    (name.endsWith(".safetensors") && name !== ROUTER_FILE && name !== ADAPTER_FILE) ||
    name.endsWith(".safetensors.index.json")
  );
}

/**
 * Opens a GGUF file, which holds weights, config, tokenizer and chat template.
 *
 * @param folder - its folder, when that was named and may hold experts
 */
async function openGguf(path: string, folder?: string): Promise<Model> {
  const store = await GgufTensorStore.open(path);
  return orClose(store, async () => {
    const config = await ggufConfig(store);
    const { weights, ...located } = locatePlain(store, config);
    const dense = await locateModules(config, async (module) => [store, module.name]);
    const fingerprint = await fingerprintOf([path]);
    const loraSet = folder === undefined ? undefined : await openExpertSet(folder, config);
    return {
      path,
      config,
      ...located,
      weights: { ...weights, dense },
      router: undefined,
      loraSet,
      files: [path],
      fingerprint,
      samplingDefaults: () => ggufDefaults(path, store.file.metadata),
      loadText: once(async () => poolingText(path, config, loadGgufText(path, store.file.metadata))),
      ...together([store, loraSet]),
    };
  });
}

/** Reads config, sampling parameters and text of a folder. @throws {ReadMeError} as `openModel` */
export async function readFolder(
  path: string,
): Promise<Pick<Model, "config" | "samplingDefaults" | "loadText"> & { readonly fields: Fields }> {
  const configPath = join(path, CONFIG_FILE);
  const json = await readJsonFile(configPath, MAX_CONFIG_BYTES);
  if (json === undefined) {
    throw notFound(path, `has no config.json, so it is no model folder${await hint(path)}`);
  }
  const generationPath = join(path, "generation_config.json");
  const generation = await readJsonFile(generationPath, MAX_CONFIG_BYTES);
  const fields = new Fields(configPath, json);
  const text = once(() => loadFolderText(path));
  const generationFields = generation && new Fields(generationPath, generation);
  const parsed = parseConfig(configPath, json, generationFields);
  const config = { ...parsed, pooling: await readPooling(path, fields, parsed.encoder !== undefined, text) };
  if (
    config.pooling &&
    config.pooling.kind !== "embedding" &&
    config.encoder &&
    !ENCODER_TYPES.includes(config.modelType)
  )
    throw unsupported(configPath, "gives scores by attention in both directions, which is not supported");
  return {
    fields,
    config,
    samplingDefaults: () => generationDefaults(generationFields),
    loadText: once(async () => poolingText(path, config, await text())),
  };
}

/** Opens a folder with config.json, and safetensors or the ONNX file `onnx`. */
async function openFolder(path: string, onnx?: string): Promise<Model> {
  const { fields, ...settings } = await readFolder(path);
  const { config, located: withoutDense } = await (onnx === undefined
    ? openSafetensors(path, settings.config, fields)
    : openOnnx(onnx, settings.config));
  const { stores, ...located } = await withDense(path, config, withoutDense);
  const files = [fields.path, ...located.files];
  return orClose(together(stores), async () => {
    const fingerprint = await fingerprintOf(files);
    const loraSet = await openExpertSet(path, config);
    if (loraSet !== undefined && !isPublished(located)) {
      await loraSet.close();
      throw unsupported(
        loraSet.path,
        `has ${SET_FILE}, whose experts change a dense model; this one has experts already`,
      );
    }
    return { path, ...settings, config, ...located, loraSet, files, fingerprint, ...together([...stores, loraSet]) };
  });
}

/** Opens the files of the modules Dense of sentence-transformers, each in a folder of its own. */
async function withDense(path: string, config: ModelConfig, located: Located): Promise<Located> {
  const stores = [...located.stores];
  const files = [...located.files];
  return orClose(together(stores), async () => {
    const dense = await locateModules(config, async ({ name }) => {
      const store = await openStore(join(path, name));
      stores.push(store);
      files.push(...filesOf(store));
      return [store, "linear"];
    });
    return { ...located, weights: { ...located.weights, dense }, stores, files };
  });
}

/** Names what a folder without a model holds, if that is a part of one. */
async function hint(path: string): Promise<string> {
  const names = await readdir(path).catch((): string[] => []);
  if (!names.includes(ADAPTER_CONFIG_FILE) && !names.includes(SET_FILE)) return "";
  return "; it holds loras, which need the dense model that they change";
}

async function openSafetensors(
  path: string,
  config: ModelConfig,
  fields: Fields,
): Promise<{ readonly config: ModelConfig; readonly located: Located }> {
  const readme = fields.object("readme");
  return { config, located: await (readme ? openReadMe(path, config, readme) : openCheckpoint(path, config, fields)) };
}

async function openCheckpoint(path: string, config: ModelConfig, fields: Fields): Promise<Located> {
  const store = await openStore(path);
  return orClose(store, () => {
    const files = filesOf(store);
    const ofText = ENCODER_TYPES.includes(config.modelType) ? store : textTensors(mxfp4Tensors(store));
    if (isOfficialConversion(store)) {
      if (config.mixture) throw unsupported(path, "is a mixture, which the paper's code does not convert");
      return { kind: "official", ...locateOfficial(store, config, fields), files, stores: [store] };
    }
    return { ...locatePlain(ofText, config), router: undefined, files, stores: [store] };
  });
}

/** Finds the tensors of a checkpoint as its authors published it. */
function locatePlain(store: TensorStore, config: ModelConfig): Pick<Located, "kind" | "experts" | "weights"> {
  if (ENCODER_TYPES.includes(config.modelType)) return { kind: "pooling", ...locateEncoder(store, config) };
  const { mixture, pooling } = config;
  const { experts, weights } = mixture ? locateMixture(store, config, mixture) : locateDense(store, config);
  const kind = pooling ? "pooling" : mixture ? "mixture" : "dense";
  return { kind, experts, weights: kind === "dense" ? { ...weights, next: locateNext(store, config) } : weights };
}

function filesOf(store: SafetensorsFile | ShardedSafetensors): readonly string[] {
  return store instanceof ShardedSafetensors ? [store.path, ...store.shardPaths] : [store.path];
}

async function openStore(path: string): Promise<SafetensorsFile | ShardedSafetensors> {
  const has = (name: string): Promise<boolean> => exists(join(path, name));
  if (await has(SINGLE_FILE)) return SafetensorsFile.open(join(path, SINGLE_FILE));
  if (await has(INDEX_FILE)) return ShardedSafetensors.open(join(path, INDEX_FILE));
  if ((await has("pytorch_model.bin")) || (await has("pytorch_model.bin.index.json"))) {
    throw unsupported(path, "holds PyTorch's pickled weights, which are not read; save the model as safetensors");
  }
  throw notFound(path, `holds neither ${SINGLE_FILE} nor ${INDEX_FILE}`);
}

// Models whose weights are in an ONNX file: a folder with config.json, and the file in it or in its folder `onnx`.

/** Lists the ONNX files of a folder, with slashes. */
async function onnxFilesIn(folder: string, names: readonly string[]): Promise<readonly string[]> {
  const inner = names.includes("onnx") ? await readdir(join(folder, "onnx")).catch((): string[] => []) : [];
  return onnxFilesAmong([...names, ...inner.map((name) => `onnx/${name}`)]);
}

/** Finds the folder of the model that an ONNX file belongs to. */
function folderOfOnnx(file: string): string {
  const folder = dirname(file);
  return basename(folder) === "onnx" ? dirname(folder) : folder;
}

/** @throws {ReadMeError} `ERR_MODEL_INVALID` when there are several files, none with a usual name */
function chosenOnnx(folder: string, files: readonly string[]): string {
  const chosen = chooseOnnxFile(files);
  if (chosen !== undefined) return join(folder, chosen);
  throw invalid(folder, `holds ${files.length} ONNX files; name one of them`);
}

/**
 * Opens the weights of a dense model or an encoder. The head is separate if the file has one: quantised heads differ
 * from the table.
 * @throws {ReadMeError} as `OnnxTensorStore.open`
 */
async function openOnnx(
  file: string,
  config: ModelConfig,
): Promise<{ readonly located: Located; readonly config: ModelConfig }> {
  if (/_bnb4\.onnx$/i.test(file)) {
    throw unsupported(file, "has 4 bits in the format of bitsandbytes, which are not read; use q4");
  }
  if (config.pooling && !ENCODER_TYPES.includes(config.modelType)) {
    throw unsupported(
      file,
      "is of a decoder that does not generate, which is not read from ONNX; use safetensors or GGUF",
    );
  }
  const store = await OnnxTensorStore.open(file, config);
  return orClose(store, () => {
    const own: ModelConfig = { ...config, hasTiedEmbeddings: store.isTied };
    const located = locatePlain(store, own);
    return { config: own, located: { ...located, router: undefined, files: store.files, stores: [store] } };
  });
}
