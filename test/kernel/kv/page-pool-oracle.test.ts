// Long random lives of a page pool, compared after every operation with a plain model of what it should hold.

import * as fc from "../../support/fast-check.ts";
import type { KeptTokens, PageSlot } from "@readme-moe/kernel";
import { expect, test } from "vitest";
import { BYTES_PER_TOKEN, filledPages, type FilledMemory } from "../../support/filled-memory.ts";
import { PlainPagePool } from "./plain-page-pool.ts";

const KINDS = ["admit", "admit", "reserve", "fill", "fill", "truncate", "release", "keep", "keep", "drop"] as const;
const SEED = 20_261_127;

/** What to do, and to which of those that are there. `which` and `size` are taken modulo what is possible. */
interface Operation {
  readonly kind: (typeof KINDS)[number];
  readonly which: number;
  readonly size: number;
}

const operation: fc.Arbitrary<Operation> = fc.record({
  kind: fc.constantFrom(...KINDS),
  which: fc.nat(1000),
  size: fc.nat(1000),
});

/** A pool, its plain model, and operations on both. */
class Life {
  readonly memory: FilledMemory;
  readonly plain: PlainPagePool;
  readonly seen: Set<string>;
  readonly #maxKeptPages: number;
  #nextValue = 1;

  constructor(capacityPages: number, maxKeptPages: number, seen: Set<string>) {
    this.memory = filledPages(capacityPages * 16, maxKeptPages * 16 * BYTES_PER_TOKEN);
    this.plain = new PlainPagePool(capacityPages * 16);
    this.#maxKeptPages = maxKeptPages;
    this.seen = seen;
    this.memory.kv.onShortage(() => {
      const idle = Array.from(this.plain.kept.keys()).filter((kept) => this.memory.kv.isIdle(kept));
      this.#drop(nth(idle, this.#nextValue));
      this.seen.add("evict");
      return idle.length > 0;
    });
  }

  run({ kind, which, size }: Operation): void {
    const slot = nth(Array.from(this.plain.slots.keys()), which);
    if (kind === "admit") this.#admit(which, 1 + (size % 120));
    else if (kind === "drop") this.#drop(nth(Array.from(this.plain.kept.keys()), which));
    else if (!slot) return;
    else if (kind === "reserve") this.#reserve(slot, 1 + (size % 150));
    else if (kind === "fill") this.#fill(slot, size);
    else if (kind === "truncate") this.#truncate(slot, size % (slot.numTokens + 1));
    else if (kind === "release") this.#release(slot);
    else this.#keep(slot, which, size);
  }

