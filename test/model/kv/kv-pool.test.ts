import type { KvShape } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { KvPool } from "../../../packages/model/src/kv/kv-pool.ts";
import type { ArenaSlot } from "../../../packages/model/src/kv/kv-slot.ts";

const SHAPE: KvShape = { numLayers: 2, numKvHeads: 2, headSize: 3 };
const TOKEN_SIZE = 2 * SHAPE.numLayers * SHAPE.numKvHeads * SHAPE.headSize;
const TOKEN_BYTES = TOKEN_SIZE * Float32Array.BYTES_PER_ELEMENT;

function newPool(numBlocks: number, longFromTokens = 1024): KvPool {
  return new KvPool({ shape: SHAPE, capacityTokens: numBlocks * 64, longFromTokens });
}

/** A slot with room for `reservedTokens`, of which `numTokens` are filled with `value`. */
function filled(pool: KvPool, reservedTokens: number, numTokens: number, value: number): ArenaSlot {
  const slot = pool.admit(reservedTokens) as ArenaSlot;
  pool.append(slot, new Float32Array(numTokens * TOKEN_SIZE).fill(value), 0, numTokens);
  return slot;
}

/** The value that all of a slot's floats have, when they are all the same. */
function valueOf(pool: KvPool, slot: ArenaSlot): number | undefined {
  const values = new Set(pool.readBlock(slot, 0, slot.numTokens));
  return values.size === 1 ? Array.from(values)[0] : undefined;
}

/** What must not change when something is refused. */
function books(pool: KvPool, slots: readonly ArenaSlot[]): unknown {
  const blocks = slots.map((slot) => pool.readBlock(slot, 0, slot.numTokens));
  return { used: pool.usedTokens, moved: pool.bytesMoved, slots: slots.map((slot) => ({ ...slot })), blocks };
}

describe("slots", () => {
  test("are as large as their arena's longest sequence, in blocks of 64", () => {
    const pool = newPool(16);
    const [a, b] = [pool.admit(10) as ArenaSlot, pool.admit(65) as ArenaSlot];
    expect(pool.usedTokens).toBe(2 * 128);
    expect(pool.range([a, b]).dims).toEqual([2, SHAPE.numKvHeads, 1, 128, SHAPE.headSize]);
    expect(a).toEqual({ arena: "short", index: 0, numTokens: 0, reservedTokens: 10 });
  });

  test("are given out from the lowest free index on", () => {
    const pool = newPool(16);
    const slots = Array.from({ length: 4 }, () => pool.admit(64) as ArenaSlot);
    pool.release(slots[2] as ArenaSlot);
    pool.release(slots[1] as ArenaSlot);
    expect([pool.admit(1)?.index, pool.admit(1)?.index, pool.admit(1)?.index]).toEqual([1, 2, 4]);
  });

  test("count up to the highest one in use", () => {
    const pool = newPool(16);
    const slots = Array.from({ length: 3 }, () => pool.admit(64) as ArenaSlot);
    pool.release(slots[1] as ArenaSlot);
    expect(pool.usedTokens).toBe(3 * 64);
    pool.release(slots[2] as ArenaSlot);
    expect(pool.usedTokens).toBe(64);
  });

  test("of long sequences are apart, and do not widen the others", () => {
    const pool = newPool(16, 200);
    const [short, long] = [pool.admit(199) as ArenaSlot, pool.admit(200) as ArenaSlot];
    expect([short.arena, long.arena]).toEqual(["short", "long"]);
    expect(pool.reserve(long, 500)).toBe(true);
    expect(pool.usedTokens).toBe(256 + 512);
  });

  test("go to the long arena when they get long, with their content, and stay there", () => {
    const pool = newPool(16, 200);
    const [a, b] = [filled(pool, 100, 90, 1), filled(pool, 100, 80, 2)];
    expect(pool.reserve(a, 200)).toBe(true);
    expect([a.arena, b.arena]).toEqual(["long", "short"]);
    expect([valueOf(pool, a), valueOf(pool, b)]).toEqual([1, 2]);
    pool.truncate(a, 10);
    expect(pool.reserve(a, 20)).toBe(true);
    expect(a.arena).toBe("long");
  });

  test("forget their size when their arena empties, at no cost", () => {
    const pool = newPool(16);
    pool.release(filled(pool, 300, 300, 1));
    expect([pool.usedTokens, pool.bytesMoved]).toEqual([0, 0]);
    pool.admit(1);
    expect(pool.usedTokens).toBe(64);
  });

  test("shrink after the longest has left only when something else does not fit otherwise", () => {
    const pool = newPool(8);
    const short = filled(pool, 60, 60, 1);
    const long = filled(pool, 240, 200, 2);
    pool.release(long);
    expect(pool.usedTokens).toBe(256);
    const { bytesMoved } = pool;
    expect(pool.admit(20)).toBeDefined();
    expect([pool.usedTokens, pool.bytesMoved]).toEqual([2 * 256, bytesMoved]);
    const third = pool.admit(100);
    expect(third).toBeDefined();
    expect(pool.usedTokens).toBe(3 * 128);
    expect(valueOf(pool, short)).toBe(1);
    expect(pool.bytesMoved).toBeGreaterThan(bytesMoved);
  });

  test("close gaps when something does not fit otherwise", () => {
    const pool = newPool(4);
    const [a, b, c] = [filled(pool, 64, 64, 1), filled(pool, 64, 64, 2), filled(pool, 64, 64, 3)];
    pool.release(a);
    expect(pool.reserve(b, 128)).toBe(true);
    expect(pool.usedTokens).toBe(2 * 128);
    expect([valueOf(pool, b), valueOf(pool, c)]).toEqual([2, 3]);
  });

  test("are made to fit in the way that copies least", () => {
    const pool = newPool(8, 100);
    const longest = filled(pool, 99, 99, 1);
    for (const [value, numTokens] of [60, 60, 5].entries()) filled(pool, 60, numTokens, value);
    pool.release(longest);
    const { bytesMoved } = pool;
    // Shrinking the short slots would do as well, but would copy all of them; closing the gap copies the last one.
    expect(pool.admit(128)?.arena).toBe("long");
    expect(pool.bytesMoved - bytesMoved).toBe(5 * TOKEN_BYTES);
  });
});

