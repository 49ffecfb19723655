// How to get from one layout to another within the same memory, without a second copy of it.

import type { KvShape } from "./kv-shape.ts";
import { slotStart, type KvLayout } from "./kv-layout.ts";

/** `length` floats from `source` to `target`, all offsets within one layer's keys or values. */
interface Copy {
  readonly source: number;
  readonly target: number;
  readonly length: number;
}

/** What to copy in each layer's keys and in its values, in this order. */
export interface Relocation {
  /** Into a scratch array, before anything is overwritten. */
  readonly save: readonly Copy[];
  /** Within the array; source and target may overlap. */
  readonly moves: readonly Copy[];
  /** From the scratch array. */
  readonly restore: readonly Copy[];
  readonly scratchLength: number;
}

/**
 * Copies the filled positions of every slot that has another place or size in `to`.
 *
 * Slots that keep arena and index keep their order in memory, however both arenas grow or shrink. Such chunks can move
 * in place: first those that go down, lowest first, then those that go up, highest first; then each one's target holds
 * nothing that is still to be read. A slot that changes arena or index is copied before them where its target was
 * free, and goes through the scratch array otherwise.
 */
export function planRelocation(from: KvLayout, to: KvLayout, { numKvHeads, headSize }: KvShape): Relocation {
  const inOrder: Copy[] = [];
  const direct: Copy[] = [];
  const save: Copy[] = [];
  const restore: Copy[] = [];
  let scratchLength = 0;
  for (const arena of [to.short, to.long]) {
    arena.slots.forEach((slot, index) => {
      if (!slot || slot.numTokens === 0) return;
      const old = from[slot.arena];
      const oldStart = slotStart(from, old, slot.index);
      const start = slotStart(to, arena, index);
      const length = slot.numTokens * headSize;
      const keepsOrder = old.name === arena.name && slot.index === index;
      const goesDirectly = !keepsOrder && wasFree(from, start, start + arena.slotTokens);
      for (let head = 0; head < numKvHeads; head++) {
        const source = (oldStart * numKvHeads + head * old.slotTokens) * headSize;
        const target = (start * numKvHeads + head * arena.slotTokens) * headSize;
        if (source === target && old.slotTokens === arena.slotTokens) continue;
        if (keepsOrder) inOrder.push({ source, target, length });
        else if (goesDirectly) direct.push({ source, target, length });
        else {
          save.push({ source, target: scratchLength, length });
          restore.push({ source: scratchLength, target, length });
          scratchLength += length;
        }
      }
    });
  }
  inOrder.sort((a, b) => a.source - b.source);
  const down = inOrder.filter(({ source, target }) => target < source);
  const up = inOrder.filter(({ source, target }) => target > source).toReversed();
  return { save, moves: [...direct, ...down, ...up], restore, scratchLength };
}

/** Whether no sequence has its slot in positions `[start, end)`. */
function wasFree(layout: KvLayout, start: number, end: number): boolean {
  return [layout.short, layout.long].every((arena) =>
    arena.slots.every((slot, index) => {
      const first = slotStart(layout, arena, index);
      return !slot || first >= end || first + arena.slotTokens <= start;
    }),
  );
}

/** Whether there is nothing to copy. */
export function isNothing({ moves, save }: Relocation): boolean {
  return moves.length === 0 && save.length === 0;
}
