// What a page pool shares, what it has room for, and what it refuses.

import { PagePool, type KvSlot, type PageSlot } from "@readme-moe/kernel";
import { describe, expect, test } from "vitest";
import { BYTES_PER_TOKEN, filledPages, type FilledMemory } from "../../support/filled-memory.ts";

/** Prefix memory of so many pages. */
const prefixPages = (numPages: number): number => numPages * 16 * BYTES_PER_TOKEN;
const numbers = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, index) => from + index);

function admitted({ kv }: FilledMemory, numTokens: number): PageSlot {
  return kv.admit(numTokens) as PageSlot;
}

/** A memory of 128 positions that keeps two pages. */
function withKept() {
  const memory = filledPages(128, prefixPages(4));
  const first = admitted(memory, 40);
  memory.fill(first, numbers(0, 40));
  return { memory, first, kept: [memory.kv.keep(first, 0, 16), memory.kv.keep(first, 16, 32)] as const };
}

const make = (capacityTokens: number, bytesPerToken: number, prefixBytes?: number) => () =>
  new PagePool({ capacityTokens, bytesPerToken, prefixBytes });

describe("a slot", () => {
  test("takes the pages that its tokens need, and no more", () => {
    const { kv } = filledPages(256);
    expect(kv.admit(1)?.pages).toEqual([0]);
    expect(kv.admit(33)).toMatchObject({ pages: [1, 2, 3], numTokens: 0, reservedTokens: 48 });
    expect(kv.usedTokens).toBe(64);
  });

  test("grows page by page, wherever there is one", () => {
    const memory = filledPages(256);
    const [a, b] = [admitted(memory, 16), admitted(memory, 16)];
    expect(memory.kv.reserve(a, 16)).toBe(true);
    expect(a.pages).toEqual([0]);
    expect(memory.kv.reserve(a, 17)).toBe(true);
    expect([a.pages, b.pages]).toEqual([[0, 2], [1]]);
  });

  test("gives pages back when it is truncated or released, and the last ones freed are taken first", () => {
    const memory = filledPages(256);
    const slot = admitted(memory, 64);
    memory.fill(slot, numbers(0, 64));
    memory.kv.truncate(slot, 17);
    expect(slot).toMatchObject({ pages: [0, 1], numTokens: 17, reservedTokens: 32 });
    expect(admitted(memory, 32).pages).toEqual([2, 3]);
    memory.kv.release(slot);
    expect(slot).toMatchObject({ pages: [], numTokens: 0 });
    expect(admitted(memory, 33).pages).toEqual([0, 1, 4]);
    memory.kv.checkIntegrity();
  });

  test("advances as far as it has room", () => {
    const { kv } = filledPages(64);
    const slot = kv.admit(20) as PageSlot;
    kv.advance(slot, 20);
    kv.advance(slot, 12);
    expect(() => kv.advance(slot, 1)).toThrow(/room for 33 tokens, got a slot of 32 tokens, room for 32/);
    expect(slot.numTokens).toBe(32);
  });
});

describe("room", () => {
  test("is refused beyond the capacity, and nothing has changed then", () => {
    const { kv } = filledPages(64, prefixPages(4));
    const slot = kv.admit(40) as PageSlot;
    expect(kv.admit(17)).toBeUndefined();
    expect(kv.reserve(slot, 65)).toBe(false);
    expect([kv.usedTokens, slot.pages]).toEqual([48, [0, 1, 2]]);
    expect(kv.reserve(slot, 64)).toBe(true);
    kv.checkIntegrity();
  });

  test("is there for slots, however much is kept", () => {
    const memory = filledPages(64, prefixPages(4));
    const slot = admitted(memory, 64);
    memory.fill(slot, numbers(0, 64));
    memory.kv.keep(slot, 0, 64);
    memory.kv.release(slot);
    expect(memory.kv).toMatchObject({ usedTokens: 0, keptTokens: 64, numPages: 8 });
    expect(memory.kv.admit(64)?.pages).toHaveLength(4);
  });

  test("for what is kept is all that slots leave, until they need it", () => {
    const memory = filledPages(64, prefixPages(2));
    const slot = admitted(memory, 64);
    memory.fill(slot, numbers(0, 64));
    const kept = [0, 16, 32, 48].map((from) => memory.kv.keep(slot, from, from + 16));
    expect(kept.map((one) => memory.kv.isIdle(one))).toEqual([false, false, false, false]);
    memory.kv.truncate(slot, 48);
    expect(kept.map((one) => memory.kv.isIdle(one))).toEqual([false, false, false, true]);
    memory.kv.release(slot);
    expect(memory.kv).toMatchObject({ usedTokens: 0, keptTokens: 64, numPages: 6 });
    expect(() => memory.kv.admit(64)).toThrow("None of 6 pages is free");
    const fresh = filledPages(64, prefixPages(2));
    const other = admitted(fresh, 64);
    fresh.fill(other, numbers(0, 64));
    const chunks = [0, 16, 32, 48].map((from) => fresh.kv.keep(other, from, from + 16));
    fresh.kv.release(other);
    fresh.kv.onShortage(() => {
      const last = chunks.pop();
      if (last) fresh.kv.drop(last);
      return last !== undefined;
    });
    // Two pages are free, and two are taken back.
    expect(fresh.kv.admit(64)?.pages).toHaveLength(4);
    expect([chunks.length, fresh.kv.keptTokens]).toEqual([2, 32]);
    fresh.kv.checkIntegrity();
  });

  test("is counted once for a page that is kept twice", () => {
    const memory = filledPages(128, prefixPages(2));
    const slot = admitted(memory, 64);
    memory.fill(slot, numbers(0, 64));
    const [kept, again] = [memory.kv.keep(slot, 0, 32), memory.kv.keep(slot, 16, 32)];
    expect([kept.bytes, again.bytes, memory.kv.keptTokens]).toEqual([prefixPages(2), prefixPages(1), 32]);
    memory.kv.drop(kept);
    expect(memory.kv.keptTokens).toBe(16);
    memory.kv.checkIntegrity();
  });
});

