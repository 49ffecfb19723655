// Keys and values of all running sequences, in memory that is allocated once.

import { integerOption, ReadMeError } from "@readme-moe/core";
import { KV_BLOCK_TOKENS, kvBytesPerToken, type KvShape } from "./kv-shape.ts";
import { closeGaps, holdsSlot, withoutSlot } from "./kv-arena.ts";
import { checkLayout, emptyLayout, planRoom, slotStart, usedTokens, type KvLayout } from "./kv-layout.ts";
import { isNothing, planRelocation } from "./kv-relocation.ts";
import { describeSlot, unplacedSlot, type KvArenaName, type KvSlot, type PooledSlot } from "./kv-slot.ts";

/** Of a `KvPool`: whose keys and values it holds, and how many positions of them. */
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
  /** Of a layer's keys or values: `[numRows, numKvHeads, 1, slotTokens, headSize]`. */
  readonly dims: readonly number[];
  /** Floats, within a layer's keys or values. */
  readonly start: number;
  readonly end: number;
}

/**
 * A pool of slots in two arenas. Attention takes a batch's past as one array per layer, and copying it together each
 * step would cost as much as the step; so all slots of an arena are equally long and side by side, and any range of
 * them is such an array. When an arena's longest sequence outgrows its slots, all of them are widened in place, by 64
 * positions, which is about once in 64 steps. Memory starts at zero and stays finite.
 */
export class KvPool {
  readonly shape: KvShape;
  readonly capacityTokens: number;
  readonly #longFromTokens: number;
  /** Of each layer, `[capacityTokens · numKvHeads · headSize]`. */
  readonly #keys: readonly Float32Array[];
  readonly #values: readonly Float32Array[];
  #layout: KvLayout;
  #bytesMoved = 0;

  /** @throws {RangeError} when `capacityTokens` is no multiple of 64 */
  constructor({ shape, capacityTokens, longFromTokens = 1024 }: KvPoolOptions) {
    integerOption("capacityTokens", capacityTokens, KV_BLOCK_TOKENS);
    if (capacityTokens % KV_BLOCK_TOKENS !== 0) {
      const expectation = `a multiple of ${KV_BLOCK_TOKENS}`;
      throw new RangeError(`Expected \`capacityTokens\` to be ${expectation}, got \`${capacityTokens}\``);
    }
    this.shape = shape;
    this.capacityTokens = capacityTokens;
    this.#longFromTokens = integerOption("longFromTokens", longFromTokens, 1);
    const slab = (): readonly Float32Array[] =>
      Array.from({ length: shape.numLayers }, () => allocate(capacityTokens * shape.numKvHeads * shape.headSize));
    this.#keys = slab();
    this.#values = slab();
    this.#layout = emptyLayout(capacityTokens);
  }

