// A dense model of the tiny Read-ME models' shape, as a folder.

import { copyFile, mkdir, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { writeSafetensors } from "@readme-moe/model";
import { tinyContent, WITH_TOKENIZER } from "./tiny-read-me.ts";

/** Reads texts with the pocket model's tokenizer. */
export async function writeTinyDense(path: string, seed: number): Promise<void> {
  const { config, tensors } = tinyContent({
    ...WITH_TOKENIZER,
    seed,
    numExperts: 1,
    expertSizes: [64, 64],
    sharedSizes: [0, 0],
    hasRouter: false,
  });
  await mkdir(path, { recursive: true });
  await writeSafetensors(join(path, "model.safetensors"), [...tensors.backbone, ...(tensors.experts[0] ?? [])]);
  await writeFile(join(path, "config.json"), JSON.stringify(config));
  for (const file of WITH_TOKENIZER.copies) await copyFile(file, join(path, basename(file)));
}
