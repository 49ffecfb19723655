// Pinned beginnings of prompts, among random prompts, evictions and forgotten experts, against what each position holds.

import { KV_PAGE_TOKENS, type KvSlot } from "@readme-moe/kernel";
import { expect, test } from "vitest";
import { PrefixCache } from "../../../packages/engine/src/prefix-cache.ts";
import type { CacheablePrompt } from "../../../packages/engine/src/prefix-tails.ts";
import { PlainPrefixCache } from "../../oracles/plain-prefix-cache.ts";
import * as fc from "../../support/fast-check.ts";
import { BYTES_PER_TOKEN, filledPages, type FilledMemory } from "../../support/filled-memory.ts";
import { randomInteger, seededRandom } from "../../support/random.ts";

const CHUNK = 64;
const MAX_TOKENS = 1024;

interface Prompt {
  readonly tokenIds: readonly number[];
  readonly experts: readonly number[];
}

interface Pin {
  readonly id: number;
  readonly prompt: Prompt;
  readonly end: number;
}

/** Contents of a prompt's positions, which depend on everything before them. */
function valuesOf({ tokenIds, experts }: Prompt): readonly number[] {
  let value = 1;
  return tokenIds.map((token, at) => (value = (value * 7 + token * 5 + (experts[at] as number)) % 65_521));
}

const CAPACITY_TOKENS = 2048;

class Bench {
  readonly memory: FilledMemory = filledPages(CAPACITY_TOKENS, MAX_TOKENS * BYTES_PER_TOKEN);
  readonly cache = new PrefixCache(this.memory.kv, { chunkTokens: CHUNK, maxBytes: MAX_TOKENS * BYTES_PER_TOKEN });
  readonly pins: Pin[] = [];

  /** Runs a prompt as an engine does, and pins its first `end` tokens if they are given. @returns its cached tokens */
  run(prompt: Prompt, end?: number): number {
    const { kv } = this.memory;
    const slot = kv.admit(prompt.tokenIds.length, this.cache.match(prompt)) as KvSlot;
    const numKnown = slot.numTokens;
    const values = valuesOf(prompt);
    expect(this.memory.values(slot)).toEqual(values.slice(0, numKnown));
    for (let at = numKnown; at < values.length;) {
      const to = Math.min(values.length, (Math.floor(at / CHUNK) + 1) * CHUNK);
      this.memory.fill(slot, values.slice(at, to));
      if (to % CHUNK === 0) this.cache.add(prompt, to / CHUNK - 1, slot);
      at = to;
    }
    if (end !== undefined) {
      const id = this.cache.pin(prompt, end, (from, to) => kv.keep(slot, from, to));
      if (id !== undefined) this.pins.push({ id, prompt, end });
    }
    kv.release(slot);
    return numKnown;
  }

  expectWhole(): void {
    this.memory.kv.checkIntegrity();
    expect(this.memory.kv.keptTokens * BYTES_PER_TOKEN).toBeLessThanOrEqual(this.cache.numBytes);
    expect(this.cache.pinnableBytes).toBeGreaterThanOrEqual(0);
    for (const { prompt, end } of this.pins) {
      const longer = {
        tokenIds: [...prompt.tokenIds.slice(0, end), 9, 9],
        experts: [...prompt.experts.slice(0, end), 0, 0],
      };
      const matched = this.cache.match(longer).reduce((sum, { numTokens }) => sum + numTokens, 0);
      expect(matched).toBeGreaterThanOrEqual(end);
      expect(this.cache.isPinned(prompt, end)).toBe(true);
    }
  }
}

