// What a KV pool holds, kept the plainest way: an array of numbers per token. Knows nothing of places in memory.

import type { KvShape } from "@readme-moe/model";
import { expect } from "vitest";
import type { KvPool } from "../../../packages/model/src/kv/kv-pool.ts";
import type { ArenaSlot, KvArenaName } from "../../../packages/model/src/kv/kv-slot.ts";

export interface PlainSequence {
  readonly slot: ArenaSlot;
  isLong: boolean;
  reservedTokens: number;
  /** Of each position, `[2 * numLayers, numKvHeads, headSize]`. */
  readonly tokens: Float32Array[];
}

export class PlainKvPool {
  readonly sequences: PlainSequence[] = [];
  readonly #capacityTokens: number;
  readonly #longFromTokens: number;

  constructor(capacityTokens: number, longFromTokens: number) {
    this.#capacityTokens = capacityTokens;
    this.#longFromTokens = longFromTokens;
  }

  /** Whether there is room for `numTokens` of `sequence`, or of a new one, when all others are packed as they can be. */
  hasRoom(sequence: PlainSequence | undefined, numTokens: number): boolean {
    const sizes: Record<KvArenaName, number[]> = { short: [], long: [] };
    const place = (isLong: boolean, reserved: number): unknown =>
      sizes[isLong || reserved >= this.#longFromTokens ? "long" : "short"].push(Math.ceil(reserved / 64) * 64);
    for (const other of this.sequences) if (other !== sequence) place(other.isLong, other.reservedTokens);
    place(sequence?.isLong ?? false, Math.max(numTokens, sequence?.reservedTokens ?? 0));
    const padded = [sizes.short, sizes.long].map((arena) => arena.length * Math.max(0, ...arena));
    return (padded[0] as number) + (padded[1] as number) <= this.#capacityTokens;
  }

  add(slot: ArenaSlot, numTokens: number): void {
    const sequence = { slot, isLong: false, reservedTokens: 0, tokens: [] };
    this.sequences.push(sequence);
    this.reserve(sequence, numTokens);
  }

  reserve(sequence: PlainSequence, numTokens: number): void {
    sequence.reservedTokens = Math.max(sequence.reservedTokens, numTokens);
    sequence.isLong ||= sequence.reservedTokens >= this.#longFromTokens;
  }

  remove(sequence: PlainSequence): void {
    this.sequences.splice(this.sequences.indexOf(sequence), 1);
  }
}

/** `[2 * numLayers, numKvHeads, to - from, headSize]` of positions `[from, to)`. */
export function plainBlock({ tokens }: PlainSequence, from: number, to: number, shape: KvShape): Float32Array {
  const { numLayers, numKvHeads, headSize } = shape;
  const block: number[] = [];
  for (let head = 0; head < 2 * numLayers * numKvHeads; head++) {
    for (const token of tokens.slice(from, to)) block.push(...token.subarray(head * headSize, (head + 1) * headSize));
  }
  return Float32Array.from(block);
}

/** Compares every slot's books and every float, through views and through `readBlock`. */
export function expectSameContents(pool: KvPool, plain: PlainKvPool): void {
  pool.checkIntegrity();
  const { numLayers } = pool.shape;
  for (const arena of ["short", "long"] as const) {
    const members = plain.sequences.filter(({ isLong }) => isLong === (arena === "long"));
    for (const { slot, reservedTokens, tokens } of members) {
      const { numTokens } = slot;
      expect({ arena: slot.arena, numTokens, reservedTokens: slot.reservedTokens }).toEqual({
        arena,
        numTokens: tokens.length,
        reservedTokens,
      });
    }
    const range = pool.range(members.map(({ slot }) => slot));
    for (let layer = 0; layer < numLayers; layer++) {
      const { keys, values } = pool.view(range, layer);
      for (const [index, sequence] of members.entries()) {
        const row = range.rows[index] as number;
        const wrong = [
          ...differences(keys, range.dims, row, 2 * layer, sequence),
          ...differences(values, range.dims, row, 2 * layer + 1, sequence),
        ];
        expect(wrong, `${arena} slot ${sequence.slot.index}, layer ${layer}`).toEqual([]);
      }
    }
  }
  for (const sequence of plain.sequences) {
    const read = pool.readBlock(sequence.slot, 0, sequence.tokens.length);
    const known = plainBlock(sequence, 0, sequence.tokens.length, pool.shape);
    expect(Buffer.from(read.buffer).equals(Buffer.from(known.buffer)), "readBlock").toBe(true);
  }
}

/** Positions at which a row of a batch is not what the sequence has. */
function differences(
  batch: Float32Array,
  dims: readonly number[],
  row: number,
  part: number,
  { tokens }: PlainSequence,
): readonly number[] {
  const [, numKvHeads, , slotTokens, headSize] = dims as [number, number, number, number, number];
  const wrong: number[] = [];
  for (const [position, token] of tokens.entries()) {
    for (let head = 0; head < numKvHeads; head++) {
      for (let i = 0; i < headSize; i++) {
        const is = batch[((row * numKvHeads + head) * slotTokens + position) * headSize + i];
        if (is !== token[(part * numKvHeads + head) * headSize + i]) wrong.push(position);
      }
    }
  }
  return wrong;
}
