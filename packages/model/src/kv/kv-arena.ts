// Bookkeeping of one arena: slots of equal size, side by side. Values, not objects that change: a plan that turns out
// not to fit is simply dropped.

import { wholeBlocks } from "./kv-shape.ts";
import type { KvArenaName, PooledSlot } from "./kv-slot.ts";

export interface KvArena {
  readonly name: KvArenaName;
  /** Positions of every slot, a multiple of `KV_BLOCK_TOKENS`; 0 when the arena is empty. */
  readonly slotTokens: number;
  /** By index, `undefined` where free. The last one is never free. */
  readonly slots: readonly (PooledSlot | undefined)[];
}

/** How much of a slot must keep its place. */
export type SlotNeed = (slot: PooledSlot) => number;

export function emptyArena(name: KvArenaName): KvArena {
  return { name, slotTokens: 0, slots: [] };
}

/** Positions that the arena takes of the pool, free slots and padding included. */
export function paddedTokens({ slotTokens, slots }: KvArena): number {
  return slotTokens * slots.length;
}

/** Whether the arena holds this very handle. */
export function holdsSlot(
  { name, slots }: KvArena,
  slot: { readonly arena: KvArenaName; readonly index: number },
): boolean {
  return slot.arena === name && slots[slot.index] === slot;
}

/** Puts `slot` on the lowest free index. */
export function withSlot(arena: KvArena, slot: PooledSlot): KvArena {
  const free = lowestFree(arena.slots);
  return { ...arena, slots: arena.slots.toSpliced(free, 1, slot) };
}

/** Frees `slot`; an arena that it leaves empty forgets its slot size, which costs nothing then. */
export function withoutSlot(arena: KvArena, slot: PooledSlot): KvArena {
  const slots = arena.slots.with(slot.index, undefined);
  while (slots.length > 0 && slots.at(-1) === undefined) slots.pop();
  return slots.length === 0 ? emptyArena(arena.name) : { ...arena, slots };
}

/** The smallest slot size that every slot's need fits in. */
export function tightSlotTokens({ slots }: KvArena, need: SlotNeed): number {
  let most = 0;
  for (const slot of slots) if (slot) most = Math.max(most, need(slot));
  return wholeBlocks(most);
}

export function withSlotTokens(arena: KvArena, slotTokens: number): KvArena {
  return { ...arena, slotTokens };
}

/**
 * Moves the last slot to the lowest free index, again and again while there is one.
 *
 * @param mayMove - asked once per move; the first `false` ends it, for only the last slot's move makes the arena smaller
 */
export function closeGaps(arena: KvArena, mayMove: (slot: PooledSlot) => boolean = () => true): KvArena {
  const slots = [...arena.slots];
  for (let free = lowestFree(slots); free < slots.length; free = lowestFree(slots)) {
    const last = slots.at(-1);
    if (!last || !mayMove(last)) break;
    slots[free] = last;
    slots.pop();
    while (slots.at(-1) === undefined) slots.pop();
  }
  return { ...arena, slots };
}

/** The number of slots when none is free. */
function lowestFree(slots: KvArena["slots"]): number {
  const free = slots.indexOf(undefined);
  return free === -1 ? slots.length : free;
}
