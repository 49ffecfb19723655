// What a model's files hold, as one short name. Hashing gigabytes at every start would cost seconds, so a file's
// hash is remembered under its path, size, time and inode, and taken again when any of them changes.

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, readFile, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { crc32 } from "node:zlib";
import { ReadMeError } from "@readme-moe/core";
import { TEMPORARY_PREFIX, writeFileAtomically } from "../files/write-file.ts";
import { removeAbandoned } from "./cache-folder.ts";

/** Gives the hex SHA-256 over the contents of some files. `cacheFolder` keeps each file's own hash. */
export type Fingerprint = (cacheFolder: string) => Promise<string>;

/**
 * The fingerprint of files that were just opened, in their order. It is refused when one of them has been replaced or
 * changed since: what is read from the files that are open would be kept under the name of others.
 *
 * @throws {ReadMeError} when called: `ERR_FILE_CORRUPT`, naming the file
 */
export async function fingerprintOf(paths: readonly string[]): Promise<Fingerprint> {
  const files = await Promise.all(paths.map(async (path) => ({ path: resolve(path), opened: await stateOf(path) })));
  return async (cacheFolder) => {
    const hash = createHash("sha256");
    for (const { path, opened } of files) hash.update(await rememberedHash(path, opened, cacheFolder));
    return hash.digest("hex");
  };
}

async function stateOf(path: string): Promise<string> {
  const { size, mtimeNs, ino, dev } = await stat(path, { bigint: true });
  return `${size} ${mtimeNs} ${dev} ${ino}`;
}

async function checkUnchanged(path: string, opened: string): Promise<void> {
  if ((await stateOf(path)) === opened) return;
  throw new ReadMeError("ERR_FILE_CORRUPT", `${path}: has changed since it was opened; open the model again`);
}

async function rememberedHash(path: string, state: string, cacheFolder: string): Promise<string> {
  await checkUnchanged(path, state);
  const folder = join(cacheFolder, "fingerprints");
  const memo = join(folder, createHash("sha256").update(path).digest("hex").slice(0, 32));
  const known = await readFile(memo, "utf8").catch(() => "");
  const [knownState, knownHash] = known.split("\n");
  if (knownState === state && knownHash && /^[0-9a-f]{64}$/.test(knownHash)) return knownHash;

  const hash = await fileSha256(path);
  await checkUnchanged(path, state);
  // Only a convenience: where the cache cannot be written, the file is hashed again next time.
  await removeAbandoned(folder, TEMPORARY_PREFIX);
  await mkdir(folder, { recursive: true })
    .then(() => writeFileAtomically(memo, `${state}\n${hash}\n`))
    .catch(() => undefined);
  return hash;
}

const CHUNK_BYTES = 1 << 20;

/** CRC-32 of a file: fast enough to be taken at every open, and it finds any damage that is not intended. */
export async function fileCrc32(path: string): Promise<number> {
  let sum = 0;
  for await (const chunk of createReadStream(path, { highWaterMark: CHUNK_BYTES })) sum = crc32(chunk as Buffer, sum);
  return sum;
}

export async function fileSha256(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: CHUNK_BYTES })) hash.update(chunk as Buffer);
  return hash.digest("hex");
}
