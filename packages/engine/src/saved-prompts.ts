// Files with the keys and values of prompts, or of parts of them. Several processes may use a folder at once: files
// appear and disappear as a whole.
//
// A file has the keys and values of some positions:
//
//   "READMEKV", length of the head (uint32), head (JSON), pages, state, SHA-256 of all bytes before it
//
// The file has no tokens: its key is a hash of everything that the keys and values depend on, tokens included.

import { createHash } from "node:crypto";
import { mkdir, open, readdir, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { messageOf, ReadMeError } from "@readme-moe/core";
import { kernelVersion } from "@readme-moe/kernel";
import { freeBytes, removeAbandoned, TEMPORARY_PREFIX, writeFileAtomically } from "@readme-moe/model";
import type { RoutedTokens } from "./prefix-tails.ts";

// Hashing a piece takes some milliseconds, and steps run between pieces.
const PIECE_BYTES = 4 << 20;
const NAME = /^[0-9a-f]{64}\.kv$/;
/** Prompts are private. */
const FILE_MODE = 0o600;

interface SavedLimits {
  /** Share of the free disk, these files included, that they may take. @default 1, which is not looked at */
  readonly diskShare?: number;
  /** Bytes that are written between two clean-ups, each of which makes room for them. @default 0 */
  readonly slackBytes?: number;
}

/**
 * A folder of saved prompts, or of parts of them. A part has a place, its number in the prompt: it counts as used a
 * second earlier than the part before it, so that it is removed first.
 */
export class SavedPrompts {
  readonly #folder: string;
  readonly #maxBytes: number;
  readonly #limits: Required<SavedLimits>;
  /** Bytes that were written since the last clean-up; there was none at first. */
  #newBytes = Infinity;

  constructor(folder: string, maxBytes: number, { diskShare = 1, slackBytes = 0 }: SavedLimits = {}) {
    this.#folder = folder;
    this.#maxBytes = maxBytes;
    this.#limits = { diskShare, slackBytes };
  }

  /** Marks a file as used now. @returns whether it is there */
  async touch(head: SavedHead, place = 0): Promise<boolean> {
    const usedAt = new Date(Date.now() - 1000 * place);
    return utimes(this.#pathOf(head), usedAt, usedAt).then(
      () => true,
      () => false,
    );
  }

  /** Lists the keys of the files that are there. */
  async keys(): Promise<readonly string[]> {
    const names = await readdir(this.#folder).catch(() => []);
    return names.filter((name) => NAME.test(name)).map((name) => name.slice(0, -".kv".length));
  }

  async remove(head: SavedHead): Promise<void> {
    await rm(this.#pathOf(head), { force: true }).catch(() => undefined);
  }

  /** Reads the pages of a prompt. Files that are damaged, foreign or unreadable are refused. */
  async read(head: SavedHead, place?: number): Promise<{ readonly bytes?: Uint8Array; readonly refusal?: string }> {
    const path = this.#pathOf(head);
    try {
      const file = await open(path);
      try {
        const { size } = await file.stat();
        const start = Buffer.alloc(Math.min(HEAD_BYTES, size));
        await file.read(start, 0, start.length, 0);
        const fault = headFault(start, size, head);
        if (fault !== undefined) return { refusal: `${path}: ${fault}` };
        const content = Buffer.allocUnsafeSlow(size);
        const hash = createHash("sha256");
        const end = size - CHECKSUM_BYTES;
        for (let done = 0; done < size;) {
          const { bytesRead } = await file.read(content, done, Math.min(PIECE_BYTES, size - done), done);
          if (bytesRead === 0) return { refusal: `${path}: ends too early` };
          if (done < end) hash.update(content.subarray(done, Math.min(end, done + bytesRead)));
          done += bytesRead;
        }
        if (!hash.digest().equals(content.subarray(end))) return { refusal: `${path}: its checksum is wrong` };
        // The files that were used last stay longest.
        await this.touch(head, place);
        return { bytes: content.subarray(encodeHead(head).length, end) };
      } finally {
        await file.close();
      }
    } catch (error) {
      if (error instanceof Error && "code" in error && error.code === "ENOENT") return {};
      return { refusal: `${path}: cannot be read: ${messageOf(error)}` };
    }
  }

  /**
   * Writes the pages of a prompt, whole or not at all, and removes the oldest files when there are too many.
   *
   * @param pages - pieces of the pages in order; steps run between two of them
   * @param place - of a part
   * @throws {ReadMeError} `ERR_WRITE_FAILED`, also when `pages` throws
   */
  async write(head: SavedHead, pages: Iterable<Uint8Array>, place?: number): Promise<void> {
    const bytes = fileBytes(head);
    const path = this.#pathOf(head);
    if (bytes > this.#maxBytes) {
      const message = `${path}: takes ${bytes} bytes, and \`savedPromptsBytes\` is ${this.#maxBytes}`;
      throw new ReadMeError("ERR_WRITE_FAILED", message);
    }
    try {
      await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    } catch (cause) {
      throw new ReadMeError("ERR_WRITE_FAILED", `${this.#folder}: cannot be made: ${messageOf(cause)}`, { cause });
    }
    await writeFileAtomically(path, withChecksum(encodeHead(head), pages), FILE_MODE);
    if (place !== undefined) await this.touch(head, place);
    this.#newBytes += bytes;
    if (this.#newBytes <= this.#limits.slackBytes) return;
    this.#newBytes = 0;
    await this.#prune(path);
  }

  #pathOf({ key }: Pick<SavedHead, "key">): string {
    return join(this.#folder, `${key}.kv`);
  }

  /** Removes the files that were not used for longest until the others fit. @param newest - stays */
  async #prune(newest: string): Promise<void> {
    await removeAbandoned(this.#folder, TEMPORARY_PREFIX);
    const files = await Promise.all(
      (await this.keys()).map(async (key) => {
        const path = this.#pathOf({ key });
        // Another process may have removed it.
        const state = await stat(path).catch(() => undefined);
        return { path, bytes: state?.size ?? 0, usedMs: path === newest ? Infinity : (state?.mtimeMs ?? 0) };
      }),
    );
    const { diskShare, slackBytes } = this.#limits;
    const free = diskShare < 1 ? await freeBytes(this.#folder) : undefined;
    const ownBytes = files.reduce((sum, { bytes }) => sum + bytes, 0);
    const mostBytes = Math.min(this.#maxBytes, free === undefined ? Infinity : diskShare * (free + ownBytes));
    for (const path of surplus(files, mostBytes - slackBytes)) await rm(path, { force: true }).catch(() => undefined);
  }
}

/** A file of the folder. */
export interface UsedFile {
  readonly path: string;
  readonly bytes: number;
  /** Time of the last use, in ms. */
  readonly usedMs: number;
}

/** Selects the files to remove, so that the ones that were used last fit into `maxBytes`. */
export function surplus(files: readonly UsedFile[], maxBytes: number): readonly string[] {
  const byUse = files.toSorted((a, b) => b.usedMs - a.usedMs || (a.path < b.path ? -1 : 1));
  let total = 0;
  return byUse.filter(({ bytes }) => (total += bytes) > maxBytes).map(({ path }) => path);
}

async function* withChecksum(head: Uint8Array, pages: Iterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const hash = createHash("sha256").update(head);
  yield head;
  for (const piece of pages) {
    hash.update(piece);
    yield piece;
    await nextTurn();
  }
  yield hash.digest();
}

/** Contents of a file, besides the pages themselves. */
export interface SavedHead {
  /** Hash, in hex, of everything that the pages depend on. */
  readonly key: string;
  readonly numPages: number;
  readonly pageBytes: number;
  /** Size of the state behind the pages, of a model with recurrences. */
  readonly stateBytes?: number | undefined;
}

const MAGIC = Buffer.from("READMEKV");
const VERSION = 1;
const MAX_HEAD_BYTES = 4096;
const PREFIX_BYTES = MAGIC.length + 4;
/** Length of the checksum. */
const CHECKSUM_BYTES = 32;
/** Enough bytes of a file to read its head. */
const HEAD_BYTES: number = PREFIX_BYTES + MAX_HEAD_BYTES;

/** Writes the beginning of a file. */
export function encodeHead(head: SavedHead): Buffer {
  const json = Buffer.from(JSON.stringify({ version: VERSION, ...head }));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(json.length);
  return Buffer.concat([MAGIC, length, json]);
}

/** Size of a whole file. */
export function fileBytes(head: SavedHead): number {
  const { numPages, pageBytes, stateBytes = 0 } = head;
  return encodeHead(head).length + numPages * pageBytes + stateBytes + CHECKSUM_BYTES;
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

/** The parts of a model that a prompt's keys and values depend on. */
export interface KeptModel {
  readonly weightsVersion: string;
  readonly kvPrecision: string;
  readonly info: { readonly kind: string };
  readonly loras: { identityOf(index: number): Promise<string | undefined> } | undefined;
}

/**
 * Describes what the keys and values of a prompt's first tokens depend on; `undefined` when one of their experts is not
 * known any more.
 */
export async function identityOf(
  runner: KeptModel,
  prompt: RoutedTokens,
  numTokens: number,
): Promise<PromptIdentity | undefined> {
  const routes = prompt.experts.slice(0, numTokens);
  const experts = new Map<number, string>();
  for (const expert of new Set(routes)) {
    const identity = runner.loras ? await runner.loras.identityOf(expert) : `expert ${expert}`;
    if (identity === undefined) return undefined;
    experts.set(expert, identity);
  }
  // WebAssembly does not fuse the products of float32.
  const model = [runner.weightsVersion, runner.kvPrecision, runner.info.kind, kernelVersion()];
  return { model, experts, tokenIds: prompt.tokenIds.slice(0, numTokens), routes };
}
