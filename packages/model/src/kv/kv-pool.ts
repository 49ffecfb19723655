// Keys and values of all running sequences, in memory that is allocated once.

import { integerOption } from "@readme-moe/core";
import { ArenaMemory } from "./arena-memory.ts";
import { closeGaps, holdsSlot, withoutSlot } from "./kv-arena.ts";
import { checkLayout, emptyLayout, planRoom, slotStart, usedTokens, type KvLayout } from "./kv-layout.ts";
import type { KeptTokens, KvMemory, KvSlot } from "./kv-memory.ts";
import { isNothing, planRelocation } from "./kv-relocation.ts";
import { KV_BLOCK_TOKENS, kvBytesPerToken, type KvShape } from "./kv-shape.ts";
import {
  describeSlot,
  isArenaSlot,
  unplacedSlot,
  type ArenaSlot,
  type KvArenaName,
  type PooledSlot,
} from "./kv-slot.ts";
import { prefixTokens } from "./prefix-tokens.ts";

/** Options of a `KvPool`: whose keys and values it holds, and how many positions of them. */
export interface KvPoolOptions {
  readonly shape: KvShape;
  /** Positions that there is memory for, a multiple of 64. */
  readonly capacityTokens: number;
  /** Sequences that reserve this many positions live apart, so that they do not widen the slots of others. @default 1024 */
  readonly longFromTokens?: number | undefined;
}

/** A range of slots of one arena, which is one array per layer. */
export interface KvRange {
  readonly arena: KvArenaName;
  /** Slots of the range, those between the asked ones included. */
  readonly numRows: number;
  /** Row of each asked slot. */
  readonly rows: readonly number[];
  /** Shape of a layer's keys or values: `[numRows, numKvHeads, 1, slotTokens, headSize]`. */
  readonly dims: readonly number[];
  /** Floats, within a layer's keys or values. */
  readonly start: number;
  readonly end: number;
}

/**
 * A pool of slots in two arenas, float32. Attention takes a batch's past as one array per layer, and copying it together
 * each step would cost as much as the step; so all slots of an arena are equally long and side by side, and any range of
 * them is such an array. When an arena's longest sequence outgrows its slots, all of them are widened in place, by 64
 * positions, which is about once in 64 steps. Memory starts at zero and stays finite. Room that is reserved stays so
 * until `release`. What is kept is a copy, outside the pool's positions.
 */
export class KvPool implements KvMemory {
  readonly capacityTokens: number;
  readonly #longFromTokens: number;
  readonly #memory: ArenaMemory;
  /** Blocks as `readBlock` gives them. */
  readonly #kept = new Map<KeptTokens, Float32Array>();
  #layout: KvLayout;
  #bytesMoved = 0;

  /** @throws {RangeError} when `capacityTokens` is no multiple of 64 */
  constructor({ shape, capacityTokens, longFromTokens = 1024 }: KvPoolOptions) {
    integerOption("capacityTokens", capacityTokens, KV_BLOCK_TOKENS);
    if (capacityTokens % KV_BLOCK_TOKENS !== 0) {
      const expectation = `a multiple of ${KV_BLOCK_TOKENS}`;
      throw new RangeError(`Expected \`capacityTokens\` to be ${expectation}, got \`${capacityTokens}\``);
    }
    this.capacityTokens = capacityTokens;
    this.#longFromTokens = integerOption("longFromTokens", longFromTokens, 1);
    this.#memory = new ArenaMemory(shape, capacityTokens);
    this.#layout = emptyLayout(capacityTokens);
  }

  get shape(): KvShape {
    return this.#memory.shape;
  }