  /** Positions in use, those of free slots and of padding included. */
  get usedTokens(): number {
    return usedTokens(this.#layout);
  }

  /** Copied so far to make room and to close gaps. */
  get bytesMoved(): number {
    return this.#bytesMoved;
  }

  get bytesPerToken(): number {
    return kvBytesPerToken(this.shape);
  }

  /** A slot with room for `numTokens` positions, or `undefined` when there is none. */
  admit(numTokens: number): KvSlot | undefined {
    integerOption("numTokens", numTokens, 1);
    const slot = unplacedSlot();
    return this.#makeRoom(new Map([[slot, numTokens]])) ? slot : undefined;
  }

  /** Makes room for positions `[0, numTokens)`. @returns whether there is; nothing has changed when there is not */
  reserve(slot: KvSlot, numTokens: number): boolean {
    const own = this.#own(slot);
    integerOption("numTokens", numTokens, 1);
    return numTokens <= own.reservedTokens || this.#makeRoom(new Map([[own, numTokens]]));
  }

  /** Gives the memory back; the handle is of no use any more. */
  release(slot: KvSlot): void {
    const own = this.#own(slot);
    const arena = withoutSlot(this.#layout[own.arena], own);
    this.#layout = { ...this.#layout, [own.arena]: arena };
    own.index = -1;
  }

  /** Forgets the positions from `numTokens` on. */
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
    const stepTokens = Math.floor((stepKeysValues.length * Float32Array.BYTES_PER_ELEMENT) / this.bytesPerToken);
    integerOption("to", to, integerOption("from", from, 0), stepTokens);
    const end = own.numTokens + to - from;
    if (end > own.reservedTokens) {
      throw new RangeError(`Expected room for ${end} tokens, got ${describeSlot(own)}`);
    }
    const { numLayers, numKvHeads, headSize } = this.shape;
    const { slotTokens } = this.#layout[own.arena];
    const base = this.#startOf(own);
    let source = from * 2 * numLayers * numKvHeads * headSize;
    for (let position = own.numTokens; position < end; position++) {
      for (let layer = 0; layer < numLayers; layer++) {
        for (const target of [this.#keys[layer] as Float32Array, this.#values[layer] as Float32Array]) {
          for (let head = 0; head < numKvHeads; head++) {
            const start = base + (head * slotTokens + position) * headSize;
            // Shorter than the call that would copy it.
            for (let i = 0; i < headSize; i++) target[start + i] = stepKeysValues[source + i] as number;
            source += headSize;
          }
        }
      }
    }
    own.numTokens = end;
  }

  /** The smallest range that holds these slots, which must be of one arena; rows are in memory order. */
  range(slots: readonly KvSlot[]): KvRange {
    const { numKvHeads, headSize } = this.shape;
    const [first] = slots;
    const arena = this.#layout[first?.arena ?? "short"];
    const indices = slots.map((slot) => this.#own(slot).index);
    if (slots.some((slot) => slot.arena !== arena.name)) throw new TypeError("Expected `slots` of one arena");
    if (!first)
      return { arena: "short", numRows: 0, rows: [], dims: [0, numKvHeads, 1, 0, headSize], start: 0, end: 0 };
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
    return items.toSorted((a, b) => this.#startOf(this.#own(slotOf(a))) - this.#startOf(this.#own(slotOf(b))));
  }

  /** A range's keys and values of one layer, in place; valid until the pool makes room or closes gaps. */
  view(
    { start, end }: Pick<KvRange, "start" | "end">,
    layer: number,
  ): { readonly keys: Float32Array; readonly values: Float32Array } {
    const [keys, values] = [this.#keys[layer], this.#values[layer]];
    if (!keys || !values) throw new RangeError(`Expected \`layer\` to be below ${this.#keys.length}, got \`${layer}\``);
    return { keys: keys.subarray(start, end), values: values.subarray(start, end) };
  }

  /** A copy of positions `[from, to)`, `[2 * numLayers, numKvHeads, to - from, headSize]`, keys before values. */
  readBlock(slot: KvSlot, from: number, to: number): Float32Array {
    const own = this.#own(slot);
    integerOption("to", to, integerOption("from", from, 0), own.numTokens);
    const { numLayers, numKvHeads, headSize } = this.shape;
    const block = new Float32Array(2 * numLayers * numKvHeads * (to - from) * headSize);
    this.#eachRun(own, from, to, (memory, start, length, offset) => {
      block.set(memory.subarray(start, start + length), offset);
    });
    return block;
  }

  /** Writes what `readBlock` gave to positions from `from` on, which must be where the sequence ends. */
  writeBlock(slot: KvSlot, from: number, block: Float32Array): void {
    const own = this.#own(slot);
    const { numLayers, numKvHeads, headSize } = this.shape;
    const numTokens = block.length / (2 * numLayers * numKvHeads * headSize);
    integerOption("block tokens", numTokens, 0);
    integerOption("from", from, own.numTokens, own.numTokens);
    integerOption("end of the block", from + numTokens, from, own.reservedTokens);
    this.#eachRun(own, from, from + numTokens, (memory, start, length, offset) => {
      memory.set(block.subarray(offset, offset + length), start);
    });
    own.numTokens = from + numTokens;
  }

  /** Moves last slots into gaps, so that those who run stand side by side. @returns the bytes that it copied */
  compact(): number {
    const { short, long } = this.#layout;
    if (!short.slots.includes(undefined) && !long.slots.includes(undefined)) return 0;
    const before = this.#bytesMoved;
    this.#moveTo({ ...this.#layout, short: closeGaps(short), long: closeGaps(long) });
    return this.#bytesMoved - before;
  }

  /** @throws {Error} with the numbers, when the books are wrong */
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
    if (!isNothing(relocation)) {
      const { save, moves, restore, scratchLength } = relocation;
      const scratch = new Float32Array(scratchLength);
      for (const memory of [...this.#keys, ...this.#values]) {
        for (const { source, target, length } of save) scratch.set(memory.subarray(source, source + length), target);
        for (const { source, target, length } of moves) memory.copyWithin(target, source, source + length);
        for (const { source, target, length } of restore) memory.set(scratch.subarray(source, source + length), target);
      }
      const floats = [...save, ...moves].reduce((sum, copy) => sum + copy.length, 0);
      this.#bytesMoved += floats * Float32Array.BYTES_PER_ELEMENT * 2 * this.shape.numLayers;
    }
    this.#layout = layout;
    for (const arena of [layout.short, layout.long]) {
      arena.slots.forEach((slot, index) => {
        if (slot) [slot.arena, slot.index] = [arena.name, index];
      });
    }
  }

  /** Calls `copy` with each contiguous run of floats of positions `[from, to)`, and its offset in a block. */
  #eachRun(
    slot: PooledSlot,
    from: number,
    to: number,
    copy: (memory: Float32Array, start: number, length: number, offset: number) => void,
  ): void {
    const { numLayers, numKvHeads, headSize } = this.shape;
    const { slotTokens } = this.#layout[slot.arena];
    const base = this.#startOf(slot);
    const length = (to - from) * headSize;
    let offset = 0;
    for (let layer = 0; layer < numLayers; layer++) {
      for (const memory of [this.#keys[layer] as Float32Array, this.#values[layer] as Float32Array]) {
        for (let head = 0; head < numKvHeads; head++, offset += length) {
          copy(memory, base + (head * slotTokens + from) * headSize, length, offset);
        }
      }
    }
  }

  /** First float of a slot, within a layer's keys or values. */
  #startOf(slot: PooledSlot): number {
    const { numKvHeads, headSize } = this.shape;
    return slotStart(this.#layout, this.#layout[slot.arena], slot.index) * numKvHeads * headSize;
  }

  #own(slot: KvSlot): PooledSlot {
    if (holdsSlot(this.#layout[slot.arena], slot)) return slot;
    throw new TypeError(`Expected \`slot\` to be held by this pool, got ${describeSlot(slot)}`);
  }
}

function allocate(length: number): Float32Array {
  try {
    return new Float32Array(length);
  } catch (cause) {
    const megabytes = Math.round((length * Float32Array.BYTES_PER_ELEMENT) / 1e6);
    throw new ReadMeError("ERR_RUNTIME", `${megabytes} MB of KV memory per layer cannot be had`, { cause });
  }
}