describe("what does not fit is refused, and changes nothing", () => {
  test("a new sequence", () => {
    const pool = newPool(4);
    const slots = [filled(pool, 64, 50, 1), filled(pool, 128, 100, 2)];
    const before = books(pool, slots);
    expect(pool.admit(1)).toBeUndefined();
    expect(pool.admit(10_000)).toBeUndefined();
    expect(books(pool, slots)).toEqual(before);
  });

  test("more room in the same arena", () => {
    const pool = newPool(4);
    const slots = [filled(pool, 64, 50, 1), filled(pool, 128, 100, 2)];
    const before = books(pool, slots);
    expect(pool.reserve(slots[1] as ArenaSlot, 129)).toBe(false);
    expect(books(pool, slots)).toEqual(before);
    expect(pool.reserve(slots[0] as ArenaSlot, 128)).toBe(true);
  });

  test("room in the long arena", () => {
    const pool = newPool(6, 128);
    const slots = [filled(pool, 64, 50, 1), filled(pool, 100, 100, 2), filled(pool, 64, 10, 3)];
    const before = books(pool, slots);
    expect(pool.reserve(slots[0] as ArenaSlot, 129)).toBe(false);
    expect(books(pool, slots)).toEqual(before);
  });
});

describe("a range", () => {
  test("is one array per layer in the pool's own memory, short slots ascending", () => {
    const pool = newPool(16);
    const slots = [1, 2, 3, 4].map((value) => filled(pool, 100, 100, value));
    const range = pool.range([slots[3] as ArenaSlot, slots[1] as ArenaSlot]);
    expect(range).toMatchObject({ arena: "short", numRows: 3, rows: [2, 0] });
    const slotFloats = 128 * SHAPE.numKvHeads * SHAPE.headSize;
    for (let layer = 0; layer < SHAPE.numLayers; layer++) {
      const { keys, values } = pool.view(range, layer);
      const whole = pool.view(pool.range(slots), layer);
      expect([keys.buffer === whole.keys.buffer, values.buffer === whole.values.buffer]).toEqual([true, true]);
      expect(keys.buffer).not.toBe(values.buffer);
      expect(keys.byteOffset).toBe(slotFloats * Float32Array.BYTES_PER_ELEMENT);
      expect([keys.length, values.length]).toEqual([3 * slotFloats, 3 * slotFloats]);
      // The second slot asked for is row 0; between them lies slot 2, which runs idle.
      expect([0, 1, 2].map((row) => keys[row * slotFloats])).toEqual([2, 3, 4]);
    }
  });

  test("of long slots descends, and ends where the memory does", () => {
    const pool = newPool(16, 100);
    const slots = [1, 2, 3].map((value) => filled(pool, 128, 128, value));
    const range = pool.range(slots);
    expect(range).toMatchObject({ arena: "long", numRows: 3, rows: [2, 1, 0] });
    const { keys } = pool.view(range, 0);
    expect(keys.byteOffset + keys.byteLength).toBe(keys.buffer.byteLength);
    const slotFloats = 128 * SHAPE.numKvHeads * SHAPE.headSize;
    expect([0, 1, 2].map((row) => keys[row * slotFloats])).toEqual([3, 2, 1]);
    expect(pool.inMemoryOrder(slots, (slot) => slot)).toEqual(slots.toReversed());
  });

  test("of no slots is empty", () => {
    const pool = newPool(4);
    const range = pool.range([]);
    expect(range).toMatchObject({ numRows: 0, rows: [], dims: [0, SHAPE.numKvHeads, 1, 0, SHAPE.headSize] });
    expect(pool.view(range, 1).keys.length).toBe(0);
  });

  test("shows what is appended, without being asked for again", () => {
    const pool = newPool(4);
    const slot = filled(pool, 64, 1, 7);
    const { keys, values } = pool.view(pool.range([slot]), 1);
    const step = Float32Array.from({ length: TOKEN_SIZE }, (_, index) => index);
    pool.append(slot, step, 0, 1);
    // Layer 1's keys are the step's third row, its values the fourth, each [numKvHeads, headSize].
    expect([keys[3], keys[64 * 3 + 3], values[3], values[64 * 3 + 3]]).toEqual([12, 15, 18, 21]);
  });
});

