// Prompts whose keys and values stay in memory, and are saved for the next start where there is a folder for them.
// Several processes may use the folder at once: files appear and disappear as a whole.
//
// A saved prompt is one file with the keys and values of its positions:
//
//   "READMEKV", length of the head (uint32), head (JSON), pages, SHA-256 of all bytes before it
//
// The file has no tokens: its key is a hash of everything that the keys and values depend on, tokens included.

import { createHash } from "node:crypto";
import { mkdir, open, readdir, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { ReadMeError } from "@readme-moe/core";
import { type KernelKv, kernelVersion, KV_PAGE_TOKENS, type KvSlot } from "@readme-moe/kernel";
import { writeFileAtomically } from "@readme-moe/model";
import type { KernelRunner } from "./kernel-runner.ts";
import type { KeepTokens, PrefixCache, RoutedTokens } from "./prefix-cache.ts";
import type { WireKept } from "./protocol.ts";

interface KeepingParts {
  readonly runner: Pick<KernelRunner, "info" | "weightsVersion" | "kvPrecision" | "loras">;
  readonly kv: KernelKv;
  readonly prefixes: PrefixCache;
  /** @default prompts are not saved */
  readonly saved?: SavedPrompts | undefined;
}

interface Kept {
  readonly prompt: RoutedTokens;
  readonly numTokens: number;
  /** `undefined` until the prompt is computed. */
  pin: number | undefined;
}

export class KeptPrompts {
  readonly #parts: KeepingParts;
  readonly #kept = new Map<number, Kept>();

  constructor(parts: KeepingParts) {
    this.#parts = parts;
  }

  /**
   * Keeps a prompt whose keys and values are in memory or saved. If it is neither, `computed` and `save` have to
   * follow.
   *
   * @param keptId - a new one, for the other methods
   * @throws {RangeError} when there is no room for it
   */
  async keep(keptId: number, prompt: RoutedTokens): Promise<WireKept> {
    const { prefixes, kv } = this.#parts;
    const numTokens = Math.floor(prompt.tokenIds.length / KV_PAGE_TOKENS) * KV_PAGE_TOKENS;
    const kept: Kept = { prompt, numTokens, pin: undefined };
    const answer = { tokenIds: Int32Array.from(prompt.tokenIds), keptTokens: numTokens };
    if (numTokens === 0) return { ...answer, source: "memory" };
    const bytes = numTokens * kv.bytesPerToken;
    const isPinned = prefixes.isPinned(prompt, numTokens);
    if (!isPinned && bytes > prefixes.pinnableBytes) throw noRoom(bytes, prefixes.pinnableBytes);
    const { pages, refusal } = isPinned ? { pages: neverKept } : await this.#read(kept);
    if (pages !== undefined) {
      kept.pin = prefixes.pin(prompt, numTokens, pages);
      if (kept.pin === undefined) throw noRoom(bytes, prefixes.pinnableBytes);
    }
    this.#kept.set(keptId, kept);
    const source = isPinned ? "memory" : pages ? "saved" : "none";
    return { ...answer, source, refusal };
  }

  /** Keeps what a sequence has computed of its prompt. */
  computed(keptId: number, { tokenIds, experts }: RoutedTokens, slot: KvSlot): void {
    const kept = this.#kept.get(keptId);
    if (!kept || kept.pin !== undefined) return;
    const { prefixes, kv } = this.#parts;
    const prompt = { tokenIds: tokenIds.slice(0, kept.numTokens), experts: experts.slice(0, kept.numTokens) };
    const pin = prefixes.pin(prompt, kept.numTokens, (from, to) => kv.keep(slot, from, to));
    this.#kept.set(keptId, { ...kept, prompt, pin });
  }

  /**
   * Saves a prompt that was computed.
   *
   * @returns why it could not be saved, if it could not
   * @throws {RangeError} when there was no room for it in memory
   */
  async save(keptId: number): Promise<string | undefined> {
    const kept = this.#kept.get(keptId);
    const { prefixes, kv, saved } = this.#parts;
    if (kept?.pin === undefined) {
      this.#kept.delete(keptId);
      throw noRoom((kept?.numTokens ?? 0) * kv.bytesPerToken, prefixes.pinnableBytes);
    }
    if (saved === undefined) return undefined;
    try {
      const head = await this.#headOf(kept);
      if (head === undefined) return "an expert of the prompt was removed";
      await saved.write(head, this.#pages(kept.pin));
      return undefined;
    } catch (error) {
      if (error instanceof ReadMeError) return error.message;
      throw error;
    }
  }

  /** Releases a prompt, which may be evicted then. */
  release(keptId: number): void {
    const pin = this.#kept.get(keptId)?.pin;
    this.#kept.delete(keptId);
    if (pin !== undefined) this.#parts.prefixes.unpin(pin);
  }

  /** Copies the pages of a pin. Fails when the pin ends meanwhile: its pages may be another prompt's then. */
  *#pages(pin: number): Generator<Uint8Array> {
    const { prefixes, kv } = this.#parts;
    const numParts = prefixes.pinned(pin)?.length ?? 0;
    for (let part = 0; part < numParts; part++) {
      const kept = prefixes.pinned(pin)?.[part];
      if (kept === undefined) throw new Error("the prompt was released while it was saved");
      yield kv.readKept(kept);
    }
  }

  /** Reads a saved prompt. @returns what writes its pages into memory, or why its file was refused */
  async #read(kept: Kept): Promise<{ readonly pages?: KeepTokens; readonly refusal?: string | undefined }> {
    const { saved, kv } = this.#parts;
    const head = saved && (await this.#headOf(kept));
    if (!saved || !head) return {};
    const { bytes, refusal } = await saved.read(head);
    if (!bytes) return { refusal };
    const bytesTo = (position: number): number => (position / KV_PAGE_TOKENS) * kv.pageBytes;
    return { pages: (from, to) => kv.writeKept(from, bytes.subarray(bytesTo(from), bytesTo(to))) };
  }

  /** Describes the file of a prompt; `undefined` when one of its experts is not known any more. */
  async #headOf({ prompt, numTokens }: Kept): Promise<SavedHead | undefined> {
    const { runner, kv } = this.#parts;
    const routes = prompt.experts.slice(0, numTokens);
    const experts = new Map<number, string>();
    for (const expert of new Set(routes)) {
      const identity = runner.loras ? await runner.loras.identityOf(expert) : `expert ${expert}`;
      if (identity === undefined) return undefined;
      experts.set(expert, identity);
    }
    // WebAssembly does not fuse the products of float32.
    const model = [runner.weightsVersion, runner.kvPrecision, runner.info.kind, kernelVersion()];
    const key = keyOf({ model, experts, tokenIds: prompt.tokenIds.slice(0, numTokens), routes });
    return { key, numPages: numTokens / KV_PAGE_TOKENS, pageBytes: kv.pageBytes };
  }
}

