// What a model's files hold, as one short name. Hashing gigabytes at every start would cost seconds, so a file's
// hash is remembered under its path, size, time and inode, and taken again when any of them changes.

import { createHash } from "node:crypto";
import { mkdir, readFile, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { writeFileAtomically } from "../files/atomic-write.ts";
import { fileSha256 } from "./checksum.ts";

/** Hex SHA-256 over the contents of `paths`, in their order. `cacheFolder` keeps each file's own hash. */
export async function fingerprint(paths: readonly string[], cacheFolder: string): Promise<string> {
  const hash = createHash("sha256");
  for (const path of paths) hash.update(await rememberedHash(resolve(path), cacheFolder));
  return hash.digest("hex");
}

async function rememberedHash(path: string, cacheFolder: string): Promise<string> {
  const { size, mtimeNs, ino, dev } = await stat(path, { bigint: true });
  const state = `${size} ${mtimeNs} ${dev} ${ino}`;
  const folder = join(cacheFolder, "fingerprints");
  const memo = join(folder, createHash("sha256").update(path).digest("hex").slice(0, 32));
  const known = await readFile(memo, "utf8").catch(() => "");
  const [knownState, knownHash] = known.split("\n");
  if (knownState === state && knownHash && /^[0-9a-f]{64}$/.test(knownHash)) return knownHash;

  const hash = await fileSha256(path);
  // Only a convenience: where the cache cannot be written, the file is hashed again next time.
  await mkdir(folder, { recursive: true })
    .then(() => writeFileAtomically(memo, `${state}\n${hash}\n`))
    .catch(() => undefined);
  return hash;
}
