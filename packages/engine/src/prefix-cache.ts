// The prefix cache: pages of keys and values that later prompts share, and the pinned ends of kept prompts.

import { type KeptState, type KeptTokens, KV_PAGE_TOKENS, type KvMemory, type KvSlot } from "@readme-moe/kernel";
import {
  bytesOf,
  type CacheablePrompt,
  type CachedPart,
  isUnsaved,
  type KeepTokens,
  PrefixTails,
  type PrefixTail,
  type RoutedTokens,
} from "./prefix-tails.ts";

interface PrefixCacheOptions {
  /** Number of positions of a chunk, a multiple of 64. */
  readonly chunkTokens: number;
  /** Largest number of bytes of pinned keys and values; 0 keeps nothing at all. */
  readonly maxBytes: number;
}

/**
 * Keys and values of chunks that prompts begin with, such as system prompts, which are reused instead of computed.
 *
 * The key of a chunk is everything that its keys and values depend on, which is the chunk before it, its tokens and
 * their experts, and the salt of the requests that may use it.
 *
 * Chunks lie in all memory that running sequences leave, so that a long prompt that was aborted is found again. They
 * are evicted when the KV memory needs a page. Eviction chooses a salt, and then its least recently used chunk that is
 * in no slot. The salt is the one with the largest product of the bytes of such chunks and the time since that use: a
 * client that adds much evicts its own chunks, and unused chunks are evicted in the end. A chunk's followers are used
 * no later than itself, and go first. The result of `match` is valid until the KV memory is asked for more.
 *
 * Pinned beginnings stay until `unpin`, for requests of all salts. They end with a whole page of 16 positions, which
 * may be within a chunk.
 *
 * The whole pages of an answer are kept, too, so a chat that is only appended to runs at most the tokens of a page
 * twice. A model with recurrences goes on only where its state was kept: behind some chunks, and behind the last
 * position of each answer and the last but one of each prompt. It runs no token of such a chat twice.
 */
export class PrefixCache {
  readonly chunkTokens: number;
  readonly #kv: KvMemory;
  readonly #maxBytes: number;
  /** Chunks by key, the least recently used first. */
  readonly #chunks = new Map<string, PrefixChunk>();
  readonly #tails: PrefixTails;
  readonly #pins = new Map<number, Pin>();
  #chunkBytes = 0;
  #pinnedBytes = 0;
  #nextId = 1;
  /** Counts the uses of chunks, as their clock. */
  #uses = 0;
  #onEvicted: (part: CachedPart) => void = () => undefined;

  /** @param kv - memory of the slots passed to `add` */
  constructor(kv: KvMemory, { chunkTokens, maxBytes }: PrefixCacheOptions) {
    this.chunkTokens = chunkTokens;
    this.#kv = kv;
    this.#maxBytes = maxBytes;
    this.#tails = new PrefixTails(kv);
    kv.onShortage(() => this.evict());
  }

  get numBytes(): number {
    return this.#chunkBytes + this.#tails.numBytes;
  }

  /** Whether there is room for a chunk. */
  get isOn(): boolean {
    return this.chunkTokens * this.#kv.bytesPerToken + this.#kv.states.stateBytes <= this.#maxBytes;
  }

  /** Number of positions behind which prompts may go on with what others have computed. */
  get sharedTokens(): number {
    return this.chunkTokens * this.#chunksOfState;
  }

  /** Room for further pins, in bytes. */
  get pinnableBytes(): number {
    return this.#maxBytes - this.#pinnedBytes - this.#tails.pinnedBytes;
  }

