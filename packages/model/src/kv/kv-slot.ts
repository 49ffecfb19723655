import type { KvSlot } from "./kv-memory.ts";

export type KvArenaName = "short" | "long";

/** One sequence's place in a `KvPool`. `arena` and `index` may change whenever the pool makes room or compacts. */
export interface ArenaSlot extends KvSlot {
  readonly arena: KvArenaName;
  /** Which slot of its arena; -1 once released. */
  readonly index: number;
}

/** The pool's side of a handle. */
export interface PooledSlot {
  arena: KvArenaName;
  index: number;
  numTokens: number;
  reservedTokens: number;
}

/** Creates a handle that no arena knows yet. */
export function unplacedSlot(): PooledSlot {
  return { arena: "short", index: -1, numTokens: 0, reservedTokens: 0 };
}

/** Whether some memory's slot is an arena's. */
export function isArenaSlot(slot: KvSlot): slot is ArenaSlot {
  return "arena" in slot && "index" in slot;
}

/** Describes a slot in a message. */
export function describeSlot(slot: KvSlot): string {
  const place = isArenaSlot(slot) ? `slot ${slot.index} of the ${slot.arena} arena` : "a slot of another memory";
  return `${place} (${slot.numTokens} tokens, room for ${slot.reservedTokens})`;
}
