/**
 * Handle of a sequence in the KV memory that admitted it. It stays the same object as long as the sequence lives.
 *
 * Only the memory and the runner that opened it change a slot.
 */
export interface KvSlot {
  /** Number of filled positions: `[0, numTokens)`. */
  readonly numTokens: number;
  /** Number of reserved positions: `[0, reservedTokens)`, independent of other sequences. */
  readonly reservedTokens: number;
}

/** Handle of some positions' keys and values that are kept after the sequence that computed them. */
export interface KeptTokens {
  /** First of the positions; other sequences must use the same one. */
  readonly from: number;
  /** Number of positions. */
  readonly numTokens: number;
  /** Size of their keys and values in all layers. */
  readonly bytes: number;
}

/** Options of `StepRunner.openKv`. */
export interface KvMemoryOptions {
  /** Largest number of positions of all running sequences together; a multiple of 64. */
  readonly capacityTokens: number;
  /** Largest size of kept tokens that no running sequence uses, in bytes. @default 0 */
  readonly prefixBytes?: number | undefined;
}

/**
 * Keys and values of all running sequences of one model.
 *
 * Methods throw a `TypeError` on a slot or kept tokens that this memory does not hold.
 */
export interface KvMemory {
  readonly capacityTokens: number;
  /** Number of positions that slots occupy, padding included. */
  readonly usedTokens: number;
  /** Size of one position's keys and values in all layers. */
  readonly bytesPerToken: number;

  /**
   * Admits a sequence that begins with `prefix`.
   *
   * @param numTokens - positions to reserve, those of `prefix` included
   * @param prefix - kept tokens of positions 0 and up, without a gap
   * @returns a slot that contains the prefix; `undefined`, without any change, when there is no room
   */
  admit(numTokens: number, prefix?: readonly KeptTokens[]): KvSlot | undefined;

  /** Reserves positions `[0, numTokens)`. @returns whether there is room; without room, nothing changes */
  reserve(slot: KvSlot, numTokens: number): boolean;

  /** Ends a slot and frees its memory. */
  release(slot: KvSlot): void;

  /** Drops the positions from `numTokens`. Their room may be freed, so the next step needs `reserve` again. */
  truncate(slot: KvSlot, numTokens: number): void;

  /** Keeps filled positions `[from, to)` of a slot for other sequences, until `drop`. */
  keep(slot: KvSlot, from: number, to: number): KeptTokens;

  /** Drops kept tokens. Slots that were admitted with them are not affected. */
  drop(kept: KeptTokens): void;

  /** Frees all memory. No slot may be used afterwards. */
  dispose(): void;

  /** Checks the accounting. @throws {Error} with the numbers that do not agree */
  checkIntegrity(): void;
}
