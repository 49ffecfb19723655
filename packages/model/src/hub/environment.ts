// The environment variables that Hugging Face's own tools read, with the same meaning.
// @huggingface/hub has `getHFHubCachePath`, but it neither expands `~` nor takes an empty variable for an absent one.

import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { readTextFile } from "../files/text-file.ts";

const MAX_TOKEN_FILE_BYTES = 1 << 16;

/** The shared cache: `HF_HUB_CACHE`, else `HF_HOME/hub`, where `HF_HOME` is `~/.cache/huggingface` by default. */
export function hubCacheFolder(): string {
  const named = variable("HF_HUB_CACHE") ?? variable("HUGGINGFACE_HUB_CACHE");
  return named === undefined ? join(hubHome(), "hub") : expandHome(named);
}

export function hubEndpoint(): string {
  return variable("HF_ENDPOINT") ?? "https://huggingface.co";
}

export function isOfflineByEnvironment(): boolean {
  return isSet("HF_HUB_OFFLINE") || isSet("TRANSFORMERS_OFFLINE");
}

export function areSymlinksDisabled(): boolean {
  return isSet("HF_HUB_DISABLE_SYMLINKS");
}

/**
 * The caller's token: `HF_TOKEN`, else what `hf auth login` left in `HF_TOKEN_PATH` (`HF_HOME/token` by default).
 * `HF_HUB_DISABLE_IMPLICIT_TOKEN` turns both off.
 * @throws {ReadMeError} `ERR_FILE_UNREADABLE`, `ERR_FILE_CORRUPT` for the file
 */
export async function hubToken(): Promise<string | undefined> {
  if (isSet("HF_HUB_DISABLE_IMPLICIT_TOKEN")) return undefined;
  const token = variable("HF_TOKEN") ?? variable("HUGGING_FACE_HUB_TOKEN");
  if (token !== undefined) return token;
  const path = expandHome(variable("HF_TOKEN_PATH") ?? join(hubHome(), "token"));
  const text = await readTextFile(path, MAX_TOKEN_FILE_BYTES);
  return text?.trim() === "" ? undefined : text?.trim();
}

function hubHome(): string {
  const home = variable("HF_HOME");
  if (home !== undefined) return expandHome(home);
  return join(expandHome(variable("XDG_CACHE_HOME") ?? "~/.cache"), "huggingface");
}

/** `~` and `~/…` lead to the user's folder; a relative path becomes absolute. */
export function expandHome(path: string): string {
  return resolve(/^~(?:$|[/\\])/.test(path) ? homedir() + path.slice(1) : path);
}

function variable(name: string): string | undefined {
  const value = process.env[name]?.trim();
  return value === "" ? undefined : value;
}

function isSet(name: string): boolean {
  return ["1", "ON", "YES", "TRUE"].includes(variable(name)?.toUpperCase() ?? "");
}
