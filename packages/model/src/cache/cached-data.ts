// Files that are made once from a model and read piece by piece while it runs, kept in the cache folder.

import { createHash, randomUUID } from "node:crypto";
import { mkdir, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { makeFolder, renamePatiently, writeFileAtomically } from "../files/write-file.ts";
import { removeAbandoned } from "./cache-folder.ts";
import { fileCrc32 } from "./fingerprint.ts";

/**
 * The file's path, made when it is not there, or not whole.
 *
 * @param kind - names the folder in the cache
 * @param key - of everything that the contents are made from
 * @param note - kept beside it, such as what is where in it
 * @throws {ReadMeError} `ERR_WRITE_FAILED` when the cache cannot be written
 */
export async function cachedData(
  cacheFolder: string,
  kind: string,
  key: string,
  note: string,
  chunks: () => AsyncIterable<Uint8Array>,
): Promise<string> {
  const folder = join(cacheFolder, kind);
  const entry = join(folder, createHash("sha256").update(`${key}\n${note}`).digest("hex").slice(0, 40));
  await removeAbandoned(folder, BUILDING);
  if (!(await isWholeEntry(entry))) await buildEntry(folder, entry, new TextEncoder().encode(note), chunks());
  return join(entry, DATA_FILE);
}

// One entry of the cache: a folder with data, a note on it, and the length and checksum of both.

const NOTE_FILE = "note.txt";
export const DATA_FILE = "weights.bin";
const STATES_FILE = "entry.json";
const MAX_INSTALLS = 3;

interface FileState {
  readonly bytes: number;
  readonly crc32: number;
}

type Chunks = Iterable<Uint8Array> | AsyncIterable<Uint8Array>;

/** Whether both files are what was written once. Reads them whole: a damaged weight would be a wrong answer. */
export async function isWholeEntry(entry: string): Promise<boolean> {
  try {
    const states = JSON.parse(await readFile(join(entry, STATES_FILE), "utf8")) as Record<string, FileState>;
    for (const name of [NOTE_FILE, DATA_FILE]) {
      const path = join(entry, name);
      if ((await stat(path)).size !== states[name]?.bytes) return false;
      if ((await fileCrc32(path)) !== states[name].crc32) return false;
    }
    return true;
  } catch {
    return false;
  }
}

/** What unfinished entries' names begin with. */
export const BUILDING = ".building-";

/**
 * Makes an entry of `folder` under a name of its own, and gives it its place when it is whole.
 * @throws {ReadMeError} `ERR_WRITE_FAILED`
 */
export async function buildEntry(folder: string, entry: string, note: Uint8Array, data: Chunks): Promise<void> {
  await makeFolder(folder);
  const temporary = join(folder, `${BUILDING}${randomUUID()}`);
  try {
    await writeEntry(temporary, note, data);
    await installEntry(temporary, entry);
  } finally {
    // Failing here must not hide what went wrong, nor waste what went well.
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
  }
}

/** Makes the folder `entry`. */
async function writeEntry(entry: string, note: Uint8Array, data: Chunks): Promise<void> {
  await mkdir(entry);
  const states = {
    [DATA_FILE]: await writeSummed(join(entry, DATA_FILE), data),
    [NOTE_FILE]: await writeSummed(join(entry, NOTE_FILE), [note]),
  };
  await writeFileAtomically(join(entry, STATES_FILE), JSON.stringify(states));
}

/**
 * Gives a finished entry its place. Another process may have built the same one meanwhile; whoever comes second uses
 * the first one's, so `finished` may be left.
 */
async function installEntry(finished: string, entry: string): Promise<void> {
  for (let count = 1; ; count++) {
    try {
      // The first time it is most likely that the same entry is there.
      await (count === 1 ? rename : renamePatiently)(finished, entry);
      return;
    } catch (error) {
      if (await isWholeEntry(entry)) return;
      // Others may move the damaged entry away and put theirs in its place between any two of these lines.
      if (count === MAX_INSTALLS) throw error;
      await removeWhole(entry, `${finished}-damaged-${count}`);
    }
  }
}

/** Under another name first: removing takes time, in which another process could see half an entry. */
async function removeWhole(entry: string, aside: string): Promise<void> {
  await rename(entry, aside).catch(() => undefined); // the caller's next try says what is wrong
  await rm(aside, { recursive: true, force: true }).catch(() => undefined);
}

async function writeSummed(path: string, chunks: Chunks): Promise<FileState> {
  let bytes = 0;
  let sum = 0;
  async function* summed(): AsyncGenerator<Uint8Array> {
    for await (const chunk of chunks) {
      bytes += chunk.byteLength;
      sum = crc32(chunk, sum);
      yield chunk;
    }
  }
  await writeFileAtomically(path, summed());
  return { bytes, crc32: sum };
}
