import type { PairTable } from "./pair-table.ts";

// Positions in a word are below this (a string has fewer than 2 ** 29 characters), ranks below 2 ** 24.
const POSITION_LIMIT = 2 ** 29;

/** Memory that merging needs for words of up to a number of symbols. */
export interface MergeMemory {
  readonly symbols: Int32Array;
  readonly next: Int32Array;
  readonly previous: Int32Array;
  /** Of pairs that may merge: rank * POSITION_LIMIT + position of the left symbol. */
  readonly heap: Float64Array;
}

export function mergeMemory(numSymbols: number): MergeMemory {
  const array = (): Int32Array => new Int32Array(numSymbols);
  // A merge takes one pair and offers two; the system gives the memory when it is first written.
  return { symbols: array(), next: array(), previous: array(), heap: new Float64Array(2 * numSymbols) };
}

/**
 * Byte-pair encoding of one word, which can pause: merges the pair of the lowest rank, of equal ones the leftmost,
 * until none is left. Takes O(n log n) for a word of n symbols.
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

  /** @param memory - holds the word's symbols; its own until the merge is done */
  constructor(table: PairTable, memory: MergeMemory, numSymbols: number) {
    this.#table = table;
    this.#symbols = memory.symbols;
    this.#next = memory.next;
    this.#previous = memory.previous;
    this.#heap = memory.heap;
    this.#numSymbols = numSymbols;
  }

  /**
   * @param maxSteps - a step looks at one symbol or one pair
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

  /** Calls back with each symbol from `from` on, at most `maxSymbols` of them. @returns where to go on, -1 at the end */
  forEach(from: number, maxSymbols: number, callback: (symbol: number) => void): number {
    let at = from;
    for (let count = 0; at >= 0 && count < maxSymbols; count++) {
      callback(this.#symbols[at] as number);
      at = this.#next[at] as number;
    }
    return at;
  }

  #merge(at: number, rank: number): void {
    const right = this.#next[at] as number;
    const after = this.#next[right] as number;
    this.#symbols[at] = this.#table.mergedAt(rank);
    this.#next[at] = after;
    this.#next[right] = -2;
    if (after >= 0) this.#previous[after] = at;
    const before = this.#previous[at] as number;
    if (before >= 0) this.#offer(before);
    this.#offer(at);
  }

  #rankAt(at: number): number {
    const right = this.#next[at] as number;
    return right < 0 ? -1 : this.#table.rank(this.#symbols[at] as number, this.#symbols[right] as number);
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
      const above = heap[parent] as number;
      if (above <= key) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = key;
  }

  #pop(): number {
    const heap = this.#heap;
    const top = heap[0] as number;
    const length = --this.#heapSize;
    const last = heap[length] as number;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= length) break;
      if (child + 1 < length && (heap[child + 1] as number) < (heap[child] as number)) child++;
      if ((heap[child] as number) >= last) break;
      heap[at] = heap[child] as number;
      at = child;
    }
    heap[at] = last;
    return top;
  }
}
