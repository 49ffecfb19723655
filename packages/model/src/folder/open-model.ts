import { readdir, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { fileError } from "../files/file-error.ts";
import type { Model } from "./model.ts";
import { openFolder } from "./open-folder.ts";
import { openGguf } from "./open-gguf.ts";

/**
 * Opens a model: a Read-ME folder, a Hugging Face folder (dense, or converted by the paper's code), a GGUF file, or
 * a folder whose only weights are one GGUF file. Checks the config and that every tensor is there with its shape.
 *
 * @throws {ReadMeError} naming the file, and the tensor or field, that is missing, damaged or not supported
 */
export async function openModel(path: string): Promise<Model> {
  if (typeof path !== "string" || path === "") throw new TypeError("Expected `path` to name a folder or a GGUF file");
  const absolute = resolve(path);
  const state = await stat(absolute).catch((cause: unknown) => {
    throw fileError(absolute, cause);
  });
  if (!state.isDirectory()) return openGguf(absolute);
  const names = await readdir(absolute).catch((cause: unknown) => {
    throw fileError(absolute, cause);
  });
  const hasWeights = names.some((name) => name.endsWith(".safetensors") || name.endsWith(".safetensors.index.json"));
  const ggufs = names.filter((name) => name.toLowerCase().endsWith(".gguf"));
  const [gguf] = ggufs;
  if (hasWeights || gguf === undefined) return openFolder(absolute);
  if (ggufs.length === 1) return openGguf(join(absolute, gguf));
  throw new ReadMeError("ERR_MODEL_INVALID", `${absolute}: holds ${ggufs.length} GGUF files; name one of them`);
}