test("pinned beginnings stay, and every prompt finds what belongs to it (seed 8)", () => {
  const random = seededRandom(8);
  const bench = new Bench();
  const seen = { pinned: 0, refused: 0, cached: 0, tails: 0, forgotten: 0 };
  for (let round = 0; round < 1500; round++) {
    const length = 1 + randomInteger(random, 400);
    const kind = randomInteger(random, 3);
    const tokenIds = Array.from({ length }, (_, at) => (at % 48 === 0 ? randomInteger(random, 2) : kind));
    const expert = randomInteger(random, 3);
    const prompt = { tokenIds, experts: tokenIds.map((_, at) => (at < 100 ? 0 : expert)) };
    const pages = Math.floor(length / 16);
    const before = bench.pins.length;
    const wants = pages > 0 && randomInteger(random, 6) === 0;
    const known = bench.run(prompt, wants ? 16 * (1 + randomInteger(random, pages)) : undefined);
    if (wants) seen[bench.pins.length > before ? "pinned" : "refused"]++;
    if (known > 0) seen.cached++;
    if (known % CHUNK !== 0) seen.tails++;
    if (bench.pins.length > 0 && randomInteger(random, 7) === 0) {
      const [gone] = bench.pins.splice(randomInteger(random, bench.pins.length), 1);
      if (gone) bench.cache.unpin(gone.id);
    }
    if (randomInteger(random, 150) === 0) {
      seen.forgotten++;
      bench.cache.forget(expert);
      for (const pin of bench.pins.splice(0)) {
        const isGone = pin.prompt.experts.slice(0, pin.end).includes(expert);
        expect(bench.cache.pinned(pin.id) === undefined).toBe(isGone);
        if (isGone) bench.cache.unpin(pin.id);
        else bench.pins.push(pin);
      }
    }
    bench.expectWhole();
  }
  for (const [what, count] of Object.entries(seen)) expect([what, count > 5]).toEqual([what, true]);
  for (const { id } of bench.pins) bench.cache.unpin(id);
  expect(bench.cache.pinnableBytes).toBe(MAX_TOKENS * BYTES_PER_TOKEN);
  expect(bench.memory.kv.usedTokens).toBe(0);
});

test("a pin that has no room changes nothing", () => {
  const bench = new Bench();
  const tokenIds = Array<number>(900).fill(1);
  const prompt = { tokenIds, experts: tokenIds.map(() => 0) };
  bench.run(prompt, 896);
  const { pinnableBytes } = bench.cache;
  const other = { tokenIds: Array<number>(200).fill(2), experts: Array<number>(200).fill(0) };
  bench.run(other, 192);
  expect(bench.pins).toHaveLength(1);
  expect(bench.cache.pinnableBytes).toBe(pinnableBytes);
  bench.expectWhole();
});

test("what a pin keeps can be read in the order of positions", () => {
  const bench = new Bench();
  const tokenIds = Array<number>(180).fill(3);
  bench.run({ tokenIds, experts: tokenIds.map(() => 0) }, 176);
  const [pin] = bench.pins;
  const { prefix } = bench.cache.pinned(pin?.id ?? 0)!;
  expect(prefix.map(({ from, numTokens }) => [from, numTokens])).toEqual([
    [0, 64],
    [64, 64],
    [128, 16],
    [144, 16],
    [160, 16],
  ]);
});

const SALTS = [undefined, "a", "b"] as const;

/** Lengths around whole pages and chunks. */
const LENGTHS = [1, 15, 16, 17, 32, 63, 64, 65, 80, 112, 128, 129, 144, 192, 193, 208] as const;

/** Prompts that are often equal, or begin with one another. */
const prompts = fc
  .record({
    length: fc.constantFrom(...LENGTHS),
    kind: fc.integer({ min: 0, max: 1 }),
    /** Position from which on the tokens, or the experts, are others. */
    turn: fc.constantFrom(0, 40, 64, 128, 1000),
    expert: fc.integer({ min: 0, max: 1 }),
  })
  .map(({ length, kind, turn, expert }): Prompt => {
    const positions = Array.from({ length }, (_, at) => at);
    return {
      tokenIds: positions.map((at) => (at < turn ? 1 : 2 + kind)),
      experts: positions.map((at) => (at < turn ? 0 : expert)),
    };
  });

