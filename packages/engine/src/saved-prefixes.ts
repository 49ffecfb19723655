// Beginnings of prompts on disk, each part of the prefix cache in a file of its own, in the format of saved prompts.
// Parts are written when they are evicted, when the engine has nothing to do, and when it closes. Later prompts read
// them instead of computing them, also in another process: chunk by chunk, or up to the end that a state was kept of.

import { setTimeout as wait } from "node:timers/promises";
import { type CostModel, messageOf, predictStepMs } from "@readme-moe/core";
import { type KernelKv, KV_PAGE_TOKENS, type KvSlot } from "@readme-moe/kernel";
import type { PrefixCache } from "./prefix-cache.ts";
import { PrefixNames } from "./prefix-names.ts";
import { bytesOf, type CachedPart, isUnsaved } from "./prefix-tails.ts";
import { identityOf, type KeptModel, type SavedHead, type SavedPrompts } from "./saved-prompts.ts";
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
  /** Called when a part could not be written. */
  readonly onSaveFailed?: (reason: string) => void;
  /** Clock in ms. */
  readonly now: () => number;
}

/** Place that a sequence reads to. */
interface Place {
  readonly slot: KvSlot;
  /** First position of its next file. */
  from: number;
}

/** A file that is being read for a sequence. */
interface Reading {
  readonly sequence: Sequence;
  readonly place: Place;
  readonly head: SavedHead;
  readonly file: ReturnType<SavedPrompts["read"]>;
  /** Time that steps have waited for it. */
  waitedMs: number;
}

/** Copies of evicted parts that wait for the disk. What comes when there are more is not saved. */
const MOST_PENDING_BYTES = 64 << 20;
/** Time without writes after one has failed, such as on a full disk. */
const REST_MS = 60_000;
/** Longest time that the end of an engine waits for files. */
const CLOSING_MS = 5000;
/** Longest time that a sequence waits for a file. A disk that takes longer is read no more. */
const PATIENCE_MS = 2000;

/** The parts of one engine's prefix cache on disk. */
export class SavedPrefixes {
  readonly #parts: SavedPrefixesParts;
  /** Sequences that read their files, one after the other. */
  readonly #readers = new Map<Sequence, Place>();
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
    parts.prefixes.onEvicted((part) => this.#saveEvicted(part));
  }

  /** Number of prompt tokens that were read. */
  get readTokens(): number {
    return this.#readTokens;
  }

