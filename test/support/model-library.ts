// Setup of tests of the models on this machine: two empty caches, a served repository, and packed weights.

import { join } from "node:path";
import { beforeEach, vi } from "vitest";
import {
  type CachedModel,
  type CachedModels,
  cachedData,
  listModels,
  removeModels,
  selectModels,
} from "@readme-moe/model";
import { HubServer } from "./hub-server.ts";
import { filesBelow, isolateEnvironment } from "./hub-setup.ts";
import { temporaryFolder } from "./temporary-folder.ts";

/** Contents of two GGUF files, as far as a list of files goes. */
export const EIGHT: Buffer = Buffer.from("GGUF of eight bits. ".repeat(3000));
export const FOUR: Buffer = Buffer.from("GGUF of four bits. ".repeat(2000));

/** The caches of the running test; neither folder exists at its beginning. */
export const caches = { own: "", hub: "" };

/** Gives each test of the file new caches. */
export function useEmptyCaches(): void {
  isolateEnvironment();
  beforeEach(async () => {
    caches.own = join(await temporaryFolder(), "cache");
    caches.hub = join(await temporaryFolder(), "hub");
    vi.stubEnv("README_MOE_CACHE", caches.own);
    vi.stubEnv("HF_HUB_CACHE", caches.hub);
  });
}

/** Serves a repository as the only one of the hub. */
export async function serve(name: string, files: Parameters<HubServer["commit"]>[0]): Promise<HubServer> {
  const server = await HubServer.start(name);
  server.commit(files);
  vi.stubEnv("HF_ENDPOINT", server.endpoint);
  return server;
}

/** Packs something for a model, as an engine does. @returns the entry's name */
export async function pack(modelPath: string, key: string): Promise<string> {
  const chunks = async function* (): AsyncGenerator<Uint8Array> {
    yield Buffer.alloc(1000, key);
  };
  const path = await cachedData(caches.own, { kind: "kernels", key, note: "a note", modelPath, chunks });
  return path.split(/[/\\]/).at(-2) ?? "";
}

export function list(): Promise<CachedModels> {
  return listModels();
}

/** Removes models by name. @returns the freed bytes */
export async function remove(...names: readonly string[]): Promise<number> {
  const listed = await list();
  const models = names.flatMap((name) => selectModels(listed.models, name, () => false).models);
  return (await removeModels([...new Set(models)], listed)).bytes;
}

export function namesOf(models: readonly CachedModel[]): readonly string[] {
  return models.map(({ name }) => name).toSorted();
}

/** Lists the contents in the hub's cache. */
export async function blobsIn(): Promise<readonly string[]> {
  return (await filesBelow(caches.hub)).filter((name) => name.includes("/blobs/"));
}