type Step =
  | { readonly type: "run"; readonly prompt: Prompt; readonly salt: (typeof SALTS)[number] }
  | { readonly type: "pin"; readonly prompt: Prompt; readonly pages: number }
  | { readonly type: "unpin"; readonly index: number }
  | { readonly type: "forget"; readonly expert: number };

const steps: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 20,
    arbitrary: fc.record({ type: fc.constant("run" as const), prompt: prompts, salt: fc.constantFrom(...SALTS) }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      type: fc.constant("pin" as const),
      prompt: prompts,
      pages: fc.integer({ min: 0, max: 20 }),
    }),
  },
  { weight: 3, arbitrary: fc.record({ type: fc.constant("unpin" as const), index: fc.nat() }) },
  {
    weight: 1,
    arbitrary: fc.record({ type: fc.constant("forget" as const), expert: fc.integer({ min: 0, max: 1 }) }),
  },
);

/** A cache and a plain one beside it, which always agree. */
class ComparedCache {
  readonly #memory: FilledMemory;
  readonly #cache: PrefixCache;
  readonly #plain: PlainPrefixCache;
  readonly #pins: { readonly id: number; readonly plainId: number }[] = [];
  numEvicted = 0;

  constructor(maxTokens: number, capacityTokens = 4096) {
    this.#memory = filledPages(capacityTokens, maxTokens * BYTES_PER_TOKEN);
    const maxBytes = maxTokens * BYTES_PER_TOKEN;
    this.#cache = new PrefixCache(this.#memory.kv, { chunkTokens: CHUNK, maxBytes });
    this.#plain = new PlainPrefixCache(CHUNK, maxTokens);
    this.#memory.kv.onShortage(() => {
      const hasEvicted = this.#cache.evict();
      expect(this.#plain.evict()).toBe(hasEvicted);
      this.numEvicted++;
      return hasEvicted;
    });
  }

  /** @returns the cached tokens of a request */
  apply(step: Step): number | undefined {
    let cached: number | undefined;
    if (step.type === "run") cached = this.#run({ ...step.prompt, cacheSalt: step.salt });
    else if (step.type === "pin") this.#pin(step.prompt, step.pages);
    else if (step.type === "unpin") this.#unpin(step.index);
    else for (const cache of [this.#cache, this.#plain]) cache.forget(step.expert);
    this.#compare();
    return cached;
  }

  #run(prompt: CacheablePrompt, end?: number): number {
    const { kv } = this.#memory;
    const expected = this.#plain.match(prompt);
    const slot = kv.admit(prompt.tokenIds.length, this.#cache.match(prompt)) as KvSlot;
    const cached = slot.numTokens;
    expect(cached).toBe(expected);
    expect(cached).toBeLessThan(prompt.tokenIds.length);
    const values = valuesOf(prompt);
    expect(this.#memory.values(slot)).toEqual(values.slice(0, cached));
    for (let at = cached; at < values.length;) {
      const to = Math.min(values.length, (Math.floor(at / CHUNK) + 1) * CHUNK);
      this.#memory.fill(slot, values.slice(at, to));
      if (to % CHUNK === 0) for (const cache of [this.#cache, this.#plain]) cache.add(prompt, to / CHUNK - 1, slot);
      at = to;
    }
    if (end !== undefined) {
      const id = this.#cache.pin(prompt, end, (from, to) => kv.keep(slot, from, to));
      const plainId = this.#plain.pin(prompt, end);
      expect(id === undefined).toBe(plainId === undefined);
      if (id !== undefined && plainId !== undefined) this.#pins.push({ id, plainId });
    }
    kv.release(slot);
    return cached;
  }

  #pin(prompt: Prompt, pages: number): void {
    const end = KV_PAGE_TOKENS * Math.min(pages, Math.floor(prompt.tokenIds.length / KV_PAGE_TOKENS));
    if (end > 0) this.#run(prompt, end);
  }

  #unpin(index: number): void {
    const [pin] = this.#pins.length > 0 ? this.#pins.splice(index % this.#pins.length, 1) : [];
    if (!pin) return;
    this.#cache.unpin(pin.id);
    this.#plain.unpin(pin.plainId);
  }

  #compare(): void {
    this.#memory.kv.checkIntegrity();
    const { numBytes, pinnableBytes } = this.#cache;
    expect([numBytes, pinnableBytes]).toEqual(
      [this.#plain.numTokens, this.#plain.pinnableTokens].map((tokens) => tokens * BYTES_PER_TOKEN),
    );
    // A page may be part of a chunk and of a pinned beginning.
    expect(this.#memory.kv.keptTokens * BYTES_PER_TOKEN).toBeLessThanOrEqual(numBytes);
    for (const { id, plainId } of this.#pins) {
      expect(this.#cache.pinned(id) !== undefined).toBe(this.#plain.isWhole(plainId));
    }
  }
}

test("finds, keeps and evicts what a plain cache does, for equal prompts, pins, salts and small budgets", () => {
  let numEvicted = 0;
  fc.assert(
    fc.property(
      fc.constantFrom(0, 16, 64, 80, 128, 192, 320, 2048),
      fc.constantFrom(256, 320, 512),
      fc.array(steps, { maxLength: 60, size: "max" }),
      (maxTokens, capacityTokens, history) => {
        const compared = new ComparedCache(maxTokens, capacityTokens);
        for (const step of history) compared.apply(step);
        numEvicted += compared.numEvicted;
      },
    ),
    { numRuns: 100 },
  );
  expect(numEvicted).toBeGreaterThan(100);
});

test("requests of one salt find the same whether or not others run between them", () => {
  fc.assert(
    fc.property(fc.array(steps, { maxLength: 40, size: "max" }), (history) => {
      const [beside, alone] = [new ComparedCache(4096), new ComparedCache(4096)];
      const found = { beside: [] as unknown[], alone: [] as unknown[] };
      for (const step of history) {
        const isOther = step.type === "run" && step.salt !== "a";
        const cached = beside.apply(step);
        if (isOther) continue;
        found.beside.push(cached);
        found.alone.push(alone.apply(step));
      }
      expect(found.beside).toEqual(found.alone);
    }),
    { numRuns: 80 },
  );
});

test("a prompt that equals a pinned one of whole pages keeps a token to compute", () => {
  for (const length of [16, 48, 64, 80, 128]) {
    const bench = new Bench();
    const tokenIds = Array<number>(length).fill(1);
    const prompt = { tokenIds, experts: tokenIds.map(() => 0) };
    bench.run(prompt, length);
    for (const salt of SALTS) {
      const matched = bench.cache.match({ ...prompt, cacheSalt: salt });
      expect([length, matched.reduce((sum, { numTokens }) => sum + numTokens, 0)]).toEqual([
        length,
        // Whole chunks are found as a whole only.
        length % CHUNK === 0 ? length - CHUNK : length - 16,
      ]);
    }
  }
});

test("evicts the chunks of a client that adds many, before those of one that uses few now and then", () => {
  const bench = new Bench();
  const promptOf = (first: number, cacheSalt: string): Prompt & { readonly cacheSalt: string } => {
    const tokenIds = [...Array<number>(CHUNK).fill(first), 0];
    return { tokenIds, experts: tokenIds.map(() => 0), cacheSalt };
  };
  const few = promptOf(1, "few");
  bench.run(few);
  const numChunks = (CAPACITY_TOKENS + MAX_TOKENS) / CHUNK;
  for (let round = 1; round <= 20; round++) {
    for (let one = 0; one < 5 * numChunks; one++) bench.run(promptOf(1000 * round + one, "many"));
    expect([round, bench.run(few)]).toEqual([round, CHUNK]);
  }
  // Unused for long, it makes room.
  for (let one = 0; one < 60 * numChunks; one++) bench.run(promptOf(10 ** 6 + one, "many"));
  expect(bench.run(few)).toBe(0);
});