function noRoom(bytes: number, roomBytes: number): RangeError {
  return new RangeError(
    `Expected \`prefixCacheBytes\` to have room for the prompt, ${bytes} bytes, got room for ${roomBytes}`,
  );
}

function neverKept(from: number, to: number): never {
  throw new Error(`Expected positions ${from} to ${to} to be pinned`);
}

// Hashing a piece takes some milliseconds, and steps run between pieces.
const PIECE_BYTES = 4 << 20;
const NAME = /^[0-9a-f]{64}\.kv$/;

export class SavedPrompts {
  readonly #folder: string;
  readonly #maxBytes: number;

  constructor(folder: string, maxBytes: number) {
    this.#folder = folder;
    this.#maxBytes = maxBytes;
  }

  /** Reads the pages of a prompt. Files that are damaged, foreign or unreadable are refused. */
  async read(head: SavedHead): Promise<{ readonly bytes?: Uint8Array; readonly refusal?: string }> {
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
        await utimes(path, new Date(), new Date()).catch(() => undefined);
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
   * @throws {ReadMeError} `ERR_WRITE_FAILED`, also when `pages` throws
   */
  async write(head: SavedHead, pages: Iterable<Uint8Array>): Promise<void> {
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
    await writeFileAtomically(path, withChecksum(encodeHead(head), pages));
    await this.#prune(path);
  }

  #pathOf({ key }: SavedHead): string {
    return join(this.#folder, `${key}.kv`);
  }

  /** Removes the files that were not used for longest until the others fit. @param newest - stays */
  async #prune(newest: string): Promise<void> {
    const names = (await readdir(this.#folder).catch(() => [])).filter((name) => NAME.test(name));
    const files = await Promise.all(
      names.map(async (name) => {
        const path = join(this.#folder, name);
        // Another process may have removed it.
        const state = await stat(path).catch(() => undefined);
        return { path, bytes: state?.size ?? 0, usedMs: path === newest ? Infinity : (state?.mtimeMs ?? 0) };
      }),
    );
    for (const path of surplus(files, this.#maxBytes)) await rm(path, { force: true }).catch(() => undefined);
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

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

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
