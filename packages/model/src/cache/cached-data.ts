// Files that are made once from a model and read piece by piece while it runs. Each is an entry of the cache folder: a
// folder with the data, a note on the data, and the length and checksum of both. Large data is read whole once; as long
// as the file is the same one, some blocks of it are compared afterwards.

import { isRecord } from "@readme-moe/core";
import { createHash, randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, readFile, rename, rm, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { pipeline } from "node:stream/promises";
import { Worker } from "node:worker_threads";
import { crc32 } from "node:zlib";
import { corrupt } from "../files/errors.ts";
import type { JsonObject } from "../files/read-file.ts";
import { makeFolder, renamePatiently, TEMPORARY_PREFIX, writeFileAtomically } from "../files/write-file.ts";
import { removeAbandoned } from "./cache-folder.ts";
import { noteEntry } from "./model-index.ts";

const NOTE_FILE = "note.txt";
const DATA_FILE = "weights.bin";
const STATES_FILE = "entry.json";
const CHUNK_BYTES = 1 << 20;
/** Blocks of a large file that are compared at every opening, from the first to the last at even distances. */
const [SAMPLES, SAMPLE_BYTES] = [16, 1 << 16];
/** Time after a write in which another one may leave the file's time as it is. */
const CLOCK_TICK_MS = 100;
const MAX_INSTALLS = 3;
/** Beginning of the names of unfinished entries. */
const BUILDING = ".building-";

interface CachedData {
  /** Name of the folder in the cache. */
  readonly kind: string;
  /** Text that depends on everything that the data is made from. */
  readonly key: string;
  /** Text that is stored beside the data, such as its layout. */
  readonly note: string;
  /** The model that the data is made from, so that it can be found with the model. @default not noted */
  readonly modelPath?: string | undefined;
  /** Makes the data. */
  readonly chunks: () => AsyncIterable<Uint8Array>;
}

type Chunks = Iterable<Uint8Array> | AsyncIterable<Uint8Array>;

/**
 * Returns the path of cached data, which is made when it is missing or incomplete.
 * @throws {ReadMeError} `ERR_WRITE_FAILED` when the cache cannot be written
 */
export async function cachedData(cacheFolder: string, data: CachedData): Promise<string> {
  const { kind, key, note, modelPath, chunks } = data;
  const folder = join(cacheFolder, kind);
  const name = createHash("sha256").update(`${key}\n${note}`).digest("hex").slice(0, 40);
  const entry = join(folder, name);
  await removeAbandoned(folder, BUILDING);
  if (!(await isWholeEntry(entry))) await buildEntry(entry, folder, note, chunks());
  if (modelPath !== undefined) await noteEntry(cacheFolder, modelPath, { kind, key: name });
  return join(entry, DATA_FILE);
}

/** Checks that data has its content of old. @param path - result of `cachedData` */
export function isWholeData(path: string): Promise<boolean> {
  return isWholeEntry(dirname(path));
}

/** Checks that both files have their content of old, since a damaged weight gives a wrong answer. */
async function isWholeEntry(entry: string): Promise<boolean> {
  try {
    const states: unknown = JSON.parse(await readFile(join(entry, STATES_FILE), "utf8"));
    const [note, data] = [stateOf(states, NOTE_FILE), stateOf(states, DATA_FILE)];
    if (!(await hasContent(join(entry, NOTE_FILE), note))) return false;
    const path = join(entry, DATA_FILE);
    if (data["identity"] === (await fileIdentity(path))) return data["samplesCrc32"] === (await samplesCrc32(path));
    const known = await knownFile(path);
    if (!(await hasContent(path, data))) return false;
    // Only a convenience: in a folder that cannot be written, the file is read whole again next time.
    const noted = { [NOTE_FILE]: note, [DATA_FILE]: { ...data, ...known } };
    if (known) await writeFileAtomically(join(entry, STATES_FILE), JSON.stringify(noted)).catch(() => undefined);
    return true;
  } catch {
    return false;
  }
}

async function hasContent(path: string, { bytes, crc32: sum }: JsonObject): Promise<boolean> {
  return (await stat(path)).size === bytes && (await fileCrc32(path)) === sum;
}

/** Describes a large file, before it is read whole; `undefined` for others, and for one that was written just now. */
async function knownFile(
  path: string,
): Promise<{ readonly identity: string; readonly samplesCrc32: number } | undefined> {
  const identity = await fileIdentity(path);
  const { size, mtimeMs } = await stat(path);
  if (size <= SAMPLES * SAMPLE_BYTES || Date.now() - mtimeMs < CLOCK_TICK_MS) return undefined;
  return { identity, samplesCrc32: await samplesCrc32(path) };
}

async function samplesCrc32(path: string): Promise<number> {
  const handle = await open(path);
  try {
    const { size } = await handle.stat();
    const block = new Uint8Array(SAMPLE_BYTES);
    let sum = 0;
    for (let index = 0; index < SAMPLES; index++) {
      const from = Math.floor(((size - SAMPLE_BYTES) * index) / (SAMPLES - 1));
      const { bytesRead } = await handle.read(block, 0, SAMPLE_BYTES, from);
      sum = crc32(block.subarray(0, bytesRead), sum);
    }
    return sum;
  } finally {
    await handle.close();
  }
}

function stateOf(states: unknown, name: string): JsonObject {
  const state = isRecord(states) ? states[name] : undefined;
  return isRecord(state) ? state : {};
}

/** Computes the CRC-32 of a file, which finds all unintended damage. */
async function fileCrc32(path: string): Promise<number> {
  let sum = 0;
  for await (const chunk of createReadStream(path, { highWaterMark: CHUNK_BYTES })) sum = crc32(chunk as Buffer, sum);
  return sum;
}

/** Makes an entry under a temporary name, and moves it to its place when it is complete. @throws {ReadMeError} */
async function buildEntry(entry: string, folder: string, note: string, data: Chunks): Promise<void> {
  await makeFolder(folder);
  const temporary = join(folder, `${BUILDING}${randomUUID()}`);
  try {
    await mkdir(temporary);
    const path = join(temporary, DATA_FILE);
    const states = {
      [DATA_FILE]: { ...(await writeSummed(path, data)), ...(await knownFile(path)) },
      [NOTE_FILE]: await writeSummed(join(temporary, NOTE_FILE), [new TextEncoder().encode(note)]),
    };
    await writeFileAtomically(join(temporary, STATES_FILE), JSON.stringify(states));
    await installEntry(temporary, entry);
  } finally {
    // A failing clean-up must neither hide an error nor waste a finished entry.
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
  }
}

/**
 * Moves a finished entry to its place. When another process has built the same entry meanwhile, that one is used and
 * `finished` stays where it is.
 */
async function installEntry(finished: string, entry: string): Promise<void> {
  for (let count = 1; ; count++) {
    try {
      // At the first attempt, the likeliest obstacle is the same entry.
      await (count === 1 ? rename : renamePatiently)(finished, entry);
      return;
    } catch (error) {
      if (await isWholeEntry(entry)) return;
      // Another process may move the damaged entry away and install its own between any two of these lines.
      if (count === MAX_INSTALLS) throw error;
      await removeEntry(entry, `${finished}-damaged-${count}`);
    }
  }
}

/** Renames an entry before it is removed, so that no other process sees half an entry. */
async function removeEntry(entry: string, aside: string): Promise<void> {
  await rename(entry, aside).catch(() => undefined); // the caller's next attempt shows the error
  await rm(aside, { recursive: true, force: true }).catch(() => undefined);
}

async function writeSummed(path: string, chunks: Chunks): Promise<{ readonly bytes: number; readonly crc32: number }> {
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

// Fingerprints of a model's files. Hashing gigabytes at every start would cost seconds, so a file's hash is remembered
// under its path, size, time and inode, and computed again when any of them changes.

/** Hashing a larger file takes longer than starting a thread for it. */
const THREAD_FROM_BYTES = 64 * 2 ** 20;

// A text, so that no compiler or bundler changes it.
const HASH_IN_THREAD = `
const { closeSync, openSync, readSync } = require("node:fs");
const { parentPort, workerData } = require("node:worker_threads");
const sum = require("node:crypto").createHash("sha256");
const block = Buffer.allocUnsafe(1 << 20);
const file = openSync(workerData, "r");
for (let read, done = 0; (read = readSync(file, block)) > 0;) {
  sum.update(block.subarray(0, read));
  if (Math.floor(done / 2 ** 25) < Math.floor((done += read) / 2 ** 25)) parentPort.postMessage(done);
}
closeSync(file);
parentPort.postMessage(sum.digest("hex"));
`;

/** Hashes in progress, so that those who open a model in parts wait for the same one. */
const hashing = new Map<string, Promise<string>>();

/** Called while a large file is hashed, with the bytes that are done and those of the file. */
export type OnHashed = (doneBytes: number, ofBytes: number) => void;

/**
 * Computes the SHA-256, in hex, of the contents of some files. `cacheFolder` keeps each file's own hash; of several
 * calls at the same time, the first one's `onHashed` is called.
 */
type Fingerprint = (cacheFolder: string, onHashed?: OnHashed) => Promise<string>;

/**
 * Returns the fingerprint of files that were just opened, in their order. It fails when one of them has been replaced
 * or changed since: the content of the open files would be cached under the name of others.
 *
 * @throws {ReadMeError} when called: `ERR_FILE_CORRUPT`, naming the file
 */
export async function fingerprintOf(paths: readonly string[]): Promise<Fingerprint> {
  const files = await Promise.all(
    paths.map(async (path) => ({ path: resolve(path), opened: await fileIdentity(path) })),
  );
  return async (cacheFolder, onHashed = () => undefined) => {
    const hash = createHash("sha256");
    for (const { path, opened } of files) hash.update(await rememberedHash(path, opened, { cacheFolder, onHashed }));
    return hash.digest("hex");
  };
}

/** Returns a text that changes when a file is replaced or written, and when it is copied. */
async function fileIdentity(path: string): Promise<string> {
  const { size, mtimeNs, ino, dev } = await stat(path, { bigint: true });
  return `${size} ${mtimeNs} ${dev} ${ino}`;
}

async function checkUnchanged(path: string, opened: string): Promise<void> {
  if ((await fileIdentity(path)) === opened) return;
  throw corrupt(path, "has changed since it was opened; open the model again");
}

/** Returns the path of the file that remembers the hash of a model's file. */
export function memoOf(cacheFolder: string, path: string): string {
  return join(cacheFolder, "fingerprints", createHash("sha256").update(path).digest("hex").slice(0, 32));
}

interface HashingOptions {
  readonly cacheFolder: string;
  readonly onHashed: OnHashed;
}

async function rememberedHash(path: string, state: string, { cacheFolder, onHashed }: HashingOptions): Promise<string> {
  await checkUnchanged(path, state);
  const memo = memoOf(cacheFolder, path);
  const known = await readFile(memo, "utf8").catch(() => "");
  const [knownState, knownHash] = known.split("\n");
  if (knownState === state && knownHash && /^[0-9a-f]{64}$/.test(knownHash)) return knownHash;

  const name = `${memo} ${state}`;
  const begun = hashing.get(name) ?? hashAndRemember(path, state, memo, onHashed).finally(() => hashing.delete(name));
  hashing.set(name, begun);
  return begun;
}

async function hashAndRemember(path: string, state: string, memo: string, onHashed: OnHashed): Promise<string> {
  const { size } = await stat(path);
  const hash = await (size < THREAD_FROM_BYTES ? fileHash(path) : hashInThread(path, (done) => onHashed(done, size)));
  await checkUnchanged(path, state);
  const folder = dirname(memo);
  // Only a convenience: when the cache cannot be written, the file is hashed again next time.
  await removeAbandoned(folder, TEMPORARY_PREFIX);
  await mkdir(folder, { recursive: true })
    .then(() => writeFileAtomically(memo, `${state}\n${hash}\n`))
    .catch(() => undefined);
  return hash;
}

/** Computes the SHA-256, in hex, of a file's first bytes. @param end - number of bytes @default all */
export async function fileHash(path: string, end: number = Infinity): Promise<string> {
  const sum = createHash("sha256");
  await pipeline(createReadStream(path, { end: end - 1, highWaterMark: 1 << 20 }), sum);
  return sum.digest("hex");
}

/** Hashes a file while the caller's thread goes on. */
function hashInThread(path: string, onHashed: (doneBytes: number) => void): Promise<string> {
  return new Promise((done, failed) => {
    const thread = new Worker(HASH_IN_THREAD, { eval: true, execArgv: [], workerData: path });
    thread.on("message", (told: number | string) => (typeof told === "number" ? onHashed(told) : done(told)));
    thread.once("error", failed);
    thread.once("exit", () => failed(new Error(`${path}: the thread that hashes it has ended`)));
  });
}
