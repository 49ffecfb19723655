/**
 * Keys and values of chunks that prompts begin with, such as system prompts, to be copied instead of computed.
 *
 * A chunk is found under everything that its numbers depend on: the chunk before it, its tokens and their experts.
 * Least recently used chunks leave first, and a chunk never leaves before those that follow it.
 */
export class PrefixCache {
  readonly chunkTokens: number;
  readonly #maxBytes: number;
  /** In the order in which they were used, the least recently used first. */
  readonly #chunks = new Map<string, PrefixChunk>();
  #numBytes = 0;
  #nextId = 1;

  /** @param maxBytes - of keys and values; 0 keeps nothing */
  constructor(chunkTokens: number, maxBytes: number) {
    this.chunkTokens = chunkTokens;
    this.#maxBytes = maxBytes;
  }

  get numBytes(): number {
    return this.#numBytes;
  }

  /** The longest known beginning of a prompt, in whole chunks, leaving at least its last token to be computed. */
  match(tokenIds: readonly number[], experts: readonly number[]): readonly Float32Array[] {
    const found: PrefixChunk[] = [];
    let parent = ROOT;
    while ((found.length + 1) * this.chunkTokens < tokenIds.length) {
      const chunk = this.#chunks.get(this.#key(parent, found.length, tokenIds, experts));
      if (!chunk) break;
      found.push(chunk);
      parent = chunk.id;
    }
    this.#touch(found);
    return found.map((chunk) => chunk.keysValues);
  }

  /**
   * Keeps the chunk `index` of a prompt, if the chunks before it are kept and there is room.
   * @param read - copies its keys and values; called only when they are kept
   */
  add(tokenIds: readonly number[], experts: readonly number[], index: number, read: () => Float32Array): void {
    if (this.#maxBytes === 0) return;
    const before: PrefixChunk[] = [];
    let parent = ROOT;
    for (let earlier = 0; earlier < index; earlier++) {
      const chunk = this.#chunks.get(this.#key(parent, earlier, tokenIds, experts));
      if (!chunk) return;
      before.push(chunk);
      parent = chunk.id;
    }
    const key = this.#key(parent, index, tokenIds, experts);
    if (this.#chunks.has(key)) return;
    const chunk = { id: this.#nextId++, key, keysValues: read() };
    this.#chunks.set(key, chunk);
    this.#numBytes += chunk.keysValues.byteLength;
    this.#touch([...before, chunk]);
    this.#shrink();
  }

  #shrink(): void {
    for (const [key, chunk] of this.#chunks) {
      if (this.#numBytes <= this.#maxBytes) return;
      this.#chunks.delete(key);
      this.#numBytes -= chunk.keysValues.byteLength;
    }
  }

  /** The last of a chain becomes the least recent of it, so that it leaves before those that it needs. */
  #touch(chain: readonly PrefixChunk[]): void {
    for (const chunk of chain.toReversed()) {
      this.#chunks.delete(chunk.key);
      this.#chunks.set(chunk.key, chunk);
    }
  }

  #key(parent: number, index: number, tokenIds: readonly number[], experts: readonly number[]): string {
    const [from, to] = [index * this.chunkTokens, (index + 1) * this.chunkTokens];
    return `${parent}:${tokenIds.slice(from, to).join()}:${experts.slice(from, to).join()}`;
  }
}

const ROOT = 0;

interface PrefixChunk {
  readonly id: number;
  readonly key: string;
  readonly keysValues: Float32Array;
}