describe("compacting", () => {
  test("moves the last slots into gaps, and says what it copied", () => {
    const pool = newPool(16);
    const slots = [1, 2, 3, 4, 5].map((value) => filled(pool, 64, 10 * value, value));
    pool.release(slots[1] as ArenaSlot);
    pool.release(slots[2] as ArenaSlot);
    expect(pool.compact()).toBe((50 + 40) * TOKEN_BYTES);
    const left = [slots[0], slots[4], slots[3]] as ArenaSlot[];
    expect(left.map(({ index }) => index)).toEqual([0, 1, 2]);
    expect(left.map((slot) => valueOf(pool, slot))).toEqual([1, 5, 4]);
    expect(pool.usedTokens).toBe(3 * 64);
    expect(pool.bytesMoved).toBe(90 * TOKEN_BYTES);
  });

  test("does nothing where there are no gaps", () => {
    const pool = newPool(16, 100);
    for (const value of [1, 2, 3]) filled(pool, 50 * value, 20, value);
    expect(pool.compact()).toBe(0);
  });

  test("moves long slots too", () => {
    const pool = newPool(16, 100);
    const slots = [1, 2, 3].map((value) => filled(pool, 120, 110, value));
    pool.release(slots[0] as ArenaSlot);
    expect(pool.compact()).toBe(110 * TOKEN_BYTES);
    expect(slots.slice(1).map((slot) => [slot.index, valueOf(pool, slot)])).toEqual([
      [1, 2],
      [0, 3],
    ]);
  });
});

describe("a block", () => {
  test("that was read can be written to another sequence, in parts", () => {
    const pool = newPool(16, 100);
    const from = pool.admit(64) as ArenaSlot;
    const step = Float32Array.from({ length: 30 * TOKEN_SIZE }, (_, index) => index);
    pool.append(from, step, 0, 30);
    const to = pool.admit(150) as ArenaSlot;
    pool.writeBlock(to, 0, pool.readBlock(from, 0, 12));
    pool.writeBlock(to, 12, pool.readBlock(from, 12, 30));
    expect(to.numTokens).toBe(30);
    expect(pool.readBlock(to, 0, 30)).toEqual(pool.readBlock(from, 0, 30));
  });

  test("is a copy", () => {
    const pool = newPool(4);
    const slot = filled(pool, 64, 5, 1);
    pool.readBlock(slot, 0, 5).fill(9);
    expect(valueOf(pool, slot)).toBe(1);
  });
});
