// Adapters and expert sets of a call, from folders or the hub.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { downloadAdapter, expertNameOf, type HubName, parseModelName } from "@readme-moe/model";
import { shownDownload } from "../show-download.ts";
import { showStatus } from "../terminal.ts";
import type { LoraArgument } from "../options.ts";

const SET_FILE = "read-me-experts.json";

/**
 * Finds the folders of `--lora` by the names of their experts, for the engine's option `loras`.
 *
 * @returns `undefined` without any; the experts of a set have names of their own, so its key stands for nothing
 * @throws {TypeError} when a name is missing, given twice, or given to a set
 * @throws {ReadMeError} as `adapterPath`
 */
export async function loraFolders(
  loras: readonly LoraArgument[] | undefined,
  signal: AbortSignal,
): Promise<Readonly<Record<string, string>> | undefined> {
  if (loras === undefined) return undefined;
  const folders = new Map<string, string>();
  const sets: string[] = [];
  for (const { name, source } of loras) {
    const path = await adapterPath(source, signal);
    if (isSet(path)) {
      if (name === undefined) sets.push(path);
      else throw new TypeError(`Expected --lora ${source} without a name, since it is a set of experts with names`);
      continue;
    }
    const own = name ?? adapterName(source);
    if (folders.has(own)) throw new TypeError(`Expected different names of --lora, got ${own} twice`);
    folders.set(own, path);
  }
  for (const path of sets) {
    let number = 1;
    while (folders.has(`set-${number}`)) number += 1;
    folders.set(`set-${number}`, path);
  }
  return Object.fromEntries(folders);
}

export function isSet(path: string): boolean {
  return existsSync(join(path, SET_FILE));
}

/** Returns the name that an adapter has when none is given. @throws {TypeError} when its folder's name is none */
export function adapterName(source: string): string {
  return expertNameOf(hubNameOf(source)?.repository ?? source);
}

/**
 * Resolves an adapter: the path of a folder, else an adapter of the hub, which is downloaded into the shared cache.
 *
 * @throws {ReadMeError} `ERR_FILE_NOT_FOUND`, or as `downloadAdapter`
 */
export async function adapterPath(source: string, signal: AbortSignal): Promise<string> {
  if (existsSync(source)) return source;
  const hub = hubNameOf(source);
  if (hub === undefined) {
    throw new ReadMeError("ERR_FILE_NOT_FOUND", `${source}: no such folder, and no id of the hub`);
  }
  try {
    return await downloadAdapter(hub.repository, { revision: hub.revision, signal, ...shownDownload() });
  } catch (error) {
    if (!(error instanceof ReadMeError)) throw error;
    const message = `${source}: no such folder; as an adapter of the hub: ${error.message}`;
    throw new ReadMeError(error.code, message, { cause: error });
  } finally {
    showStatus();
  }
}

/** Reads a repository of the hub from an argument, unless that is a file, a folder or a short name. */
function hubNameOf(name: string): HubName | undefined {
  const parsed = parseModelName(name, existsSync);
  return parsed.kind === "hub" ? parsed : undefined;
}
