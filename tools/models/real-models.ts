// Real models in 4 bits for long tests and benchmarks: the GGUF files of presets, in a folder of their own.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { expandHome } from "../../packages/model/src/cache/cache-folder.ts";
import type { PackagedFile } from "../../packages/model/src/names/packaged-file.ts";
import { presetNamed } from "../../packages/model/src/names/preset.ts";

export type RealModelSize = "0.5b" | "1.5b";

/** Qwen2.5-Coder-Instruct (Apache-2.0) in Q4_K_M. Rows of the smaller one do not divide by 256: it has other types. */
export const REAL_MODELS: Readonly<Record<RealModelSize, PackagedFile>> = { "0.5b": fileOf("0.5b"), "1.5b": fileOf("1.5b") };

function fileOf(size: RealModelSize): PackagedFile {
  const preset = presetNamed(`qwen2.5-coder-${size}`);
  if (preset === undefined) throw new TypeError(`Expected a preset of ${size}`);
  return preset.packaged;
}

/** Returns the folder of the environment variable `README_MOE_REAL_MODELS`, else one that git ignores. */
export function realModelsFolder(): string {
  const named = process.env["README_MOE_REAL_MODELS"];
  return named ? expandHome(named) : join(import.meta.dirname, "..", "..", "models", "real");
}

/** Finds a fetched model. @returns `undefined` when it is not there */
export function realModel(size: RealModelSize): string | undefined {
  const path = join(realModelsFolder(), REAL_MODELS[size].file);
  return existsSync(path) ? path : undefined;
}
