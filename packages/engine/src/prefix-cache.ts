import type { KeptTokens, KvMemory, KvSlot } from "@readme-moe/kernel";

/** A prompt: what the keys and values of its positions depend on. */
interface RoutedTokens {
  readonly tokenIds: readonly number[];
  /** Expert of each token. */
  readonly experts: readonly number[];
}

/** Options of a `PrefixCache`. */
export interface PrefixCacheOptions {
  /** Positions of a chunk, a multiple of 64. */
  readonly chunkTokens: number;
  /** Bytes of keys and values at most; 0 keeps nothing. */
  readonly maxBytes: number;
}

/**
 * Keys and values of chunks that prompts begin with, such as system prompts, to be used again instead of computed.
 *
 * A chunk is found under everything that its numbers depend on: the chunk before it, its tokens and their experts.
 * Least recently used chunks leave first, and a chunk never leaves before those that follow it. A chunk that leaves is
 * dropped from the KV memory that keeps it. Only `add` makes chunks leave, so what `match` gave is valid until then.
 */
export class PrefixCache {
  readonly chunkTokens: number;
  readonly #kv: KvMemory;
  readonly #maxBytes: number;
  /** In the order in which they were used, the least recently used first. */
  readonly #chunks = new Map<string, PrefixChunk>();
  #numBytes = 0;
  #nextId = 1;

  /** @param kv - the memory whose slots `add` gets */
  constructor(kv: KvMemory, { chunkTokens, maxBytes }: PrefixCacheOptions) {
    this.chunkTokens = chunkTokens;
    this.#kv = kv;
    this.#maxBytes = maxBytes;
  }

  get numBytes(): number {
    return this.#numBytes;
  }

  /** Finds the longest known beginning of a prompt, in whole chunks; at least its last token is left to be computed. */
  match(prompt: RoutedTokens): readonly KeptTokens[] {
    const numChunks = Math.max(0, Math.ceil(prompt.tokenIds.length / this.chunkTokens) - 1);
    const found = this.#chain(prompt, numChunks);
    this.#touch(found);
    return found.map((chunk) => chunk.kept);
  }

  /**
   * Keeps the chunk `index` of a prompt, if the chunks before it are kept and there is room beside them.
   * @param slot - where the chunk's positions are filled
   */
  add(prompt: RoutedTokens, index: number, slot: KvSlot): void {
    const [from, to] = [index * this.chunkTokens, (index + 1) * this.chunkTokens];
    if ((to - from) * this.#kv.bytesPerToken > this.#maxBytes) return;
    const before = this.#chain(prompt, index);
    if (before.length < index) return;
    const key = this.#key(prompt, index, before.at(-1)?.id ?? ROOT);
    if (this.#chunks.has(key)) return;
    this.#touch(before);
    if (!this.#makeRoom((to - from) * this.#kv.bytesPerToken, before.at(-1))) return;
    const chunk = { id: this.#nextId++, key, kept: this.#kv.keep(slot, from, to) };
    this.#chunks.set(key, chunk);
    this.#numBytes += chunk.kept.bytes;
    this.#touch([...before, chunk]);
  }

  /** The first chunks of a prompt, up to `numChunks`, as far as they are known. */
  #chain(prompt: RoutedTokens, numChunks: number): readonly PrefixChunk[] {
    const chain: PrefixChunk[] = [];
    let parent = ROOT;
    while (chain.length < numChunks) {
      const chunk = this.#chunks.get(this.#key(prompt, chain.length, parent));
      if (!chunk) break;
      chain.push(chunk);
      parent = chunk.id;
    }
    return chain;
  }

  /** Drops chunks until `bytes` fit. @param stop - the first in the order that must stay, with all after it */
  #makeRoom(bytes: number, stop: PrefixChunk | undefined): boolean {
    for (const chunk of this.#chunks.values()) {
      if (this.#numBytes + bytes <= this.#maxBytes) return true;
      if (chunk === stop) return false;
      this.#chunks.delete(chunk.key);
      this.#numBytes -= chunk.kept.bytes;
      this.#kv.drop(chunk.kept);
    }
    return this.#numBytes + bytes <= this.#maxBytes;
  }

  /** Makes the last of a chain the least recent of it, so that it leaves before those that it needs. */
  #touch(chain: readonly PrefixChunk[]): void {
    for (const chunk of chain.toReversed()) {
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

interface PrefixChunk {
  readonly id: number;
  readonly key: string;
  readonly kept: KeptTokens;
}
