// Exports a dense model as a folder that transformers.js loads: `onnx/model*.onnx`, configs and tokenizer.

import { copyFile, link, mkdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import {
  describeMixture,
  exportedConfig,
  exportedGenerationConfig,
  exportedText,
  type JsonObject,
  type Model,
  readJsonFile,
  textConfig,
  toJson,
  writeFileAtomically,
  writeFolderAtomically,
} from "@readme-moe/model";
import { dataChunks, encodeGraph, encodeWhole } from "../graphs/encode.ts";
import type { OnnxVersion } from "../graphs/model-proto.ts";
import { exportGraph } from "./export-graph.ts";
import type { ExportDtype } from "./export-weights.ts";

/** Precisions of exported models, by their names in transformers.js. */
export const EXPORT_DTYPES: readonly ExportDtype[] = ["fp32", "q8", "q4"];

/** Options of `exportTransformersJs`. */
export interface ExportOptions {
  /** Precisions of the written graphs, at least one. @default all */
  readonly dtypes?: readonly ExportDtype[] | undefined;
  /** Largest size of a graph with its weights inside; larger ones have a separate file of weights. @default 2 GB */
  readonly maxWholeBytes?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: ExportProgress) => void) | undefined;
}

/** Progress of an export with one file. */
export interface ExportProgress {
  /** File that is being written, relative to the folder. */
  readonly file: string;
  readonly doneBytes: number;
  readonly ofBytes: number;
}

/** Written file, relative to the folder. */
export interface ExportedFile {
  readonly name: string;
  readonly bytes: number;
}

// onnxruntime 1.14, which @xenova/transformers 2 depends on, reads this version; other exporters write it, too.
const VERSION: OnnxVersion = { ir: 8, opset: 18 };
const SUFFIXES: Readonly<Record<ExportDtype, string>> = { fp32: "", q8: "_quantized", q4: "_q4" };
// A protobuf message must stay under 2 ** 31 bytes.
const MAX_WHOLE_BYTES = 2_000_000_000;
const MAX_CONFIG_BYTES = 16 << 20;

/**
 * Writes a dense model in the layout of transformers.js, whole or not at all.
 *
 * `@xenova/transformers` 2 asks for `decoder_model_merged*.onnx`; those are links to the same files.
 *
 * @param path - a folder that does not exist yet, or is empty
 * @returns the files in it
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` for mixtures of experts; `ERR_WRITE_FAILED`; as `model.loadText`
 */
export async function exportTransformersJs(
  model: Model,
  path: string,
  options: ExportOptions = {},
): Promise<readonly ExportedFile[]> {
  const { dtypes = EXPORT_DTYPES, maxWholeBytes = MAX_WHOLE_BYTES, signal, onProgress } = options;
  if (dtypes.length === 0) throw new TypeError("Expected `dtypes` to name at least one");
  refuseMixture(model);
  signal?.throwIfAborted();
  const texts = new Map(await exportedText(model));
  const files: ExportedFile[] = [];
  await writeFolderAtomically(path, async (folder) => {
    await mkdir(join(folder, "onnx"));
    const withDataFile: string[] = [];
    const write = async (name: string, content: Content): Promise<void> => {
      await writeFileAtomically(join(folder, name), content);
      files.push({ name, bytes: (await stat(join(folder, name))).size });
    };
    for (const dtype of new Set(dtypes)) {
      const name = `model${SUFFIXES[dtype]}.onnx`;
      const report = (progress: Omit<ExportProgress, "file">): void => {
        signal?.throwIfAborted();
        onProgress?.({ ...progress, file: `onnx/${name}` });
      };
      const graph = exportGraph(model, dtype);
      const whole = await encodeWhole(graph, VERSION);
      if (whole.byteLength <= maxWholeBytes) {
        await write(`onnx/${name}`, whole.chunks(report));
        if (dtype !== "q4") files.push(await addOldName(folder, name));
        continue;
      }
      const encoded = await encodeGraph(graph, `${name}_data`, VERSION);
      await write(`onnx/${name}`, encoded.model);
      await write(`onnx/${name}_data`, dataChunks(encoded, report));
      withDataFile.push(name);
    }
    const original = (name: string): Promise<JsonObject | undefined> => ownConfig(model, name);
    const own = await original("config.json");
    const config = exportedConfig(model.config, own && textConfig(model.path, own), { dtypes, withDataFile });
    texts.set("config.json", toJson(config));
    const generation = exportedGenerationConfig(model.config, await original("generation_config.json"));
    texts.set("generation_config.json", toJson(generation));
    for (const [name, text] of texts) await write(name, text);
  }).catch((error: unknown) => {
    signal?.throwIfAborted();
    throw error;
  });
  return files;
}

type Content = Parameters<typeof writeFileAtomically>[1];

function refuseMixture(model: Model): void {
  if (model.kind === "dense") return;
  const what = `is ${describeMixture(model)}`;
  const message = `${model.path}: ${what}, which transformers.js has no graph for; only dense models can be exported`;
  throw new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
}

/** Adds a graph's old name. Old versions run neither 4 bits nor graphs with a separate file of weights. */
async function addOldName(folder: string, name: string): Promise<ExportedFile> {
  const [from, to] = [
    join(folder, "onnx", name),
    join(folder, "onnx", `decoder_${name.replace("model", "model_merged")}`),
  ];
  // Some file systems have no links.
  await link(from, to).catch(() => copyFile(from, to));
  return { name: `onnx/decoder_${name.replace("model", "model_merged")}`, bytes: (await stat(to)).size };
}

/** Reads a file of the checkpoint's folder; a GGUF file has none. */
async function ownConfig(model: Model, name: string): Promise<JsonObject | undefined> {
  if (!(await stat(model.path)).isDirectory()) return undefined;
  return readJsonFile(join(model.path, name), MAX_CONFIG_BYTES);
}
