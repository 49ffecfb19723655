// Beginnings of prompts on disk, each chunk of the prefix cache in a file of its own, in the format of saved prompts.
// Chunks are written when they are evicted, when the engine has nothing to do, and when it closes. Later prompts read
// them instead of computing them, also in another process.

import { setTimeout as wait } from "node:timers/promises";
import { type CostModel, messageOf, predictStepMs } from "@readme-moe/core";
import { type KernelKv, KV_PAGE_TOKENS, type KvSlot } from "@readme-moe/kernel";
import {
  identityOf,
  type KeptModel,
  keyOf,
  type PromptIdentity,
  type SavedHead,
  type SavedPrompts,
} from "./saved-prompts.ts";
import { type CachedChunk, isUnsaved, type PrefixCache } from "./prefix-cache.ts";
import type { Sequence } from "./sequence.ts";

interface SavedPrefixesParts {
  readonly runner: KeptModel;
  readonly kv: KernelKv;
  readonly prefixes: PrefixCache;
  readonly files: SavedPrompts;
  /** Text that keeps the files apart from those of other servers. */
  readonly scope: string;
  /** Length of the shortest prompt that is worth files; others are computed within seconds. @default 256 */
  readonly leastPromptTokens?: number;
  /** Called when a chunk could not be written. */
  readonly onSaveFailed?: (reason: string) => void;
  /** Clock in ms. */
  readonly now: () => number;
}

/** A file that is being read, for a sequence and its slot. */
interface Reading {
  readonly sequence: Sequence;
  readonly slot: KvSlot;
  readonly index: number;
  readonly head: SavedHead;
  readonly file: ReturnType<SavedPrompts["read"]>;
  /** Time that steps have waited for it. */
  waitedMs: number;
}

/** Copies of evicted chunks that wait for the disk. What comes when there are more is not saved. */
const MOST_PENDING_BYTES = 64 << 20;
/** Time without writes after one has failed, such as on a full disk. */
const REST_MS = 60_000;
/** Longest time that the end of an engine waits for files. */
const CLOSING_MS = 5000;
/** Longest time that a sequence waits for a file. A disk that takes longer is read no more. */
const PATIENCE_MS = 2000;

/** The chunks of one engine on disk. */
export class SavedPrefixes {
  readonly #parts: SavedPrefixesParts;
  /** Sequences that read their chunks, one after the other, and the slots that they read into. */
  readonly #readers = new Map<Sequence, KvSlot>();
  #reading: Reading | undefined;
  readonly #writes = new Set<Promise<void>>();
  #pendingBytes = 0;
  #restsUntilMs = -Infinity;
  #bytesPerMs = FIRST_BYTES_PER_MS;
  #saving: Promise<void> = Promise.resolve();
  #readTokens = 0;
  #isClosed = false;

