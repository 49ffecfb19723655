// The tensors of an adapter's file: matrices by the names of their modules.

import { access } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { quoted, unsupported } from "../files/errors.ts";
import { SafetensorsFile } from "../safetensors/safetensors-file.ts";
import { ADAPTER_FILE } from "./low-rank-expert.ts";

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
export interface Pair {
  readonly a?: string;
  readonly b?: string;
}

/**
 * Opens the file of an adapter.
 * @param most - largest number of modules that it can change, which bounds its header
 */
export async function openTensors(folder: string, most: number): Promise<SafetensorsFile> {
  const maxHeaderBytes = MAX_METADATA_BYTES + 2 * most * HEADER_BYTES_PER_TENSOR;
  const exists = (name: string): Promise<boolean> =>
    access(join(folder, name)).then(
      () => true,
      () => false,
    );
  if (await exists(ADAPTER_FILE)) return SafetensorsFile.open(join(folder, ADAPTER_FILE), maxHeaderBytes);
  if (await exists("adapter_model.bin")) {
    throw unsupported(folder, `holds PyTorch's pickled adapter_model.bin, which is not read; save as safetensors`);
  }
  throw new ReadMeError("ERR_FILE_NOT_FOUND", `${folder}: has no ${ADAPTER_FILE}`);
}

/** Groups the file's tensors by module. @throws {ReadMeError} for a tensor that is no matrix of a module */
export function pairsOf(store: SafetensorsFile, most: number): ReadonlyMap<string, Pair> {
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

export function invalid(store: SafetensorsFile, message: string): ReadMeError {
  return new ReadMeError("ERR_MODEL_INVALID", `${store.path}: ${message}`);
}
