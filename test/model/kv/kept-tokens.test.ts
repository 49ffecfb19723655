// What a pool of arenas keeps beyond a slot, and sequences that begin with it.

import { KvPool, type ArenaSlot, type KeptTokens, type KvShape } from "@readme-moe/model";
import { describe, expect, test } from "vitest";

const SHAPE: KvShape = { numLayers: 2, numKvHeads: 2, headSize: 3 };
const TOKEN_FLOATS = 2 * SHAPE.numLayers * SHAPE.numKvHeads * SHAPE.headSize;

function newPool(numBlocks: number): KvPool {
  return new KvPool({ shape: SHAPE, capacityTokens: numBlocks * 64 });
}

/** A slot of 40 tokens, each float another one. */
function filled(pool: KvPool): ArenaSlot {
  const slot = pool.admit(40) as ArenaSlot;
  const step = Float32Array.from({ length: 40 * TOKEN_FLOATS }, (_, index) => index + 1);
  pool.append(slot, step, 0, 40);
  return slot;
}

test("a sequence begins with copies of what is kept, also when its first slot has left", () => {
  const pool = newPool(8);
  const first = filled(pool);
  const expected = pool.readBlock(first, 0, 37);
  const kept = [pool.keep(first, 0, 20), pool.keep(first, 20, 37)];
  expect(kept).toEqual([
    { from: 0, numTokens: 20, bytes: 20 * pool.bytesPerToken },
    { from: 20, numTokens: 17, bytes: 17 * pool.bytesPerToken },
  ]);
  pool.release(first);
  const second = pool.admit(90, kept) as ArenaSlot;
  expect(second).toMatchObject({ numTokens: 37, reservedTokens: 90 });
  expect(pool.readBlock(second, 0, 37)).toEqual(expected);
  // Kept tokens can be used again, and take none of the pool's positions.
  expect(pool.usedTokens).toBe(128);
  expect(pool.admit(37, kept)?.numTokens).toBe(37);
});

test("nothing changes when there is no room", () => {
  const pool = newPool(2);
  const first = filled(pool);
  const kept = pool.keep(first, 0, 40);
  expect(pool.admit(100, [kept])).toBeUndefined();
  expect([pool.usedTokens, pool.bytesMoved]).toEqual([64, 0]);
  expect(pool.admit(50, [kept])?.numTokens).toBe(40);
});

describe("a caller's mistake is an error at once:", () => {
  test("a prefix that does not begin at 0, has a gap, or does not fit", () => {
    const pool = newPool(8);
    const first = filled(pool);
    const [a, b] = [pool.keep(first, 0, 16), pool.keep(first, 20, 32)];
    expect(() => pool.admit(64, [b])).toThrow(/`kept.from` to be from 0 to 0, got `20`/);
    expect(() => pool.admit(64, [a, b])).toThrow(/`kept.from` to be from 16 to 16, got `20`/);
    expect(() => pool.admit(15, [a])).toThrow(/`prefix tokens` to be from 0 to 15, got `16`/);
    expect(pool.usedTokens).toBe(64);
  });

  test("kept tokens that were dropped, or that another pool keeps", () => {
    const [pool, other] = [newPool(4), newPool(4)];
    const kept = pool.keep(filled(pool), 0, 16);
    const uses: readonly ((of: KvPool, tokens: KeptTokens) => unknown)[] = [
      (of, tokens) => of.admit(64, [tokens]),
      (of, tokens) => of.drop(tokens),
    ];
    for (const use of uses) expect(() => use(other, kept)).toThrow(/`kept` to be kept by this pool/);
    pool.drop(kept);
    for (const use of uses) expect(() => use(pool, kept)).toThrow(TypeError);
  });
});