  /** Number of sequences that read their files. */
  get numReading(): number {
    for (const sequence of this.#readers.keys()) if (!this.isReading(sequence)) this.#readers.delete(sequence);
    return this.#readers.size;
  }

  isReading(sequence: Sequence): boolean {
    return sequence.slot !== undefined && this.#readers.get(sequence)?.slot === sequence.slot;
  }

  /** Names the files of a routed prompt; none of a short prompt, nor of one that nothing goes on with. */
  async namesOf(sequence: Sequence): Promise<PrefixNames | undefined> {
    const { runner, prefixes, files, scope, leastPromptTokens = 256 } = this.#parts;
    const { promptTokens, cacheSalt, isPooled } = sequence;
    if (!prefixes.isOn || isPooled || promptTokens < leastPromptTokens) return undefined;
    const identity = await identityOf(runner, sequence, promptTokens);
    const names = identity && new PrefixNames(identity, [scope, cacheSalt], sequence, prefixes.chunkTokens);
    // The last token is computed, since that gives logits.
    if (names && this.#hasStates) names.saved = names.findSaved(await files.keys(), sequence.numTokens - 1);
    return names;
  }

  /** Begins to read what a sequence that was just admitted has on disk, where that is faster than computing it. */
  begin(sequence: Sequence, cost: CostModel): void {
    const { kv, prefixes } = this.#parts;
    const { slot, numComputedTokens, files } = sequence;
    const from = prefixes.chunkTokens * Math.floor(numComputedTokens / prefixes.chunkTokens);
    if (!slot || !this.#nextOf(sequence, from)) return;
    // A state is of use with everything before it alone.
    const end = files?.saved?.end ?? from + prefixes.chunkTokens;
    const bytes = Math.ceil((end - from) / KV_PAGE_TOKENS) * kv.pageBytes + kv.states.stateBytes;
    if (isReadFaster({ tokens: end - numComputedTokens, bytes, bytesPerMs: this.#bytesPerMs }, cost)) {
      this.#readers.set(sequence, { slot, from });
    }
  }

  /** Reads files for `maxMs`. A sequence whose next file is not there has read all. */
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

  /** Saves the parts in memory, the last used first, until none is left or `isOver`. */
  saveAll(isOver: () => boolean): Promise<void> {
    const { prefixes, kv } = this.#parts;
    const pass = async (): Promise<void> => {
      for (;;) {
        const part = isOver() || this.#rests ? undefined : prefixes.nextUnsaved();
        if (!part) return;
        const isThere = (): boolean => !this.#isClosed && prefixes.holds(part);
        await this.#save(part, () => (isThere() ? copyOf(kv, part) : undefined));
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

  get #hasStates(): boolean {
    return this.#parts.kv.states.stateBytes > 0;
  }

  /** Describes the file that a sequence could read next: a whole chunk, or the end of what has a state. */
  #nextOf({ numComputedTokens, numTokens, files }: Sequence, from: number): SavedHead | undefined {
    const { kv, prefixes } = this.#parts;
    const { pageBytes, states } = kv;
    const { end, key } = files?.saved ?? { end: this.#hasStates ? 0 : numTokens - 1 };
    if (numComputedTokens >= end) return undefined;
    const to = Math.min(end, from + prefixes.chunkTokens);
    const numPages = Math.ceil((to - from) / KV_PAGE_TOKENS);
    if (to - from === prefixes.chunkTokens) {
      const chunk = files?.chunk(from / prefixes.chunkTokens);
      return chunk === undefined ? undefined : { key: chunk, numPages, pageBytes };
    }
    return key === undefined ? undefined : { key, numPages, pageBytes, stateBytes: states.stateBytes };
  }

  /** Begins to read the next chunk of a sequence; `undefined` if all have read theirs. */
  #nextReading(): Reading | undefined {
    const { files } = this.#parts;
    for (const [sequence, place] of this.#readers) {
      const head = this.#nextOf(sequence, place.from);
      if (head) return { sequence, place, head, file: files.read(head, this.#indexOf(place)), waitedMs: 0 };
      this.#readers.delete(sequence);
    }
    return undefined;
  }

  /** Lets a sequence run, unless it was admitted again meanwhile and reads into another slot. */
  #endReader({ sequence, place }: Reading): void {
    if (this.#readers.get(sequence) === place) this.#readers.delete(sequence);
  }

  /** Returns the number of the chunk that begins at a position. */
  #indexOf({ from }: Pick<CachedPart, "from">): number {
    return from / this.#parts.prefixes.chunkTokens;
  }

  /** Puts what was read into its slot. @returns whether the sequence may go on reading */
  async #take({ sequence, place, head }: Reading, { bytes, refusal }: Awaited<Reading["file"]>): Promise<boolean> {
    const { kv, prefixes, files } = this.#parts;
    const { slot, from } = place;
    // A damaged file would be refused each time.
    if (refusal !== undefined) await files.remove(head);
    if (!bytes || sequence.slot !== slot) return false;
    const before = slot.numTokens;
    // The first pages may be those of a kept prompt, or of what memory has.
    const known = Math.max(0, Math.floor(before / KV_PAGE_TOKENS) - from / KV_PAGE_TOKENS);
    const pages = bytes.subarray(known * kv.pageBytes, head.numPages * kv.pageBytes);
    const end = sequence.files?.saved?.end;
    if (end === undefined) {
      kv.fill(slot, pages);
      prefixes.add(sequence, this.#indexOf(place), slot);
    } else {
      writePages(kv, slot, from / KV_PAGE_TOKENS + known, pages);
      if (head.stateBytes !== undefined) {
        setState(kv, slot, end, bytes.subarray(head.numPages * kv.pageBytes));
        prefixes.addEnd(sequence, slot, end);
      }
    }
    place.from += prefixes.chunkTokens;
    this.#readTokens += slot.numTokens - before;
    if (sequence.startedMs === undefined) sequence.cachedTokens = Math.min(slot.numTokens, sequence.promptTokens);
    return true;
  }

  get #rests(): boolean {
    return this.#parts.now() < this.#restsUntilMs;
  }

  #saveEvicted(part: CachedPart): void {
    const bytes = bytesOf(part);
    if (!isUnsaved(part) || this.#rests || this.#pendingBytes + bytes > MOST_PENDING_BYTES) return;
    const copy = copyOf(this.#parts.kv, part);
    this.#pendingBytes += bytes;
    const write = this.#save(part, () => copy).finally(() => {
      this.#pendingBytes -= bytes;
      this.#writes.delete(write);
    });
    this.#writes.add(write);
  }

  /** Writes a part's file, or marks the one that is there as used. @param read - copies the part, if it is there */
  async #save(part: CachedPart, read: () => readonly Uint8Array[] | undefined): Promise<void> {
    const { kv, files } = this.#parts;
    const { fileKey: key, lastUse, pages, state } = part;
    if (key === undefined) return;
    const numPages = pages.reduce((sum, { numTokens }) => sum + Math.ceil(numTokens / KV_PAGE_TOKENS), 0);
    const head: SavedHead = { key, numPages, pageBytes: kv.pageBytes, stateBytes: state?.bytes };
    const index = this.#indexOf(part);
    const isThere = await files.touch(head, index);
    const copy = isThere ? undefined : read();
    part.savedUse = lastUse;
    if (copy) await files.write(head, copy, index).catch((error: unknown) => this.#rest(messageOf(error)));
  }

  #rest(reason: string): void {
    const { now, onSaveFailed } = this.#parts;
    // Writes that began before the rest fail for the same reason.
    if (!this.#rests) onSaveFailed?.(reason);
    this.#restsUntilMs = now() + REST_MS;
  }
}

/** Copies the pages of a part, then its state. */
function copyOf(kv: KernelKv, { pages, state }: CachedPart): readonly Uint8Array[] {
  const copies = pages.map((kept) => kv.readKept(kept));
  return state ? [...copies, kv.readState(state)] : copies;
}

/** Writes pages of a slot from number `first` on, which only the slot has. Its length stays. */
function writePages(kv: KernelKv, slot: KvSlot, first: number, bytes: Uint8Array): void {
  const { pages } = kv.pageSlot(slot);
  for (let at = 0; at < bytes.length; at += kv.pageBytes) {
    kv.pages.write(pages[first + at / kv.pageBytes]!, bytes.subarray(at, at + kv.pageBytes));
  }
}

/** Moves the end of a slot to a position whose pages are written, with the state behind it. */
function setState(kv: KernelKv, slot: KvSlot, end: number, bytes: Uint8Array): void {
  for (const state of kv.states.save(slot, [end], true)) kv.pages.write(kv.numPages + state, bytes);
  kv.advance(slot, end - slot.numTokens);
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
