import type { KeptTokens, KvMemory, KvSlot } from "@readme-moe/kernel";

/** A prompt: everything that the keys and values of its positions depend on. */
interface RoutedTokens {
  readonly tokenIds: readonly number[];
  /** Expert of each token. */
  readonly experts: readonly number[];
}

/** Options of a `PrefixCache`. */
export interface PrefixCacheOptions {
  /** Number of positions of a chunk, a multiple of 64. */
  readonly chunkTokens: number;
  /** Largest number of bytes of keys and values; 0 keeps nothing. */
  readonly maxBytes: number;
}

/**
 * Keys and values of chunks that prompts begin with, such as system prompts, which are reused instead of computed.
 *
 * The key of a chunk is everything that its keys and values depend on: the chunk before it, its tokens and their
 * experts. Least recently used chunks are evicted first, and never before the chunks that follow them. The KV memory
 * drops an evicted chunk. Only `add` evicts, so the result of `match` is valid until then.
 */
export class PrefixCache {
  readonly chunkTokens: number;
  readonly #kv: KvMemory;
  readonly #maxBytes: number;
  /** Chunks by key, the least recently used first. */
  readonly #chunks = new Map<string, PrefixChunk>();
  #numBytes = 0;
  #nextId = 1;

  /** @param kv - memory of the slots passed to `add` */
  constructor(kv: KvMemory, { chunkTokens, maxBytes }: PrefixCacheOptions) {
    this.chunkTokens = chunkTokens;
    this.#kv = kv;
    this.#maxBytes = maxBytes;
  }

  get numBytes(): number {
    return this.#numBytes;
  }

  /** Finds the longest cached beginning of a prompt, in whole chunks, without the prompt's last token. */
  match(prompt: RoutedTokens): readonly KeptTokens[] {
    const numChunks = Math.max(0, Math.ceil(prompt.tokenIds.length / this.chunkTokens) - 1);
    const found = this.#chain(prompt, numChunks);
    this.#touch(found);
    return found.map((chunk) => chunk.kept);
  }

  /**
   * Caches chunk `index` of a prompt, if the chunks before it are cached and there is room beside them.
   * @param slot - slot in which the chunk's positions are filled
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
    const experts = new Set(prompt.experts.slice(from, to));
    const chunk = { id: this.#nextId++, key, experts, kept: this.#kv.keep(slot, from, to) };
    this.#chunks.set(key, chunk);
    this.#numBytes += chunk.kept.bytes;
    this.#touch([...before, chunk]);
  }

  /** Drops the chunks with tokens of an expert, whose number may then be another expert's. */
  forget(expert: number): void {
    for (const chunk of this.#chunks.values()) if (chunk.experts.has(expert)) this.#drop(chunk);
  }

  /** Finds the first chunks of a prompt, up to `numChunks`, as far as they are cached. */
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

  /** Evicts chunks until `bytes` fit. @param stop - the first chunk that must stay, with all after it */
  #makeRoom(bytes: number, stop: PrefixChunk | undefined): boolean {
    for (const chunk of this.#chunks.values()) {
      if (this.#numBytes + bytes <= this.#maxBytes) return true;
      if (chunk === stop) return false;
      this.#drop(chunk);
    }
    return this.#numBytes + bytes <= this.#maxBytes;
  }

  #drop(chunk: PrefixChunk): void {
    this.#chunks.delete(chunk.key);
    this.#numBytes -= chunk.kept.bytes;
    this.#kv.drop(chunk.kept);
  }

  /** Marks a chain as used. Its last chunk becomes its least recent one, so it is evicted before those it needs. */
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
  readonly experts: ReadonlySet<number>;
  readonly kept: KeptTokens;
}