describe("a prefix", () => {
  test("is shared: its pages are counted once, and nothing is copied", () => {
    const { memory, first, kept } = withKept();
    const second = memory.kv.admit(50, kept) as PageSlot;
    expect(second.pages.slice(0, 2)).toEqual(first.pages.slice(0, 2));
    expect(second.numTokens).toBe(32);
    expect(memory.kv).toMatchObject({ usedTokens: 48 + 32 });
    memory.fill(second, numbers(100, 118));
    expect(memory.values(second)).toEqual([...numbers(0, 32), ...numbers(100, 118)]);
    expect(memory.values(first)).toEqual(numbers(0, 40));
  });

  test("lives on when its first slot and its chunk have left, as long as a slot has it", () => {
    const { memory, first, kept } = withKept();
    const second = memory.kv.admit(50, kept) as PageSlot;
    memory.kv.release(first);
    for (const chunk of kept) memory.kv.drop(chunk);
    const other = memory.kv.admit(64) as PageSlot;
    memory.fill(other, numbers(500, 564));
    expect(memory.values(second)).toEqual(numbers(0, 32));
    memory.kv.release(second);
    memory.kv.release(other);
    expect(memory.kv).toMatchObject({ usedTokens: 0, keptTokens: 0 });
    memory.kv.checkIntegrity();
  });

  test("makes sequences fit that would not fit without it", () => {
    const { memory, kept } = withKept();
    // Three of eight pages are used, two of them by the prefix.
    expect(memory.kv.admit(96)).toBeUndefined();
    expect(memory.kv.admit(112, kept)?.pages).toHaveLength(7);
    expect(memory.kv.admit(33, kept)).toBeUndefined();
    expect(memory.kv.admit(32, kept)?.numTokens).toBe(32);
    memory.kv.checkIntegrity();
  });

  test("is never written to by a slot that goes back into it", () => {
    const { memory, first, kept } = withKept();
    const second = memory.kv.admit(50, kept) as PageSlot;
    memory.kv.truncate(second, 16);
    expect(memory.kv.reserve(second, 50)).toBe(true);
    memory.fill(second, numbers(200, 234));
    memory.kv.truncate(first, 0);
    memory.kv.reserve(first, 40);
    memory.fill(first, numbers(300, 340));
    const third = memory.kv.admit(32, kept) as PageSlot;
    expect(memory.values(third)).toEqual(numbers(0, 32));
    expect(memory.values(second)).toEqual([...numbers(0, 16), ...numbers(200, 234)]);
    expect(memory.values(first)).toEqual(numbers(300, 340));
    memory.kv.checkIntegrity();
  });

  test("cannot be cut within a page", () => {
    const { memory, first } = withKept();
    expect(() => memory.kv.truncate(first, 17)).toThrow(/a multiple of 16 within shared pages, got `17`/);
    expect(first).toMatchObject({ numTokens: 40, reservedTokens: 48 });
    memory.kv.truncate(first, 33);
    expect(first.numTokens).toBe(33);
  });

  test("begins at 0, has no gap, and fits into what is admitted", () => {
    const { memory, kept } = withKept();
    expect(() => memory.kv.admit(50, [kept[1]])).toThrow(/`kept.from` to be from 0 to 0, got `16`/);
    expect(() => memory.kv.admit(50, [kept[0], kept[0]])).toThrow(/`kept.from` to be from 16 to 16, got `0`/);
    expect(() => memory.kv.admit(31, kept)).toThrow(/`prefix tokens` to be from 0 to 31, got `32`/);
    expect(memory.kv.usedTokens).toBe(48);
    memory.kv.checkIntegrity();
  });
});

