import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { crc32 } from "node:zlib";

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
