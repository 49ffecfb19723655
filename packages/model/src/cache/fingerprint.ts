// Fingerprints of a model's files. Hashing gigabytes at every start would cost seconds, so a file's hash is remembered
// under its path, size, time and inode, and computed again when any of them changes.

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, readFile, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { pipeline } from "node:stream/promises";
import { Worker } from "node:worker_threads";
import { corrupt } from "../files/errors.ts";
import { TEMPORARY_PREFIX, writeFileAtomically } from "../files/write-file.ts";
import { removeAbandoned } from "./cache-folder.ts";

/** Hashing a larger file takes longer than starting a thread for it. */
const THREAD_FROM_BYTES = 64 * 2 ** 20;

// A text, so that no compiler or bundler changes it.
const HASH_IN_THREAD = `
const { closeSync, openSync, readSync } = require("node:fs");
const { parentPort, workerData } = require("node:worker_threads");
const sum = require("node:crypto").createHash("sha256");
const block = Buffer.allocUnsafe(1 << 20);
const file = openSync(workerData, "r");
for (let read; (read = readSync(file, block)) > 0;) sum.update(block.subarray(0, read));
closeSync(file);
parentPort.postMessage(sum.digest("hex"));
`;

/** Hashes in progress, so that those who open a model in parts wait for the same one. */
const hashing = new Map<string, Promise<string>>();

/** Computes the SHA-256, in hex, of the contents of some files. `cacheFolder` keeps each file's own hash. */
export type Fingerprint = (cacheFolder: string) => Promise<string>;

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
  return async (cacheFolder) => {
    const hash = createHash("sha256");
    for (const { path, opened } of files) hash.update(await rememberedHash(path, opened, cacheFolder));
    return hash.digest("hex");
  };
}

/** Returns a text that changes when a file is replaced or written, and when it is copied. */
export async function fileIdentity(path: string): Promise<string> {
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

async function rememberedHash(path: string, state: string, cacheFolder: string): Promise<string> {
  await checkUnchanged(path, state);
  const memo = memoOf(cacheFolder, path);
  const known = await readFile(memo, "utf8").catch(() => "");
  const [knownState, knownHash] = known.split("\n");
  if (knownState === state && knownHash && /^[0-9a-f]{64}$/.test(knownHash)) return knownHash;

  const name = `${memo} ${state}`;
  const begun = hashing.get(name) ?? hashAndRemember(path, state, memo).finally(() => hashing.delete(name));
  hashing.set(name, begun);
  return begun;
}

async function hashAndRemember(path: string, state: string, memo: string): Promise<string> {
  const hash = await ((await stat(path)).size < THREAD_FROM_BYTES ? hashOf(path) : hashInThread(path));
  await checkUnchanged(path, state);
  const folder = dirname(memo);
  // Only a convenience: when the cache cannot be written, the file is hashed again next time.
  await removeAbandoned(folder, TEMPORARY_PREFIX);
  await mkdir(folder, { recursive: true })
    .then(() => writeFileAtomically(memo, `${state}\n${hash}\n`))
    .catch(() => undefined);
  return hash;
}

async function hashOf(path: string): Promise<string> {
  const sum = createHash("sha256");
  await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), sum);
  return sum.digest("hex");
}

/** Hashes a file while the caller's thread goes on. */
function hashInThread(path: string): Promise<string> {
  return new Promise((done, failed) => {
    const thread = new Worker(HASH_IN_THREAD, { eval: true, execArgv: [], workerData: path });
    thread.once("message", done);
    thread.once("error", failed);
    thread.once("exit", () => failed(new Error(`${path}: the thread that hashes it has ended`)));
  });
}
