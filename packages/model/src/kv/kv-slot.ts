export type KvArenaName = "short" | "long";

/**
 * One sequence's place in a `KvPool`: a handle that stays the same object while the pool moves the sequence.
 *
 * Only the pool changes it. `arena` and `index` may change whenever the pool makes room or compacts.
 */
export interface KvSlot {
  readonly arena: KvArenaName;
  /** Which slot of its arena; -1 once released. */
  readonly index: number;
  /** Positions `[0, numTokens)` are filled. */
  readonly numTokens: number;
  /** Positions `[0, reservedTokens)` have room, whatever happens to other sequences. */
  readonly reservedTokens: number;
}

/** The pool's side of a handle. */
export interface PooledSlot {
  arena: KvArenaName;
  index: number;
  numTokens: number;
  reservedTokens: number;
}

/** A handle that no arena knows yet. */
export function unplacedSlot(): PooledSlot {
  return { arena: "short", index: -1, numTokens: 0, reservedTokens: 0 };
}

/** What to show of a slot in a message. */
export function describeSlot({ arena, index, numTokens, reservedTokens }: KvSlot): string {
  return `slot ${index} of the ${arena} arena (${numTokens} tokens, room for ${reservedTokens})`;
}