  /** Positions in use, those of free slots and of padding included. */
  get usedTokens(): number {
    return usedTokens(this.#layout);
  }

  get bytesMoved(): number {
    return this.#bytesMoved;
  }

  get bytesPerToken(): number {
    return kvBytesPerToken(this.shape);
  }

  admit(numTokens: number, prefix: readonly KeptTokens[] = []): ArenaSlot | undefined {
    prefixTokens(numTokens, prefix);
    const blocks = prefix.map((kept) => this.#blockOf(kept));
    const slot = unplacedSlot();
    if (!this.#makeRoom(new Map([[slot, numTokens]]))) return undefined;
    for (const block of blocks) this.writeBlock(slot, slot.numTokens, block);
    return slot;
  }

  reserve(slot: KvSlot, numTokens: number): boolean {
    const own = this.#own(slot);
    integerOption("numTokens", numTokens, 1);
    return numTokens <= own.reservedTokens || this.#makeRoom(new Map([[own, numTokens]]));
  }

  release(slot: KvSlot): void {
    const own = this.#own(slot);
    const arena = withoutSlot(this.#layout[own.arena], own);
    this.#layout = { ...this.#layout, [own.arena]: arena };
    own.index = -1;
  }

  truncate(slot: KvSlot, numTokens: number): void {
    const own = this.#own(slot);
    own.numTokens = integerOption("numTokens", numTokens, 0, own.numTokens);
  }

  /**
   * Appends tokens `[from, to)` of a step; there must be room reserved for them.
   * @param stepKeysValues - the graph's `new_keys_values`, `[stepTokens, 2 * numLayers, numKvHeads * headSize]`
   */
  append(slot: KvSlot, stepKeysValues: Float32Array, from: number, to: number): void {
    const own = this.#own(slot);
    // Beyond its end a step would give NaN, which from then on every sequence with this memory in its range would meet.
    const tokenFloats = this.bytesPerToken / Float32Array.BYTES_PER_ELEMENT;
    integerOption("to", to, integerOption("from", from, 0), Math.floor(stepKeysValues.length / tokenFloats));
    const end = own.numTokens + to - from;
    if (end > own.reservedTokens) {
      throw new RangeError(`Expected room for ${end} tokens, got ${describeSlot(own)}`);
    }
    const positions = { from: own.numTokens, to: end };
    this.#memory.writeStep(this.#placeOf(own), positions, stepKeysValues, from * tokenFloats);
    own.numTokens = end;
  }

  /** The smallest range that holds these slots, which must be of one arena; rows are in memory order. */
  range(slots: readonly KvSlot[]): KvRange {
    const { numKvHeads, headSize } = this.shape;
    const owned = slots.map((slot) => this.#own(slot));
    const [first] = owned;
    const arena = this.#layout[first?.arena ?? "short"];
    if (owned.some((slot) => slot.arena !== arena.name)) throw new TypeError("Expected `slots` of one arena");
    if (!first)
      return { arena: "short", numRows: 0, rows: [], dims: [0, numKvHeads, 1, 0, headSize], start: 0, end: 0 };
    const indices = owned.map(({ index }) => index);
    const [low, high] = [Math.min(...indices), Math.max(...indices)];
    const numRows = high - low + 1;
    const slotFloats = arena.slotTokens * numKvHeads * headSize;
    const start = slotStart(this.#layout, arena, arena.name === "short" ? low : high) * numKvHeads * headSize;
    return {
      arena: arena.name,
      numRows,
      rows: indices.map((index) => (arena.name === "short" ? index - low : high - index)),
      dims: [numRows, numKvHeads, 1, arena.slotTokens, headSize],
      start,
      end: start + numRows * slotFloats,
    };
  }

  /** Items by the place of their slots, all of one arena, in memory. */
  inMemoryOrder<Item>(items: readonly Item[], slotOf: (item: Item) => KvSlot): readonly Item[] {
    return items.toSorted(
      (a, b) => this.#placeOf(this.#own(slotOf(a))).base - this.#placeOf(this.#own(slotOf(b))).base,
    );
  }

  /** A range's keys and values of one layer, in place; valid until the pool makes room or closes gaps. */
  view(
    { start, end }: Pick<KvRange, "start" | "end">,
    layer: number,
  ): { readonly keys: Float32Array; readonly values: Float32Array } {
    return this.#memory.view(layer, start, end);
  }

  /** Narrows a slot of this pool. @throws {TypeError} for any other */
  arenaSlot(slot: KvSlot): ArenaSlot {
    return this.#own(slot);
  }

  /** A copy of positions `[from, to)`, `[2 * numLayers, numKvHeads, to - from, headSize]`, keys before values. */
  readBlock(slot: KvSlot, from: number, to: number): Float32Array {
    const own = this.#own(slot);
    integerOption("to", to, integerOption("from", from, 0), own.numTokens);
    return this.#memory.readBlock(this.#placeOf(own), { from, to });
  }

  /** Writes what `readBlock` gave to positions from `from` on, which must be where the sequence ends. */
  writeBlock(slot: KvSlot, from: number, block: Float32Array): void {
    const own = this.#own(slot);
    const numTokens = integerOption("block tokens", block.byteLength / this.bytesPerToken, 0);
    integerOption("from", from, own.numTokens, own.numTokens);
    const to = integerOption("end of the block", from + numTokens, from, own.reservedTokens);
    this.#memory.writeBlock(this.#placeOf(own), { from, to }, block);
    own.numTokens = to;
  }

  keep(slot: KvSlot, from: number, to: number): KeptTokens {
    const block = this.readBlock(slot, from, to);
    const kept = { from, numTokens: to - from, bytes: block.byteLength };
    this.#kept.set(kept, block);
    return kept;
  }

  drop(kept: KeptTokens): void {
    this.#blockOf(kept);
    this.#kept.delete(kept);
  }

  compact(): number {
    const { short, long } = this.#layout;
    if (!short.slots.includes(undefined) && !long.slots.includes(undefined)) return 0;
    const before = this.#bytesMoved;
    this.#moveTo({ ...this.#layout, short: closeGaps(short), long: closeGaps(long) });
    return this.#bytesMoved - before;
  }

  dispose(): void {
    // Arrays are collected.
  }

  checkIntegrity(): void {
    checkLayout(this.#layout);
  }

  #makeRoom(demands: ReadonlyMap<PooledSlot, number>): boolean {
    const plan = planRoom(this.#layout, demands, this.#longFromTokens);
    if (!plan) return false;
    this.#moveTo(plan);
    for (const [slot, numTokens] of demands) slot.reservedTokens = Math.max(slot.reservedTokens, numTokens);
    return true;
  }

  #moveTo(layout: KvLayout): void {
    const relocation = planRelocation(this.#layout, layout, this.shape);
    if (!isNothing(relocation)) this.#bytesMoved += this.#memory.relocate(relocation);
    this.#layout = layout;
    for (const arena of [layout.short, layout.long]) {
      arena.slots.forEach((slot, index) => {
        if (slot) [slot.arena, slot.index] = [arena.name, index];
      });
    }
  }

  #placeOf(slot: PooledSlot): { readonly base: number; readonly slotTokens: number } {
    const { numKvHeads, headSize } = this.shape;
    const arena = this.#layout[slot.arena];
    return { base: slotStart(this.#layout, arena, slot.index) * numKvHeads * headSize, slotTokens: arena.slotTokens };
  }

  #own(slot: KvSlot): PooledSlot {
    if (isArenaSlot(slot) && holdsSlot(this.#layout[slot.arena], slot)) return slot;
    throw new TypeError(`Expected \`slot\` to be held by this pool, got ${describeSlot(slot)}`);
  }

  #blockOf(kept: KeptTokens): Float32Array {
    const block = this.#kept.get(kept);
    if (block) return block;
    throw new TypeError(
      `Expected \`kept\` to be kept by this pool, got ${kept.numTokens} tokens of another or dropped`,
    );
  }
}