  constructor(parts: SavedPrefixesParts) {
    this.#parts = parts;
    parts.prefixes.onEvicted((chunk) => this.#saveEvicted(chunk));
  }

  /** Number of prompt tokens that were read. */
  get readTokens(): number {
    return this.#readTokens;
  }

  /** Number of sequences that read their chunks. */
  get numReading(): number {
    for (const [sequence, slot] of this.#readers) if (sequence.slot !== slot) this.#readers.delete(sequence);
    return this.#readers.size;
  }

  isReading(sequence: Sequence): boolean {
    return sequence.slot !== undefined && this.#readers.get(sequence) === sequence.slot;
  }

  /** Names the files of a routed prompt's chunks; none of a short prompt, nor of one that nothing goes on with. */
  async keysOf(sequence: Sequence): Promise<readonly string[]> {
    const { runner, prefixes, scope, leastPromptTokens = 256 } = this.#parts;
    const { promptTokens, cacheSalt, isPooled } = sequence;
    if (!prefixes.isOn || isPooled || promptTokens < leastPromptTokens) return [];
    const identity = await identityOf(runner, sequence, promptTokens);
    return identity ? chunkKeys(identity, [scope, cacheSalt], prefixes.chunkTokens) : [];
  }

  /** Begins to read what a sequence that was just admitted has on disk, where that is faster than computing it. */
  begin(sequence: Sequence, cost: CostModel): void {
    const { kv, prefixes } = this.#parts;
    const bytes = (prefixes.chunkTokens / KV_PAGE_TOKENS) * kv.pageBytes;
    if (!sequence.slot || !this.#nextOf(sequence)) return;
    if (isReadFaster({ tokens: prefixes.chunkTokens, bytes, bytesPerMs: this.#bytesPerMs }, cost)) {
      this.#readers.set(sequence, sequence.slot);
    }
  }

  /** Reads chunks for `maxMs`. A sequence whose next chunk is not there has read all. */
  async read(maxMs: number): Promise<void> {
    const { now } = this.#parts;
    const endMs = now() + maxMs;
    while (this.numReading > 0) {
      const isNew = this.#reading === undefined;
      const reading = (this.#reading ??= this.#nextReading());
      if (!reading) return;
      const startMs = now();
      // The file goes on being read while the next step runs.
      const found = await Promise.race([reading.file, wait(Math.max(1, endMs - startMs), undefined, { ref: false })]);
      reading.waitedMs += now() - startMs;
      if (!found && reading.waitedMs < PATIENCE_MS) return;
      this.#reading = undefined;
      if (!found || !(await this.#take(reading, found))) this.#endReader(reading);
      if (!found) this.#bytesPerMs = 0;
      else if (found.bytes && isNew) {
        this.#bytesPerMs = refinedSpeed(this.#bytesPerMs, found.bytes.length, reading.waitedMs);
      }
      if (now() >= endMs) return;
    }
  }

  /** Saves the chunks in memory, the last used first, until none is left or `isOver`. */
  saveAll(isOver: () => boolean): Promise<void> {
    const { prefixes, kv } = this.#parts;
    const pass = async (): Promise<void> => {
      for (;;) {
        const chunk = isOver() || this.#rests ? undefined : prefixes.nextUnsaved();
        if (!chunk) return;
        const isThere = (): boolean => !this.#isClosed && prefixes.holds(chunk);
        await this.#save(chunk, () => (isThere() ? kv.readKept(chunk.kept) : undefined));
      }
    };
    return (this.#saving = this.#saving.then(pass));
  }

  /** Saves what is in memory within some seconds. */
  async close(): Promise<void> {
    const { now } = this.#parts;
    const endMs = now() + CLOSING_MS;
    const saved = this.saveAll(() => now() > endMs).then(() => Promise.all(this.#writes));
    await Promise.race([saved, wait(CLOSING_MS, undefined, { ref: false })]);
    this.#isClosed = true;
  }

  /** Finds the next chunk that a sequence could read, whole. Its last token is computed, since that gives logits. */
  #nextOf({ numComputedTokens, numTokens, fileKeys }: Sequence): { index: number; head: SavedHead } | undefined {
    const { chunkTokens } = this.#parts.prefixes;
    const index = Math.floor(numComputedTokens / chunkTokens);
    const key = fileKeys[index];
    if (key === undefined || (index + 1) * chunkTokens >= numTokens) return undefined;
    return { index, head: this.#headOf(key) };
  }

  #headOf(key: string): SavedHead {
    const { kv, prefixes } = this.#parts;
    return { key, numPages: prefixes.chunkTokens / KV_PAGE_TOKENS, pageBytes: kv.pageBytes };
  }

  /** Begins to read the next chunk of a sequence; `undefined` if all have read theirs. */
  #nextReading(): Reading | undefined {
    const { files } = this.#parts;
    for (const [sequence, slot] of this.#readers) {
      const next = this.#nextOf(sequence);
      if (next) return { sequence, slot, ...next, file: files.read(next.head, next.index), waitedMs: 0 };
      this.#readers.delete(sequence);
    }
    return undefined;
  }

  /** Lets a sequence run, unless it was admitted again meanwhile and reads into another slot. */
  #endReader({ sequence, slot }: Reading): void {
    if (this.#readers.get(sequence) === slot) this.#readers.delete(sequence);
  }

  /** Puts a chunk that was read into its slot. @returns whether the sequence may go on reading */
  async #take(
    { sequence, slot, index, head }: Reading,
    { bytes, refusal }: Awaited<Reading["file"]>,
  ): Promise<boolean> {
    const { kv, prefixes, files } = this.#parts;
    // A damaged file would be refused each time.
    if (refusal !== undefined) await files.remove(head);
    if (!bytes || sequence.slot !== slot) return false;
    const before = slot.numTokens;
    // The chunk's first pages may be those of a kept prompt.
    const known = ((before % prefixes.chunkTokens) / KV_PAGE_TOKENS) * kv.pageBytes;
    kv.fill(slot, bytes.subarray(known));
    prefixes.add(sequence, index, slot);
    this.#readTokens += slot.numTokens - before;
    if (sequence.startedMs === undefined) sequence.cachedTokens = slot.numTokens;
    return true;
  }

  get #rests(): boolean {
    return this.#parts.now() < this.#restsUntilMs;
  }

  #saveEvicted(chunk: CachedChunk): void {
    const { kept } = chunk;
    if (!isUnsaved(chunk) || this.#rests || this.#pendingBytes + kept.bytes > MOST_PENDING_BYTES) return;
    const copy = this.#parts.kv.readKept(kept);
    this.#pendingBytes += kept.bytes;
    const write = this.#save(chunk, () => copy).finally(() => {
      this.#pendingBytes -= kept.bytes;
      this.#writes.delete(write);
    });
    this.#writes.add(write);
  }

  /** Writes a chunk's file, or marks the one that is there as used. @param read - copies the chunk, if it is there */
  async #save(chunk: CachedChunk, read: () => Uint8Array | undefined): Promise<void> {
    const { prefixes, files } = this.#parts;
    const { fileKey, lastUse, kept } = chunk;
    if (fileKey === undefined) return;
    const [head, index] = [this.#headOf(fileKey), kept.from / prefixes.chunkTokens];
    const isThere = await files.touch(head, index);
    const bytes = isThere ? undefined : read();
    chunk.savedUse = lastUse;
    if (bytes) await files.write(head, [bytes], index).catch((error: unknown) => this.#rest(messageOf(error)));
  }

  #rest(reason: string): void {
    const { now, onSaveFailed } = this.#parts;
    // Writes that began before the rest fail for the same reason.
    if (!this.#rests) onSaveFailed?.(reason);
    this.#restsUntilMs = now() + REST_MS;
  }
}

/**
 * Names the files of a prompt's chunks: each name is a hash of everything that the chunk's keys and values depend on,
 * the chunks before it included, and of who may read it.
 *
 * @param readers - scope and salt
 */
export function chunkKeys(
  { model, experts, tokenIds, routes }: PromptIdentity,
  [scope, salt]: readonly [scope: string, salt: string | undefined],
  chunkTokens: number,
): readonly string[] {
  const keys: string[] = [];
  // Begins like no hash.
  const root = JSON.stringify([scope, salt ?? null]);
  for (let to = chunkTokens; to <= tokenIds.length; to += chunkTokens) {
    const [from, before] = [to - chunkTokens, keys.at(-1) ?? root];
    const own = { tokenIds: tokenIds.slice(from, to), routes: routes.slice(from, to) };
    keys.push(keyOf({ model: [...model, before], experts, ...own }));
  }
  return keys;
}

/** Speed of files before any was read: that of a slow disk. */
const FIRST_BYTES_PER_MS = 100_000;

/** Computes the speed of files after one more was read. */
export function refinedSpeed(bytesPerMs: number, bytes: number, durationMs: number): number {
  return 0.8 * bytesPerMs + (0.2 * bytes) / Math.max(durationMs, 0.01);
}

interface SavedChunk {
  readonly tokens: number;
  readonly bytes: number;
  readonly bytesPerMs: number;
}

/** Tells whether a chunk is sooner read than computed. */
export function isReadFaster({ tokens, bytes, bytesPerMs }: SavedChunk, cost: CostModel): boolean {
  const computedMs = predictStepMs(cost, { tokens, distinctExperts: 1, cachedTokens: 0, missingBytes: 0 });
  return bytes / bytesPerMs < computedMs;
}
