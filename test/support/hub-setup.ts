// Setup of tests of downloads: a served model, an empty cache, and an environment without Hugging Face's variables.

import { lstat, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, vi } from "vitest";
import type { DownloadModelOptions, DownloadProgress } from "../../packages/model/src/hub/options.ts";
import { fixture } from "./fixtures.ts";
import { HubServer } from "./hub-server.ts";
import { temporaryFolder } from "./temporary-folder.ts";

export const NAME = "tiny-org/llama-tied";
export const WEIGHTS = "model.safetensors";
export const INDEX = "model.safetensors.index.json";

const ENVIRONMENT =
  "HF_HUB_CACHE HUGGINGFACE_HUB_CACHE HF_HOME XDG_CACHE_HOME HF_ENDPOINT HF_TOKEN HUGGING_FACE_HUB_TOKEN HF_TOKEN_PATH " +
  "HF_HUB_OFFLINE TRANSFORMERS_OFFLINE HF_HUB_DISABLE_SYMLINKS HF_HUB_DISABLE_IMPLICIT_TOKEN";

/** Clears the variables of Hugging Face's tools before each test of the file; `HF_HOME` becomes an empty folder. */
export function isolateEnvironment(): void {
  beforeEach(async () => {
    for (const name of ENVIRONMENT.split(" ")) vi.stubEnv(name, "");
    vi.stubEnv("HF_HOME", await temporaryFolder());
  });
  afterEach(() => {
    vi.unstubAllEnvs();
  });
}

/** The files of the served model. */
export const llama: Record<string, Uint8Array> = Object.fromEntries(
  await Promise.all(
    ["config.json", "generation_config.json", WEIGHTS].map(
      async (name) => [name, await readFile(join(fixture("families/llama-tied"), name))] as const,
    ),
  ),
);
export const weights = llama[WEIGHTS] as Uint8Array;

export interface Setup {
  readonly server: HubServer;
  readonly commit: string;
  readonly cacheFolder: string;
  /** The model's folder in the cache. */
  readonly folder: string;
  /** Requested waits, in ms. */
  readonly waits: number[];
  readonly options: DownloadModelOptions;
}

/** Serves `files` as the main branch. */
export async function setUp(files: Record<string, Uint8Array | string> = llama): Promise<Setup> {
  const server = await HubServer.start(NAME);
  const commit = server.commit(files);
  const cacheFolder = join(await temporaryFolder(), "hub");
  const waits: number[] = [];
  const delay = async (milliseconds: number): Promise<void> => void waits.push(milliseconds);
  const options = { endpoint: server.endpoint, cacheFolder, delay };
  return { server, commit, cacheFolder, folder: join(cacheFolder, "models--tiny-org--llama-tied"), waits, options };
}

/** Lists all files below a folder, with slashes; links are not followed. */
export async function filesBelow(folder: string): Promise<string[]> {
  const names = await readdir(folder, { recursive: true }).catch(() => []);
  const kept = [];
  for (const name of names) if (!(await lstat(join(folder, name))).isDirectory()) kept.push(name.replaceAll("\\", "/"));
  return kept.sort();
}

/** Lists the files that do not have their final name yet. */
export const incompleteIn = async (folder: string): Promise<string[]> =>
  (await filesBelow(folder)).filter((name) => name.includes("incomplete") || name.includes("tmp"));

/** Calls `then` once this many bytes of the weights are downloaded. */
export function onceThere(numBytes: number, then: () => void): (progress: DownloadProgress) => void {
  return ({ file, doneBytes }) => {
    if (file === WEIGHTS && doneBytes === numBytes) then();
  };
}
