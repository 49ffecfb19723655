// Where every sequence is, and where it should go so that there is room. Pure: nothing here touches the memory.

import { KV_BLOCK_TOKENS } from "./kv-shape.ts";
import {
  closeGaps,
  emptyArena,
  holdsSlot,
  paddedTokens,
  tightSlotTokens,
  withoutSlot,
  withSlot,
  withSlotTokens,
  type KvArena,
  type SlotNeed,
} from "./kv-arena.ts";
import { describeSlot, type PooledSlot } from "./kv-slot.ts";

/**
 * The two arenas that share the pool's positions. Slot i of `short` starts at `i · slotTokens`; slot i of `long` ends at
 * `capacityTokens - i · slotTokens`, so the long arena's order in memory is that of descending indices.
 */
export interface KvLayout {
  readonly capacityTokens: number;
  readonly short: KvArena;
  readonly long: KvArena;
}

export function emptyLayout(capacityTokens: number): KvLayout {
  return { capacityTokens, short: emptyArena("short"), long: emptyArena("long") };
}

/** First position of a slot in the pool's memory. */
export function slotStart({ capacityTokens }: KvLayout, { name, slotTokens }: KvArena, index: number): number {
  return name === "short" ? index * slotTokens : capacityTokens - (index + 1) * slotTokens;
}

export function usedTokens({ short, long }: KvLayout): number {
  return paddedTokens(short) + paddedTokens(long);
}

/**
 * A layout in which every slot of `demands` has room for its number of tokens and all others keep what they have
 * reserved, or `undefined` when there is none.
 *
 * Slots that reach `longFromTokens` go to the long arena; none comes back. Slots only grow, as long as that fits.
 * What does not fit otherwise is tried with arenas tightened to their longest sequence and with gaps closed; of those
 * that fit, the one that copies least is taken.
 */
export function planRoom(
  layout: KvLayout,
  demands: ReadonlyMap<PooledSlot, number>,
  longFromTokens: number,
): KvLayout | undefined {
  const need: SlotNeed = (slot) => Math.max(slot.reservedTokens, demands.get(slot) ?? 0);
  let { short, long } = layout;
  for (const slot of demands.keys()) {
    const isLong = need(slot) >= longFromTokens;
    if (holdsSlot(long, slot) || (holdsSlot(short, slot) && !isLong)) continue;
    if (holdsSlot(short, slot)) short = withoutSlot(short, slot);
    if (isLong) long = withSlot(long, slot);
    else short = withSlot(short, slot);
  }
  const fits = (plan: KvLayout): boolean => usedTokens(plan) <= layout.capacityTokens;
  const plain = { ...layout, short: grown(short, need), long: grown(long, need) };
  if (fits(plain)) return plain;
  return smallerForms(short, need)
    .flatMap((a) => smallerForms(long, need).map((b) => ({ ...layout, short: a, long: b })))
    .filter(fits)
    .map((plan) => ({ plan, copied: copiedTokens(layout, plan) }))
    .toSorted((a, b) => a.copied - b.copied)[0]?.plan;
}

/** Positions that have to be copied to get from one layout to another. */
function copiedTokens(from: KvLayout, to: KvLayout): number {
  let copied = 0;
  for (const arena of [to.short, to.long]) {
    arena.slots.forEach((slot, index) => {
      if (!slot) return;
      const old = from[slot.arena];
      const stays =
        old.slotTokens === arena.slotTokens && slotStart(from, old, slot.index) === slotStart(to, arena, index);
      if (!stays) copied += slot.numTokens;
    });
  }
  return copied;
}

function grown(arena: KvArena, need: SlotNeed): KvArena {
  return withSlotTokens(arena, Math.max(arena.slotTokens, tightSlotTokens(arena, need)));
}

function smallerForms(arena: KvArena, need: SlotNeed): readonly KvArena[] {
  const forms = [grown(arena, need), withSlotTokens(arena, tightSlotTokens(arena, need))];
  return [...forms, ...forms.map((form) => closeGaps(form))];
}

/** @throws {Error} with the numbers, when what must always hold does not */
export function checkLayout(layout: KvLayout): void {
  for (const arena of [layout.short, layout.long]) {
    const { name, slotTokens, slots } = arena;
    if (slotTokens % KV_BLOCK_TOKENS !== 0) fail(`slots of the ${name} arena have ${slotTokens} positions`);
    if ((slots.length === 0) !== (slotTokens === 0)) fail(`${slots.length} ${name} slots of ${slotTokens} positions`);
    if (slots.length > 0 && slots.at(-1) === undefined) fail(`the last of ${slots.length} ${name} slots is free`);
    slots.forEach((slot, index) => {
      if (!slot) return;
      const where = `at ${index} of the ${name} arena, with ${slotTokens} positions, is ${describeSlot(slot)}`;
      if (!holdsSlot(arena, slot) || slot.index !== index) fail(where);
      if (slot.numTokens < 0 || slot.numTokens > slot.reservedTokens || slot.reservedTokens > slotTokens) fail(where);
    });
  }
  const used = usedTokens(layout);
  if (used > layout.capacityTokens) fail(`${used} of ${layout.capacityTokens} positions are in use`);
}

function fail(what: string): never {
  throw new Error(`The KV pool is broken: ${what}`);
}