  #admit(which: number, moreTokens: number): void {
    const prefix = which % 3 === 0 ? [] : this.#prefix(which);
    const parts = prefix.map((kept) => this.plain.kept.get(kept) ?? { pages: [], values: [] });
    const values = parts.flatMap((part) => part.values);
    const numPages = Math.ceil((values.length + moreTokens) / 16);
    const hasRoom = this.plain.hasRoom(
      numPages,
      parts.flatMap(({ pages }) => pages),
    );
    const slot = this.#allOrNothing(hasRoom, () => this.memory.kv.admit(values.length + moreTokens, prefix));
    if (slot) this.plain.slots.set(slot, { values, numPages });
    this.seen.add(`admit ${hasRoom ? "" : "refused "}${prefix.length > 0 ? "with a prefix" : ""}`.trim());
  }

  /** Kept chunks one behind the other, from 0 on. */
  #prefix(which: number): readonly KeptTokens[] {
    const chain: KeptTokens[] = [];
    const nextOf = (end: number) =>
      Array.from(this.plain.kept.keys()).filter(({ from, numTokens }) => from === end && numTokens > 0);
    for (let end = 0; ;) {
      const next = nth(nextOf(end), which);
      if (!next) return chain;
      chain.push(next);
      end += next.numTokens;
    }
  }

  #reserve(slot: PageSlot, numTokens: number): void {
    const known = this.plain.slots.get(slot);
    if (!known) return;
    const numFresh = Math.max(0, Math.ceil(numTokens / 16) - known.numPages);
    const hasRoom = this.plain.hasRoom(numFresh, []) || numFresh === 0;
    this.#allOrNothing(hasRoom, () => this.memory.kv.reserve(slot, numTokens));
    if (hasRoom) known.numPages += numFresh;
    this.seen.add(hasRoom ? "reserve" : "reserve refused");
  }

  #fill(slot: PageSlot, size: number): void {
    const numTokens = Math.min(size, slot.reservedTokens - slot.numTokens);
    const values = Array.from({ length: numTokens }, () => this.#nextValue++);
    // Nobody may see what this slot writes.
    const written = slot.pages.slice(Math.floor(slot.numTokens / 16), Math.ceil((slot.numTokens + numTokens) / 16));
    expect(written.filter((page) => this.plain.isShared(page))).toEqual([]);
    this.memory.fill(slot, values);
    this.plain.slots.get(slot)?.values.push(...values);
  }

  #truncate(slot: PageSlot, numTokens: number): void {
    const known = this.plain.slots.get(slot);
    if (!known) return;
    const page = slot.pages[Math.floor(numTokens / 16)];
    if (numTokens % 16 !== 0 && page !== undefined && this.plain.isShared(page)) {
      expect(() => this.memory.kv.truncate(slot, numTokens)).toThrow(RangeError);
      this.seen.add("truncate refused");
      return;
    }
    if (page !== undefined && this.plain.isShared(page)) this.seen.add("truncate shared pages");
    this.memory.kv.truncate(slot, numTokens);
    known.values.length = numTokens;
    known.numPages = Math.ceil(numTokens / 16);
  }

  #release(slot: PageSlot): void {
    this.memory.kv.release(slot);
    this.plain.slots.delete(slot);
    expect(() => this.memory.kv.release(slot)).toThrow(TypeError);
  }

  #keep(slot: PageSlot, which: number, size: number): void {
    const known = this.plain.slots.get(slot);
    const numFull = Math.floor(slot.numTokens / 16);
    const first = which % 2 === 0 ? 0 : which % (numFull + 1);
    const end = first + (size % (numFull - first + 1));
    const pages = slot.pages.slice(first, end);
    const kept = this.memory.kv.keep(slot, first * 16, end * 16);
    const numTokens = (end - first) * 16;
    expect(kept).toEqual({ from: first * 16, numTokens, bytes: numTokens * BYTES_PER_TOKEN });
    this.plain.kept.set(kept, { pages, values: known?.values.slice(first * 16, end * 16) ?? [] });
    this.seen.add("keep");
  }

  #drop(kept: KeptTokens | undefined): void {
    if (!kept) return;
    this.memory.kv.drop(kept);
    this.plain.kept.delete(kept);
    expect(() => this.memory.kv.drop(kept)).toThrow(TypeError);
    this.seen.add("drop");
  }

  /** What fits must be done, and what does not must leave everything as it was. */
  #allOrNothing<Result>(hasRoom: boolean, act: () => Result): Result {
    const before = this.#books();
    const result = act();
    expect(Boolean(result)).toBe(hasRoom);
    if (!hasRoom) expect(this.#books()).toEqual(before);
    return result;
  }

  #books(): unknown {
    const { usedTokens, keptTokens } = this.memory.kv;
    const slots = Array.from(this.plain.slots.keys(), ({ pages, numTokens }) => ({ pages: [...pages], numTokens }));
    return { usedTokens, keptTokens, slots };
  }

  expectSame(): void {
    const { kv } = this.memory;
    kv.checkIntegrity();
    expect([kv.usedTokens, kv.keptTokens]).toEqual([
      this.plain.usedPages().size * 16,
      this.plain.keptPages().size * 16,
    ]);
    const used = this.plain.usedPages();
    for (const [kept, { pages }] of this.plain.kept) {
      expect(kv.isIdle(kept)).toBe(pages.some((page) => !used.has(page)));
    }
    for (const [slot, { values, numPages }] of this.plain.slots) {
      expect(slot.pages).toHaveLength(numPages);
      expect(this.memory.values(slot)).toEqual(values);
    }
  }

  /** Releases and drops everything. */
  end(): void {
    for (const slot of Array.from(this.plain.slots.keys())) this.#release(slot);
    for (const kept of Array.from(this.plain.kept.keys())) this.#drop(kept);
    this.expectSame();
    const { numPages, capacityTokens } = this.memory.kv;
    expect(numPages).toBe(capacityTokens / 16 + this.#maxKeptPages);
    expect(this.memory.kv.admit(capacityTokens)?.pages).toHaveLength(capacityTokens / 16);
  }
}

function nth<Item>(items: readonly Item[], index: number): Item | undefined {
  return items[index % Math.max(1, items.length)];
}

test("a pool does what a plain model does, whatever happens", () => {
  const seen = new Set<string>();
  const sizes = fc.record({ blocks: fc.integer({ min: 1, max: 6 }), maxKeptPages: fc.nat(12) });
  const operations = fc.array(operation, { minLength: 50, maxLength: 150, size: "max" });
  fc.assert(
    fc.property(sizes, operations, ({ blocks, maxKeptPages }, list) => {
      const life = new Life(blocks * 4, maxKeptPages, seen);
      for (const one of list) {
        life.run(one);
        life.expectSame();
      }
      life.end();
    }),
    { seed: SEED, numRuns: 120 },
  );
  // A run that never met one of these would prove nothing about it.
  expect(Array.from(seen)).toEqual(
    expect.arrayContaining([
      "admit",
      "admit refused",
      "admit with a prefix",
      "admit refused with a prefix",
      "reserve",
      "reserve refused",
      "truncate refused",
      "truncate shared pages",
      "keep",
      "evict",
      "drop",
    ]),
  );
});
