import { copyFile, mkdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { writeFolderAtomically } from "../files/atomic-folder.ts";
import { writeFileAtomically } from "../files/atomic-write.ts";
import { writeSafetensors } from "../safetensors/write-safetensors.ts";
import type { ReadMeTensors } from "./model-tensors.ts";
import { BACKBONE_FILE, expertFile, ROUTER_FILE } from "./open-read-me.ts";
import type { ReadMeSection } from "./read-me-config.ts";

/** Everything that a Read-ME folder is made of. */
export interface ReadMeContent {
  /** The base model's config.json, unchanged; `readme` is added to it. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly readme: ReadMeSection;
  readonly tensors: ReadMeTensors;
  /** Files to copy beside them, such as the base model's tokenizer.json; their names are kept. */
  readonly copies?: readonly string[] | undefined;
  /** Further text files by name, such as report.json, README.md and pictures/losses.svg. */
  readonly documents?: Readonly<Record<string, string>> | undefined;
}

/**
 * Writes a Read-ME model folder, whole or not at all: beside `path` under a temporary name, then renamed.
 *
 * @param path - a folder that does not exist yet, or is empty
 * @throws {ReadMeError} `ERR_WRITE_FAILED` when it is neither, or when anything fails underway
 */
export async function writeReadMeFolder(path: string, content: ReadMeContent): Promise<void> {
  await writeFolderAtomically(path, (folder) => writeAll(folder, content));
}

async function writeAll(folder: string, { config, readme, tensors, copies, documents }: ReadMeContent): Promise<void> {
  await mkdir(join(folder, "experts"));
  await writeSafetensors(join(folder, BACKBONE_FILE), tensors.backbone);
  for (const [expert, inputs] of tensors.experts.entries()) {
    await writeSafetensors(join(folder, expertFile(expert)), inputs);
  }
  if (tensors.router) await writeSafetensors(join(folder, ROUTER_FILE), tensors.router);
  for (const source of copies ?? []) await copyFile(source, join(folder, basename(source)));
  const texts = { ...documents, "config.json": `${JSON.stringify({ ...config, readme }, undefined, 2)}\n` };
  for (const [name, text] of Object.entries(texts)) {
    const path = join(folder, name);
    await mkdir(dirname(path), { recursive: true });
    await writeFileAtomically(path, text);
  }
}
