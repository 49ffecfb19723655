// Pinned beginnings of prompts, among random prompts, evictions and forgotten experts, against what each position holds.

import type { KvSlot } from "@readme-moe/kernel";
import { expect, test } from "vitest";
import { PrefixCache } from "../../../packages/engine/src/prefix-cache.ts";
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

class Bench {
  readonly memory: FilledMemory = filledPages(2048, MAX_TOKENS * BYTES_PER_TOKEN);
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
    expect(this.cache.numBytes).toBeLessThanOrEqual(MAX_TOKENS * BYTES_PER_TOKEN);
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
  const kept = bench.cache.pinned(pin?.id ?? 0) ?? [];
  expect(kept.map(({ from, numTokens }) => [from, numTokens])).toEqual([
    [0, 64],
    [64, 64],
    [128, 16],
    [144, 16],
    [160, 16],
  ]);
});