describe("a caller's mistake is an error at once:", () => {
  test("options out of range", () => {
    expect(make(0, 8)).toThrow(/`capacityTokens` to be at least 64, got `0`/);
    expect(make(80, 8)).toThrow(/`capacityTokens` to be a multiple of 64/);
    expect(make(64, 0)).toThrow(/`bytesPerToken` to be at least 1/);
    expect(make(64, 8, -1)).toThrow(/`prefixBytes` to be at least 0/);
  });

  test("numbers of tokens", () => {
    const memory = filledPages(64, prefixPages(4));
    const slot = admitted(memory, 40);
    memory.fill(slot, numbers(0, 20));
    expect(() => memory.kv.admit(0)).toThrow(/`numTokens` to be at least 1/);
    expect(() => memory.kv.reserve(slot, Number.NaN)).toThrow(TypeError);
    expect(() => memory.kv.truncate(slot, 21)).toThrow(/`numTokens` to be from 0 to 20/);
    expect(() => memory.kv.advance(slot, -1)).toThrow(/`numTokens` to be at least 0/);
    expect(() => memory.kv.keep(slot, 0, 32)).toThrow(/`to` to be from 0 to 20/);
    expect(() => memory.kv.keep(slot, 4, 16)).toThrow(/`from` to be a multiple of 16, got `4`/);
    memory.kv.checkIntegrity();
  });

  test.each<[string, (pool: PagePool, slot: KvSlot) => unknown]>([
    ["reserve", (pool, slot) => pool.reserve(slot, 1)],
    ["release", (pool, slot) => pool.release(slot)],
    ["truncate", (pool, slot) => pool.truncate(slot, 0)],
    ["advance", (pool, slot) => pool.advance(slot, 0)],
    ["pageSlot", (pool, slot) => pool.pageSlot(slot)],
    ["keep", (pool, slot) => pool.keep(slot, 0, 0)],
  ])("%s of a slot that was released, or that another pool holds", (_, use) => {
    const [{ kv }, { kv: other }] = [filledPages(64), filledPages(64)];
    const slot = kv.admit(16) as PageSlot;
    expect(() => use(other, slot)).toThrow(/`slot` to be held by this pool, got a slot of 0 tokens/);
    expect(() => use(kv, { numTokens: 0, reservedTokens: 16 })).toThrow(TypeError);
    kv.release(slot);
    expect(() => use(kv, slot)).toThrow(TypeError);
  });

  test("kept tokens that were dropped, or that another pool keeps", () => {
    const [memory, other] = [filledPages(64, prefixPages(1)), filledPages(64, prefixPages(1))];
    const slot = admitted(memory, 16);
    memory.fill(slot, numbers(0, 16));
    const kept = memory.kv.keep(slot, 0, 16);
    expect(() => other.kv.drop(kept)).toThrow(/`kept` to be kept by this pool/);
    expect(() => other.kv.admit(32, [kept])).toThrow(TypeError);
    memory.kv.drop(kept);
    expect(() => memory.kv.drop(kept)).toThrow(TypeError);
    expect(() => memory.kv.admit(32, [kept])).toThrow(TypeError);
    memory.kv.checkIntegrity();
  });
});

test.each<[string, (slot: { pages: number[]; numTokens: number }) => void, RegExp]>([
  ["a lost page", ({ pages }) => pages.pop(), /page 1 is in 0 slots and 0 kept chunks, counted as 1 slots/],
  ["a page of nobody", ({ pages }) => pages.push(3), /page 3 is in 1 slots and 0 kept chunks, counted as 0 slots/],
  ["too many tokens", (slot) => (slot.numTokens = 99), /a slot of 99 tokens, room for 32 shares its first 0/],
])("broken books are found, with the numbers: %s", (_, damage, message) => {
  const { kv } = filledPages(64);
  const slot = kv.admit(32);
  kv.checkIntegrity();
  damage(slot as never);
  expect(() => kv.checkIntegrity()).toThrow(message);
});