  get #hasStates(): boolean {
    return this.#kv.states.stateBytes > 0;
  }

  /** Number of chunks from one kept state to the next. */
  get #chunksOfState(): number {
    const chunkBytes = this.chunkTokens * this.#kv.bytesPerToken;
    return Math.max(1, Math.round(this.#kv.states.stateBytes / (STATE_SHARE * chunkBytes)));
  }

  /** Finds what a prompt begins with: as `match`, of a model with recurrences up to the last state that is kept. */
  find(prompt: CacheablePrompt): CachedBeginning {
    if (!this.#hasStates) return { prefix: this.match(prompt) };
    const chain = this.#chain(prompt, Math.max(0, Math.ceil(prompt.tokenIds.length / this.chunkTokens) - 1));
    for (let length = chain.length; length >= 0; length--) {
      const part = chain.slice(0, length);
      const tail = this.#tails.longest(prompt, this.#behind(part));
      if (!tail) continue;
      this.#touch(part, prompt);
      tail.lastUse = this.#uses;
      return { prefix: [...part.map(({ kept }) => kept), ...tail.pages], state: tail.state };
    }
    return { prefix: [] };
  }

  /**
   * Caches what a slot has computed: its whole pages, or all up to a state.
   *
   * @param prompt - with the tokens of its answer
   * @param computed - a position at which the slot has a state, of a model with recurrences
   */
  addEnd(prompt: CacheablePrompt, slot: KvSlot, computed: number): void {
    // A page that is not full would be copied, which is worth it for a state alone.
    const end = this.#hasStates ? computed : Math.floor(computed / KV_PAGE_TOKENS) * KV_PAGE_TOKENS;
    if (!this.isOn || end === 0) return;
    const numChunks = Math.floor(end / this.chunkTokens);
    const chunks = [...this.#chain(prompt, numChunks)];
    const keep: KeepTokens = (from, to) => this.#kv.keep(slot, from, to);
    while (chunks.length < numChunks) chunks.push(this.#insert(prompt, chunks, keep));
    this.#touch(chunks, prompt);
    this.#addTail(prompt, chunks, slot, end);
  }

  /** Adds the pages between chunks that were just used and `end`, with the state there, of a model with recurrences. */
  #addTail(prompt: CacheablePrompt, chunks: readonly PrefixChunk[], slot: KvSlot, end: number): void {
    const place = this.#behind(chunks);
    const keep: KeepTokens = (from, to) => this.#kv.keep(slot, from, to);
    const known = this.#tails.find(prompt, place, end, prompt.cacheSalt);
    const state = known ? undefined : this.#kv.states.keep(slot, end);
    if (!known && (this.#hasStates ? !state : end === place.from)) return;
    const tail = known ?? this.#tails.add(prompt, { ...place, end }, keep, state);
    tail.lastUse = this.#uses;
    if (tail.state) tail.fileKey ??= prompt.files?.end(end);
  }

  /**
   * Finds the longest cached beginning of a prompt, without the prompt's last token: whole chunks, and the pages of a
   * tail behind them.
   */
  match(prompt: CacheablePrompt): readonly KeptTokens[] {
    const numChunks = Math.max(0, Math.ceil(prompt.tokenIds.length / this.chunkTokens) - 1);
    const found = this.#chain(prompt, numChunks);
    this.#touch(found, prompt);
    const { tail, pages } = this.#tails.match(prompt, this.#behind(found));
    if (tail) tail.lastUse = this.#uses;
    return [...found.map((chunk) => chunk.kept), ...pages];
  }

  /**
   * Caches chunk `index` of a prompt, if the chunks before it are cached.
   * @param slot - slot in which the chunk's positions are filled
   */
  add(prompt: CacheablePrompt, index: number, slot: KvSlot): void {
    const [from, to] = [index * this.chunkTokens, (index + 1) * this.chunkTokens];
    if (!this.isOn) return;
    const before = this.#chain(prompt, index);
    if (before.length < index) return;
    if (this.#find(prompt, index, before.at(-1)?.id ?? ROOT)) return;
    const chunks = [...before, this.#insert(prompt, before, () => this.#kv.keep(slot, from, to))];
    this.#touch(chunks, prompt);
    if ((index + 1) % this.#chunksOfState === 0) this.#addTail(prompt, chunks, slot, to);
  }

  /** Tells whether the first `end` tokens of a prompt, whole pages, are pinned. */
  isPinned(prompt: RoutedTokens, end: number): boolean {
    const numChunks = Math.floor(end / this.chunkTokens);
    const chunks = this.#chain(prompt, numChunks);
    if (chunks.length < numChunks || chunks.some(({ pins }) => pins === 0)) return false;
    const isWhole = end % this.chunkTokens === 0 && !this.#hasStates;
    return isWhole || this.#tails.find(prompt, this.#behind(chunks), end) !== undefined;
  }

  /**
   * Pins the first `end` tokens of a prompt, whole pages, until `unpin`.
   *
   * @param keep - called for the positions that are not cached, in order
   * @param keepState - keeps the state behind them, of a model with recurrences
   * @returns the pin's number; `undefined`, with nothing kept, when there is no room
   */
  pin(
    { tokenIds, experts }: RoutedTokens,
    end: number,
    keep: KeepTokens,
    keepState?: () => KeptState | undefined,
  ): number | undefined {
    const prompt = { tokenIds, experts };
    const numChunks = Math.floor(end / this.chunkTokens);
    const chunks = [...this.#chain(prompt, numChunks)];
    const known = chunks.length === numChunks ? this.#tails.find(prompt, this.#behind(chunks), end) : undefined;
    const tailTokens = known ? 0 : end % this.chunkTokens;
    const newTokens = (numChunks - chunks.length) * this.chunkTokens + tailTokens;
    // Pinned chunks are not evicted.
    for (const chunk of chunks) this.#setPins(chunk, chunk.pins + 1);
    if (newTokens * this.#kv.bytesPerToken + this.#kv.states.stateBytes > this.pinnableBytes) {
      for (const chunk of chunks) this.#setPins(chunk, chunk.pins - 1);
      return undefined;
    }
    while (chunks.length < numChunks) {
      const chunk = this.#insert(prompt, chunks, keep);
      this.#setPins(chunk, 1);
      chunks.push(chunk);
    }
    this.#touch(chunks, prompt);
    const place = { ...this.#behind(chunks), end };
    const state = known ? undefined : keepState?.();
    const tail = known ?? (state || tailTokens > 0 ? this.#tails.add(prompt, place, keep, state) : undefined);
    if (tail) tail.pins++;
    const id = this.#nextId++;
    this.#pins.set(id, { chunks, tail });
    return id;
  }

  /** Lists what a pin keeps, in the order of positions; `undefined` when a part of it was dropped. */
  pinned(pin: number): CachedBeginning | undefined {
    const { chunks, tail } = this.#pins.get(pin) ?? {};
    if (!chunks?.every((chunk) => this.holds(chunk)) || tail?.isDropped === true) return undefined;
    const prefix = [...chunks.map(({ kept }) => kept), ...(tail?.pages ?? [])];
    return { prefix, state: tail?.state };
  }

  /** Ends a pin. Its chunks may be evicted then, and the pages behind the last one are dropped. */
  unpin(pin: number): void {
    const { chunks, tail } = this.#pins.get(pin) ?? { chunks: [] };
    this.#pins.delete(pin);
    for (const chunk of chunks) this.#setPins(chunk, chunk.pins - 1);
    if (tail && --tail.pins === 0) this.#tails.drop(tail);
  }

  /** Evicts the next chunk, if there is one. @returns whether there was */
  evict(): boolean {
    const evicted = this.#nextEvicted();
    if (!evicted) return false;
    this.#onEvicted(evicted);
    if ("parent" in evicted) this.#tails.drop(evicted);
    else this.#drop(evicted);
    return true;
  }

  /** Sets what is told of parts that are evicted, before their memory is freed. */
  onEvicted(take: (part: CachedPart) => void): void {
    this.#onEvicted = take;
  }

  /** Finds a part that was used since its file was written. Beginnings come before what follows them. */
  nextUnsaved(): PrefixChunk | PrefixTail | undefined {
    return Array.from(this.#chunks.values()).findLast(isUnsaved) ?? this.#tails.nextUnsaved;
  }

  /** Tells whether a part is cached still. */
  holds(part: PrefixChunk | PrefixTail): boolean {
    return "parent" in part ? !part.isDropped : this.#chunks.get(part.key) === part;
  }

  /** Drops everything with tokens of an expert, pinned or not: its number may then be another expert's. */
  forget(expert: number): void {
    for (const chunk of this.#chunks.values()) if (chunk.experts.has(expert)) this.#drop(chunk);
    this.#tails.forget(expert);
  }

  /** Finds the first chunks of a prompt, up to `numChunks`, as far as they are cached. */
  #chain(prompt: CacheablePrompt, numChunks: number): readonly PrefixChunk[] {
    const chain: PrefixChunk[] = [];
    let parent = ROOT;
    while (chain.length < numChunks) {
      const chunk = this.#find(prompt, chain.length, parent);
      if (!chunk) break;
      chain.push(chunk);
      parent = chunk.id;
    }
    return chain;
  }

  /** Finds a chunk of a prompt: a pinned one, else one of the prompt's salt. */
  #find(prompt: CacheablePrompt, index: number, parent: number): PrefixChunk | undefined {
    const key = this.#key(prompt, index, parent);
    const shared = this.#chunks.get(key);
    if (prompt.cacheSalt === undefined || (shared && shared.pins > 0)) return shared;
    return this.#chunks.get(saltedKey(key, prompt.cacheSalt));
  }

  #behind(chain: readonly PrefixChunk[]): { readonly parent: number; readonly from: number } {
    return { parent: chain.at(-1)?.id ?? ROOT, from: chain.length * this.chunkTokens };
  }

  #insert(prompt: CacheablePrompt, before: readonly PrefixChunk[], keep: KeepTokens): PrefixChunk {
    const { cacheSalt: salt } = prompt;
    const { parent, from } = this.#behind(before);
    const to = from + this.chunkTokens;
    const key = saltedKey(this.#key(prompt, before.length, parent), salt);
    const experts = new Set(prompt.experts.slice(from, to));
    const kept = keep(from, to);
    const own = { id: this.#nextId++, key, salt, experts, from, kept, pages: [kept] };
    const chunk: PrefixChunk = { ...own, pins: 0, lastUse: this.#uses, fileKey: undefined, savedUse: undefined };
    this.#chunks.set(key, chunk);
    this.#chunkBytes += chunk.kept.bytes;
    return chunk;
  }

  #nextEvicted(): PrefixChunk | PrefixTail | undefined {
    const owners = new Map<string | undefined, { oldest: PrefixChunk | PrefixTail; bytes: number }>();
    const take = (one: PrefixChunk | PrefixTail, bytes: number): void => {
      const owner = owners.get(one.salt) ?? { oldest: one, bytes: 0 };
      owners.set(one.salt, owner);
      owner.bytes += bytes;
      if (one.lastUse < owner.oldest.lastUse) owner.oldest = one;
    };
    // Tails come before the chunks that they follow.
    for (const tail of this.#tails.evictable) take(tail, bytesOf(tail));
    for (const chunk of this.#chunks.values()) {
      if (chunk.pins === 0 && this.#kv.isIdle(chunk.kept)) take(chunk, chunk.kept.bytes);
    }
    let [most, chosen]: [number, PrefixChunk | PrefixTail | undefined] = [-1, undefined];
    for (const { oldest, bytes } of owners.values()) {
      const weight = bytes * (this.#uses - oldest.lastUse);
      if (weight > most) [most, chosen] = [weight, oldest];
    }
    return chosen;
  }

  #setPins(chunk: PrefixChunk, pins: number): void {
    const change = Number(pins > 0) - Number(chunk.pins > 0);
    if (this.holds(chunk)) this.#pinnedBytes += change * chunk.kept.bytes;
    chunk.pins = pins;
  }

  #drop(chunk: PrefixChunk): void {
    const { kept } = chunk;
    this.#chunks.delete(chunk.key);
    this.#chunkBytes -= kept.bytes;
    if (chunk.pins > 0) this.#pinnedBytes -= kept.bytes;
    this.#kv.drop(kept);
  }

  /** Marks a chain as used. Its last chunk becomes its least recent one, so it is evicted before those it needs. */
  #touch(chain: readonly PrefixChunk[], { files, cacheSalt }: CacheablePrompt): void {
    this.#uses++;
    for (const [index, chunk] of Array.from(chain.entries()).toReversed()) {
      chunk.lastUse = this.#uses;
      // A pinned chunk of all salts is no file of one of them.
      if (chunk.salt === cacheSalt) chunk.fileKey ??= files?.chunk(index);
      this.#chunks.delete(chunk.key);
      this.#chunks.set(chunk.key, chunk);
    }
  }

  #key({ tokenIds, experts }: RoutedTokens, index: number, parent: number): string {
    const [from, to] = [index * this.chunkTokens, (index + 1) * this.chunkTokens];
    return `${parent}:${tokenIds.slice(from, to).join()}:${experts.slice(from, to).join()}`;
  }
}

const ROOT = 0;

/** Bytes of kept states beside those of keys and values, about, of a prompt that is longer than a chunk. */
const STATE_SHARE = 4;

/** Adds the salt of a chunk to its key, which has digits and signs only. */
function saltedKey(key: string, salt: string | undefined): string {
  return salt === undefined ? key : `${key}:${salt}`;
}

interface PrefixChunk extends CachedPart {
  readonly id: number;
  readonly key: string;
  readonly kept: KeptTokens;
  readonly salt: string | undefined;
  readonly experts: ReadonlySet<number>;
  /** Number of pins that need the chunk. */
  pins: number;
  lastUse: number;
  fileKey: string | undefined;
}

interface Pin {
  readonly chunks: readonly PrefixChunk[];
  readonly tail?: PrefixTail | undefined;
}

/** Pages that a prompt begins with, and the state behind them of a model with recurrences. */
interface CachedBeginning {
  readonly prefix: readonly KeptTokens[];
  readonly state?: KeptState | undefined;
}
