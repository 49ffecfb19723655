// What a pool refuses, and how it says so.

import type { KvShape } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { KvPool } from "../../../packages/model/src/kv/kv-pool.ts";
import type { ArenaSlot } from "../../../packages/model/src/kv/kv-slot.ts";

const SHAPE: KvShape = { numLayers: 2, numKvHeads: 2, headSize: 3 };
const TOKEN_SIZE = 2 * SHAPE.numLayers * SHAPE.numKvHeads * SHAPE.headSize;

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

describe("a caller's mistake is an error at once:", () => {
  test("options out of range", () => {
    expect(() => new KvPool({ shape: SHAPE, capacityTokens: 0 })).toThrow(
      /`capacityTokens` to be at least 64, got `0`/,
    );
    expect(() => new KvPool({ shape: SHAPE, capacityTokens: 100 })).toThrow(/`capacityTokens` to be a multiple of 64/);
    expect(() => newPool(4, 0)).toThrow(/`longFromTokens` to be at least 1, got `0`/);
    expect(() => newPool(4, 1.5)).toThrow(TypeError);
  });

  test("a capacity that no machine has", () => {
    const capacityTokens = 2 ** 50;
    expect(() => new KvPool({ shape: SHAPE, capacityTokens })).toThrow(
      expect.objectContaining({ code: "ERR_RUNTIME", message: expect.stringContaining("MB of KV memory per layer") }),
    );
  });

  test("numbers of tokens", () => {
    const pool = newPool(4);
    const slot = filled(pool, 64, 5, 1);
    expect(() => pool.admit(0)).toThrow(/`numTokens` to be at least 1, got `0`/);
    expect(() => pool.reserve(slot, Number.NaN)).toThrow(TypeError);
    expect(() => pool.truncate(slot, 6)).toThrow(/`numTokens` to be from 0 to 5, got `6`/);
    expect(() => pool.readBlock(slot, 0, 6)).toThrow(/`to` to be from 0 to 5, got `6`/);
    expect(() => pool.readBlock(slot, 4, 3)).toThrow(/`to` to be from 4 to 5, got `3`/);
    expect(() => pool.view(pool.range([slot]), 2)).toThrow(/`layer` to be below 2, got `2`/);
  });

  test("more tokens than there is room reserved for", () => {
    const pool = newPool(4);
    const slot = filled(pool, 6, 5, 1);
    expect(() => pool.append(slot, new Float32Array(2 * TOKEN_SIZE), 0, 2)).toThrow(
      /room for 7 tokens, got slot 0 of the short arena \(5 tokens, room for 6\)/,
    );
    expect(() => pool.writeBlock(slot, 5, new Float32Array(2 * TOKEN_SIZE))).toThrow(/from 5 to 6, got `7`/);
    expect(slot.numTokens).toBe(5);
  });

  test("blocks that leave a gap, overlap, or are cut off", () => {
    const pool = newPool(4);
    const slot = filled(pool, 64, 5, 1);
    const block = new Float32Array(TOKEN_SIZE);
    expect(() => pool.writeBlock(slot, 6, block)).toThrow(/`from` to be from 5 to 5, got `6`/);
    expect(() => pool.writeBlock(slot, 4, block)).toThrow(RangeError);
    expect(() => pool.writeBlock(slot, 5, block.subarray(1))).toThrow(/`block tokens` to be an integer/);
  });

  test("tokens that a step does not have", () => {
    const pool = newPool(4);
    const slot = filled(pool, 64, 5, 1);
    const step = new Float32Array(3 * TOKEN_SIZE);
    expect(() => pool.append(slot, step, 2, 4)).toThrow(/`to` to be from 2 to 3, got `4`/);
    expect(() => pool.append(slot, step, 2, 1)).toThrow(/`to` to be from 2 to 3, got `1`/);
    expect(() => pool.append(slot, step, -1, 1)).toThrow(/`from` to be at least 0, got `-1`/);
    expect(() => pool.append(slot, step.subarray(1), 0, 3)).toThrow(/`to` to be from 0 to 2, got `3`/);
    expect([slot.numTokens, valueOf(pool, slot)]).toEqual([5, 1]);
  });

  test("slots of both arenas in one range", () => {
    const pool = newPool(16, 100);
    const slots = [pool.admit(10) as ArenaSlot, pool.admit(100) as ArenaSlot];
    expect(() => pool.range(slots)).toThrow(/`slots` of one arena/);
  });

  test.each<[string, (pool: KvPool, slot: ArenaSlot) => unknown]>([
    ["reserve", (pool, slot) => pool.reserve(slot, 1)],
    ["release", (pool, slot) => pool.release(slot)],
    ["append", (pool, slot) => pool.append(slot, new Float32Array(TOKEN_SIZE), 0, 1)],
    ["truncate", (pool, slot) => pool.truncate(slot, 0)],
    ["range", (pool, slot) => pool.range([slot])],
    ["inMemoryOrder", (pool, slot) => pool.inMemoryOrder([slot, slot], (item) => item)],
    ["readBlock", (pool, slot) => pool.readBlock(slot, 0, 0)],
    ["writeBlock", (pool, slot) => pool.writeBlock(slot, 0, new Float32Array(0))],
  ])("%s of a slot that was released, or that another pool holds", (_, use) => {
    const [pool, other] = [newPool(4), newPool(4)];
    const slot = pool.admit(64) as ArenaSlot;
    other.admit(64);
    expect(() => use(other, slot)).toThrow(TypeError);
    pool.release(slot);
    expect(() => use(pool, slot)).toThrow(/`slot` to be held by this pool/);
    pool.admit(64);
    expect(() => use(pool, slot)).toThrow(TypeError);
  });
});

test.each<[string, RegExp]>([
  ["numTokens", /slot 0 of the short arena \(999 tokens, room for 64\)/],
  ["reservedTokens", /with 64 positions, is slot 0 of the short arena \(0 tokens, room for 999\)/],
  ["index", /at 0 of the short arena.*is slot 999/],
])("broken books are found, with the numbers (%s)", (field, message) => {
  const pool = newPool(4);
  const slot = pool.admit(64) as ArenaSlot;
  pool.checkIntegrity();
  Object.assign(slot, { [field]: 999 });
  expect(() => pool.checkIntegrity()).toThrow(message);
});
