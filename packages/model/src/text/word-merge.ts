// Merges the symbols of one word by byte-pair encoding.

/** Two symbols that merge, and the symbol that they make. */
export type SymbolPair = readonly [left: number, right: number, merged: number];

// Symbols are token ids and a few aliases, all below this limit.
const SYMBOL_LIMIT = 2 ** 26;
// Positions in a word are below this limit (a string has fewer than 2 ** 29 characters), ranks below 2 ** 24.
const POSITION_LIMIT = 2 ** 29;

/** The merges of a BPE model by pair; the rank of a merge is its place in the list. */
export class PairTable {
  // An open hash table, since a map of boxed numbers takes five times the memory.
  readonly #keys: Float64Array;
  readonly #ranks: Int32Array;
  readonly #merged: Int32Array;
  readonly #mask: number;
  readonly #excluded: ReadonlySet<number>;

  /**
   * @param pairs - the pairs by rank, of which the last counts when one occurs twice; or a table to share memory with
   * @param excluded - symbols that nothing merges into
   */
  constructor(pairs: readonly SymbolPair[] | PairTable, excluded: ReadonlySet<number> = new Set()) {
    this.#excluded = excluded;
    if (pairs instanceof PairTable) {
      [this.#keys, this.#ranks, this.#merged, this.#mask] = [pairs.#keys, pairs.#ranks, pairs.#merged, pairs.#mask];
      return;
    }
    const capacity = 2 ** Math.ceil(Math.log2(2 * pairs.length + 2));
    this.#mask = capacity - 1;
    this.#keys = new Float64Array(capacity).fill(-1);
    this.#ranks = new Int32Array(capacity);
    this.#merged = Int32Array.from(pairs, ([, , merged]) => merged);
    for (const [rank, [left, right]] of pairs.entries()) {
      const slot = this.#slot(left, right);
      this.#keys[slot] = left * SYMBOL_LIMIT + right;
      this.#ranks[slot] = rank;
    }
  }

  /** Returns the rank of two symbols, -1 when they do not merge; symbols below 0 never do. */
  rank(left: number, right: number): number {
    if (left < 0 || right < 0) return -1;
    const slot = this.#slot(left, right);
    const rank = this.#keys[slot] === -1 ? -1 : (this.#ranks[slot] ?? -1);
    return this.#excluded.size > 0 && rank >= 0 && this.#excluded.has(this.mergedAt(rank)) ? -1 : rank;
  }

  mergedAt(rank: number): number {
    return this.#merged[rank] ?? -1;
  }

  /** Returns the place of a pair, or the free place where it would be. */
  #slot(left: number, right: number): number {
    const key = left * SYMBOL_LIMIT + right;
    let hash = Math.imul(left, 0x9e37_79b1) ^ Math.imul(right, 0x85eb_ca6b);
    hash ^= hash >>> 15;
    let slot = hash & this.#mask;
    while (this.#keys[slot] !== key && this.#keys[slot] !== -1) slot = (slot + 1) & this.#mask;
    return slot;
  }
}

/** Memory for merging words of up to a number of symbols. */
export interface MergeMemory {
  readonly symbols: Int32Array;
  readonly next: Int32Array;
  readonly previous: Int32Array;
  /** Heap of the pairs that may merge: rank * POSITION_LIMIT + position of the left symbol. */
  readonly heap: Float64Array;
}

export function mergeMemory(numSymbols: number): MergeMemory {
  const array = (): Int32Array => new Int32Array(numSymbols);
  // A merge takes one pair and offers two; the system gives the memory when it is first written.
  return { symbols: array(), next: array(), previous: array(), heap: new Float64Array(2 * numSymbols) };
}

/**
 * Byte-pair encoding of one word, which can pause. Merges the pair of the lowest rank, and the leftmost of equal
 * ranks, until none is left. Takes O(n log n) for a word of n symbols.
 */
export class WordMerge {
  readonly #table: PairTable;
  readonly #symbols: Int32Array;
  readonly #next: Int32Array; // -1 at the end; -2 for a symbol that was merged into the one before
  readonly #previous: Int32Array;
  readonly #numSymbols: number;
  readonly #heap: Float64Array;
  #heapSize = 0;
  #numLinked = 0;

  /** @param memory - holds the word's symbols; used by this merge alone until it is done */
  constructor(table: PairTable, memory: MergeMemory, numSymbols: number) {
    this.#table = table;
    this.#symbols = memory.symbols;
    this.#next = memory.next;
    this.#previous = memory.previous;
    this.#heap = memory.heap;
    this.#numSymbols = numSymbols;
  }

  /**
   * Merges for a number of steps, each of which looks at one symbol or one pair.
   * @returns whether the word is merged
   */
  run(maxSteps: number): boolean {
    let steps = 0;
    for (; this.#numLinked < this.#numSymbols; steps++) {
      if (steps === maxSteps) return false;
      const at = this.#numLinked++;
      this.#previous[at] = at - 1;
      this.#next[at] = this.#numLinked < this.#numSymbols ? this.#numLinked : -1;
      this.#offer(at);
    }
    for (; this.#heapSize > 0; steps++) {
      if (steps === maxSteps) return false;
      const key = this.#pop();
      const at = key % POSITION_LIMIT;
      const rank = (key - at) / POSITION_LIMIT;
      // An entry whose pair has changed since is out of date.
      if (this.#rankAt(at) === rank) this.#merge(at, rank);
    }
    return true;
  }

  /** Passes at most `maxSymbols` symbols from `from` on to `callback`. @returns where to continue, -1 at the end */
  forEach(from: number, maxSymbols: number, callback: (symbol: number) => void): number {
    let at = from;
    for (let count = 0; at >= 0 && count < maxSymbols; count++) {
      callback(this.#symbols[at] ?? -1);
      at = this.#next[at] ?? -1;
    }
    return at;
  }

  #merge(at: number, rank: number): void {
    const right = this.#next[at] ?? -1;
    const after = this.#next[right] ?? -1;
    this.#symbols[at] = this.#table.mergedAt(rank);
    this.#next[at] = after;
    this.#next[right] = -2;
    if (after >= 0) this.#previous[after] = at;
    const before = this.#previous[at] ?? -1;
    if (before >= 0) this.#offer(before);
    this.#offer(at);
  }

  #rankAt(at: number): number {
    const right = this.#next[at] ?? -1;
    return right < 0 ? -1 : this.#table.rank(this.#symbols[at] ?? -1, this.#symbols[right] ?? -1);
  }

  #offer(at: number): void {
    const rank = this.#rankAt(at);
    if (rank >= 0) this.#push(rank * POSITION_LIMIT + at);
  }

  #push(key: number): void {
    const heap = this.#heap;
    let at = this.#heapSize++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent] ?? 0;
      if (above <= key) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = key;
  }

  #pop(): number {
    const heap = this.#heap;
    const top = heap[0] ?? 0;
    const length = --this.#heapSize;
    const last = heap[length] ?? 0;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= length) break;
      if (child + 1 < length && (heap[child + 1] ?? 0) < (heap[child] ?? 0)) child++;
      const least = heap[child] ?? 0;
      if (least >= last) break;
      heap[at] = least;
      at = child;
    }
    heap[at] = last;
    return top;
  }
}
