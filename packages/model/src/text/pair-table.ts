/** Two symbols that merge, and the symbol that they make. */
export type SymbolPair = readonly [left: number, right: number, merged: number];

// Symbols are token ids and a few aliases, all below this.
const SYMBOL_LIMIT = 2 ** 26;

/** The merges of a BPE model by pair; the rank of a merge is its place in the list. */
export class PairTable {
  // An open hash table: a map of boxed numbers takes five times the memory.
  readonly #keys: Float64Array;
  readonly #ranks: Int32Array;
  readonly #merged: Int32Array;
  readonly #mask: number;
  readonly #excluded: ReadonlySet<number>;

  /** @param pairs - of a pair that comes twice, the last counts; or a table, to share its memory
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

  /** -1 where the two do not merge; symbols below 0 never do. */
  rank(left: number, right: number): number {
    if (left < 0 || right < 0) return -1;
    const slot = this.#slot(left, right);
    const rank = this.#keys[slot] === -1 ? -1 : (this.#ranks[slot] as number);
    return this.#excluded.size > 0 && rank >= 0 && this.#excluded.has(this.mergedAt(rank)) ? -1 : rank;
  }

  mergedAt(rank: number): number {
    return this.#merged[rank] as number;
  }

  /** The place of a pair, or the free one where it would be. */
  #slot(left: number, right: number): number {
    const key = left * SYMBOL_LIMIT + right;
    let hash = Math.imul(left, 0x9e37_79b1) ^ Math.imul(right, 0x85eb_ca6b);
    hash ^= hash >>> 15;
    let slot = hash & this.#mask;
    while (this.#keys[slot] !== key && this.#keys[slot] !== -1) slot = (slot + 1) & this.#mask;
    return slot;
  }
}
