/**
 * A sequence's place in the KV memory that admitted it. The handle stays the same object for the sequence's whole life.
 *
 * Only the memory and the runner that opened it change a slot.
 */
export interface KvSlot {
  /** Number of filled positions: `[0, numTokens)`. */
  readonly numTokens: number;
  /** Number of positions with room: `[0, reservedTokens)`, whatever happens to other sequences. */
  readonly reservedTokens: number;
}

/** Keys and values of some positions, kept beyond the sequence that computed them. A handle that only its memory can read. */
export interface KeptTokens {
  /** First of the positions, which other sequences must put them at. */
  readonly from: number;
  /** Number of positions. */
  readonly numTokens: number;
  /** Size of their keys and values in all layers. */
  readonly bytes: number;
}

/** Options of `StepRunner.openKv`. */
export interface KvMemoryOptions {
  /** Positions that running sequences may have, all together; a multiple of 64. */
  readonly capacityTokens: number;
  /** Size of what may be kept beyond running sequences, in bytes. @default 0 */
  readonly prefixBytes?: number | undefined;
}

/**
 * Keys and values of all running sequences of one model.
 *
 * Methods throw a `TypeError` on a slot or kept tokens that this memory does not hold.
 */
export interface KvMemory {
  readonly capacityTokens: number;
  /** Positions that slots take, padding included. */
  readonly usedTokens: number;
  /** Size of one position's keys and values in all layers. */
  readonly bytesPerToken: number;

  /**
   * Admits a sequence that begins with `prefix`.
   *
   * @param numTokens - positions to reserve, those of `prefix` included
   * @param prefix - kept tokens of positions 0 and up, without a gap
   * @returns a slot with the prefix filled in; `undefined` when there is no room, and nothing has changed then
   */
  admit(numTokens: number, prefix?: readonly KeptTokens[]): KvSlot | undefined;

  /** Makes room for positions `[0, numTokens)`. @returns whether there is room; nothing has changed when there is none */
  reserve(slot: KvSlot, numTokens: number): boolean;

  /** Ends a slot and gives its memory back. */
  release(slot: KvSlot): void;

  /** Forgets the positions from `numTokens` on. Their room may be given back, so the next step needs `reserve` again. */
  truncate(slot: KvSlot, numTokens: number): void;

  /** Keeps filled positions `[from, to)` of a slot for other sequences, until `drop`. */
  keep(slot: KvSlot, from: number, to: number): KeptTokens;

  /** Gives kept tokens up; slots that were admitted with them are not affected. */
  drop(kept: KeptTokens): void;

  /** Gives all memory back; no slot is of use afterwards. */
  dispose(): void;

  /** Checks the bookkeeping. @throws {Error} with the numbers that do not agree */
  checkIntegrity(): void;
}
