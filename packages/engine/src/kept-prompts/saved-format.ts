// A saved prompt: the keys and values of its positions in one file.
//
//   "READMEKV", length of the head (uint32), head (JSON), pages, SHA-256 of all bytes before it
//
// The file has no tokens: its key is a hash of everything that the keys and values depend on, tokens included.

import { createHash } from "node:crypto";

/** Contents of a file, besides the pages themselves. */
export interface SavedHead {
  /** Hash, in hex, of everything that the pages depend on. */
  readonly key: string;
  readonly numPages: number;
  readonly pageBytes: number;
}

const MAGIC = Buffer.from("READMEKV");
const VERSION = 1;
const MAX_HEAD_BYTES = 4096;
const PREFIX_BYTES = MAGIC.length + 4;
/** Length of the checksum. */
export const CHECKSUM_BYTES = 32;
/** Enough bytes of a file to read its head. */
export const HEAD_BYTES: number = PREFIX_BYTES + MAX_HEAD_BYTES;

/** Writes the beginning of a file. */
export function encodeHead(head: SavedHead): Buffer {
  const json = Buffer.from(JSON.stringify({ version: VERSION, ...head }));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(json.length);
  return Buffer.concat([MAGIC, length, json]);
}

/** Size of a whole file. */
export function fileBytes(head: SavedHead): number {
  return encodeHead(head).length + head.numPages * head.pageBytes + CHECKSUM_BYTES;
}

/**
 * Checks the beginning of a file, and its size.
 *
 * @returns why it is not the file of `head`; `undefined` when it is
 */
export function headFault(start: Uint8Array, sizeBytes: number, head: SavedHead): string | undefined {
  const bytes = Buffer.from(start.buffer, start.byteOffset, start.byteLength);
  if (bytes.length < PREFIX_BYTES || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) return "is no saved prompt";
  const expected = encodeHead(head);
  if (!bytes.subarray(0, expected.length).equals(expected)) {
    return "belongs to another version, model or prompt, or is damaged";
  }
  const wanted = fileBytes(head);
  return sizeBytes === wanted ? undefined : `has ${sizeBytes} bytes instead of ${wanted}`;
}

/** Everything that the keys and values of a prompt's positions depend on. */
export interface PromptIdentity {
  /** Weights, precision, number type of keys and values, and the kernel's build and version. */
  readonly model: readonly string[];
  /** Identity of each expert of the prompt, by its number. */
  readonly experts: ReadonlyMap<number, string>;
  readonly tokenIds: readonly number[];
  /** Number of the expert of each token. */
  readonly routes: readonly number[];
}

/** Hashes a prompt's identity, in hex. The numbers of experts do not matter, only what they are. */
export function keyOf({ model, experts, tokenIds, routes }: PromptIdentity): string {
  const places = new Map(Array.from(new Set(routes), (expert, place) => [expert, place]));
  const names = Array.from(places.keys(), (expert) => experts.get(expert) ?? "");
  const hash = createHash("sha256").update(JSON.stringify([VERSION, model, names, tokenIds.length]));
  hash.update(Buffer.from(Int32Array.from(tokenIds).buffer));
  hash.update(Buffer.from(Int32Array.from(routes, (expert) => places.get(expert) ?? 0).buffer));
  return hash.digest("hex");
}
