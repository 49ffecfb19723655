// Notes on running servers: a small file for each in the state folder, which `readme-moe ps` reads. They have no keys.
//
//   servers/<mark of the process>.json

import { randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { hasEnded, OWN_MARK, ownerOf } from "@readme-moe/model";

/** Facts about a server that are known without asking it. */
export interface ServerNote {
  readonly pid: number;
  /** Address that it listens on. */
  readonly url: string;
  /** Name of the model for clients; of several, of the one that answers requests without a name. */
  readonly model: string;
  /** Names of all models, where there are several. */
  readonly models?: readonly string[] | undefined;
  /** Time of its start, in ms since 1970. */
  readonly sinceMs: number;
  /** Whether the engine is part of the server's process, so that their memory is the same. */
  readonly hasEngineInside: boolean;
}

export interface FiledNote {
  readonly path: string;
  readonly note: ServerNote;
}

/** Writes a note. Never fails: a server runs without it. @returns removes it */
export async function noteServer(stateFolder: string, note: ServerNote): Promise<() => Promise<void>> {
  const folder = join(stateFolder, "servers");
  const path = join(folder, `${OWN_MARK}-${randomBytes(4).toString("hex")}.json`);
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    await writeFile(path, `${JSON.stringify(note)}\n`, { mode: 0o600, flag: "wx" });
  } catch {
    return async () => undefined;
  }
  return () => removeNote(path);
}

/** Reads the notes of running processes, the oldest first, and removes those of processes that have ended. */
export async function readNotes(stateFolder: string): Promise<readonly FiledNote[]> {
  const folder = join(stateFolder, "servers");
  const names = await readdir(folder).catch(() => []);
  const notes = await Promise.all(names.map((name) => readNote(join(folder, name), name)));
  return notes.filter((filed) => filed !== undefined).toSorted((a, b) => a.note.sinceMs - b.note.sinceMs);
}

/** Removes a note. Never fails. */
export async function removeNote(path: string): Promise<void> {
  await rm(path, { force: true }).catch(() => undefined);
}

async function readNote(path: string, name: string): Promise<FiledNote | undefined> {
  const owner = ownerOf(name.replace(/\.json$/, ""));
  if (owner === undefined) return undefined;
  try {
    const [text, { mtimeMs }] = await Promise.all([readFile(path, "utf8"), stat(path)]);
    const note = parseNote(text);
    if (note !== undefined && !hasEnded(owner, mtimeMs)) return { path, note };
    await removeNote(path);
  } catch {
    // The server has removed it meanwhile, or it belongs to another user.
  }
  return undefined;
}

/** Parses a note; `undefined` for anything else, such as half a file. */
export function parseNote(text: string): ServerNote | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  const { pid, url, model, models, sinceMs, hasEngineInside } = Object(value) as Readonly<Record<string, unknown>>;
  const isNote =
    typeof pid === "number" &&
    typeof url === "string" &&
    URL.canParse(url) &&
    typeof model === "string" &&
    typeof sinceMs === "number" &&
    typeof hasEngineInside === "boolean";
  if (!isNote) return undefined;
  const names = Array.isArray(models) ? models.filter((name) => typeof name === "string") : undefined;
  return { pid, url, model, sinceMs, hasEngineInside, ...(names && { models: names }) };
}
