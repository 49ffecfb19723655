// Models whose weights are in an ONNX file: a folder with config.json, and the file in it or in its folder `onnx`.

import { readdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import type { ModelConfig } from "../config/model-config.ts";
import { unsupported } from "../files/errors.ts";
import { chooseOnnxFile, onnxFilesAmong } from "../onnx/onnx-names.ts";
import { OnnxTensorStore } from "../onnx/onnx-tensor-store.ts";
import { locateDense } from "../weights/backbone.ts";
import type { Located } from "./model.ts";

/** Lists the ONNX files of a folder, with slashes. */
export async function onnxFilesIn(folder: string, names: readonly string[]): Promise<readonly string[]> {
  const inner = names.includes("onnx") ? await readdir(join(folder, "onnx")).catch((): string[] => []) : [];
  return onnxFilesAmong([...names, ...inner.map((name) => `onnx/${name}`)]);
}

/** Finds the folder of the model that an ONNX file belongs to. */
export function folderOfOnnx(file: string): string {
  const folder = dirname(file);
  return basename(folder) === "onnx" ? dirname(folder) : folder;
}

/** @throws {ReadMeError} `ERR_MODEL_INVALID` when there are several files, none with a usual name */
export function chosenOnnx(folder: string, files: readonly string[]): string {
  const chosen = chooseOnnxFile(files);
  if (chosen !== undefined) return join(folder, chosen);
  throw new ReadMeError("ERR_MODEL_INVALID", `${folder}: holds ${files.length} ONNX files; name one of them`);
}

/**
 * Opens the weights of a dense model. The head is separate if the file has one: quantised heads differ from the table.
 * @throws {ReadMeError} as `OnnxTensorStore.open`
 */
export async function openOnnx(
  file: string,
  config: ModelConfig,
): Promise<{ readonly located: Located; readonly config: ModelConfig }> {
  if (/_bnb4\.onnx$/i.test(file)) {
    throw unsupported(file, "has 4 bits in the format of bitsandbytes, which are not read; use q4");
  }
  if (config.pooling) {
    throw unsupported(
      file,
      "is of a model that does not generate, which is not read from ONNX; use safetensors or GGUF",
    );
  }
  const store = await OnnxTensorStore.open(file, config);
  try {
    const own: ModelConfig = { ...config, hasTiedEmbeddings: store.isTied };
    const dense = locateDense(store, own);
    return {
      config: own,
      located: { kind: "dense", ...dense, router: undefined, files: store.files, stores: [store] },
    };
  } catch (error) {
    await store.close();
    throw error;
  }
}
