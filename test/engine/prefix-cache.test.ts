import type { KeptTokens, KvSlot } from "@readme-moe/kernel";
import { expect, test, vi } from "vitest";
import { PrefixCache } from "../../packages/engine/src/prefix-cache.ts";
import { BYTES_PER_TOKEN, filledPages, type FilledMemory } from "../support/filled-memory.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const CHUNK = 16;
const CHUNK_BYTES = CHUNK * BYTES_PER_TOKEN;

interface Prompt {
  readonly tokenIds: readonly number[];
  readonly experts: readonly number[];
}

/** Creates a prompt: each of `chunks` is repeated for a whole chunk, and one more token follows. */
function promptOf(chunks: readonly number[], experts: readonly number[] = []): Prompt {
  const tokenIds = [...chunks.flatMap((token) => Array<number>(CHUNK).fill(token)), 9];
  return { tokenIds, experts: tokenIds.map((_, index) => experts[index] ?? 0) };
}

/** Computes the content of a prompt's positions, which depends on everything before them. */
function valuesOf({ tokenIds, experts }: Prompt): readonly number[] {
  let value = 1;
  return tokenIds.map((token, at) => (value = (value * 7 + token * 2 + (experts[at] as number)) % 65_521));
}

/** A cache and its memory, used as an engine uses them. */
class Bench {
  readonly memory: FilledMemory;
  readonly cache: PrefixCache;

  constructor(memory: FilledMemory, maxChunks: number) {
    this.memory = memory;
    this.cache = new PrefixCache(memory.kv, { chunkTokens: CHUNK, maxBytes: maxChunks * CHUNK_BYTES });
  }

  /** Runs a prompt from its cached prefix, and caches all of its chunks. @returns the length of the cached prefix */
  run(prompt: Prompt): number {
    const { kv } = this.memory;
    const slot = kv.admit(prompt.tokenIds.length, this.cache.match(prompt)) as KvSlot;
    const numKnown = slot.numTokens;
    const values = valuesOf(prompt);
    expect(this.memory.values(slot)).toEqual(values.slice(0, numKnown));
    this.memory.fill(slot, values.slice(numKnown));
    for (let index = 0; (index + 1) * CHUNK <= values.length; index++) this.cache.add(prompt, index, slot);
    expect(this.memory.values(slot)).toEqual(values);
    kv.release(slot);
    kv.checkIntegrity();
    expect(kv.keptTokens * BYTES_PER_TOKEN).toBe(this.cache.numBytes);
    return numKnown;
  }
}

const fromOf = (kept: readonly KeptTokens[]): readonly number[] => kept.map(({ from }) => from);

/** @param capacityTokens - memory of slots, which chunks may take as long as slots do not need it */
const newBench = (maxChunks: number, capacityTokens = 1024): Bench =>
  new Bench(filledPages(capacityTokens, maxChunks * CHUNK_BYTES), maxChunks);

test("finds the longest cached prefix, and leaves at least one token to compute", () => {
  const bench = newBench(20);
  const { cache } = bench;
  const prompt = promptOf([1, 2]);
  bench.run(prompt);
  expect(fromOf(cache.match(prompt))).toEqual([0, CHUNK]);
  expect(fromOf(cache.match({ ...prompt, tokenIds: prompt.tokenIds.slice(0, 2 * CHUNK) }))).toEqual([0]);
  expect(fromOf(cache.match(promptOf([1, 3])))).toEqual([0]);
  expect(cache.match(promptOf([2]))).toEqual([]);
  expect(cache.match(promptOf([1, 2], [0, 0, 0, 1]))).toEqual([]);
  expect(bench.run(promptOf([1, 2, 3]))).toBe(2 * CHUNK);
});

test("evicts the least recently used chunks when slots need their memory, and later chunks before earlier ones", () => {
  // Six pages, of one chunk each.
  const bench = newBench(2, 64);
  const { cache } = bench;
  const [a, b] = [promptOf([1, 2]), promptOf([3, 4])];
  bench.run(a);
  bench.run(b);
  cache.match(a);
  bench.run(promptOf([5]));
  expect(cache.numBytes).toBe(5 * CHUNK_BYTES);
  bench.run(promptOf([6]));
  expect(cache.numBytes).toBe(5 * CHUNK_BYTES);
  expect(cache.match(a)).toHaveLength(2);
  expect(cache.match(b)).toHaveLength(1);
});

test("caches a prompt that exceeds its bytes, in memory that no slot needs", () => {
  const bench = newBench(1, 64);
  const prompt = promptOf([1, 2, 3]);
  expect([bench.run(prompt), bench.run(prompt)]).toEqual([0, 3 * CHUNK]);
  bench.run(promptOf([4, 5, 6]));
  expect(bench.cache.match(prompt)).toHaveLength(1);
});

test("evicts no chunk that a slot uses", () => {
  const bench = newBench(1, 64);
  const { memory, cache } = bench;
  const prompt = promptOf([1]);
  const slot = memory.kv.admit(prompt.tokenIds.length) as KvSlot;
  memory.fill(slot, valuesOf(prompt));
  cache.add(prompt, 0, slot);
  for (const token of [2, 3, 4]) bench.run(promptOf([token]));
  expect([1, 2, 3, 4].map((token) => cache.match(promptOf([token])).length)).toEqual([1, 0, 1, 1]);
  memory.kv.release(slot);
  for (const token of [5, 6]) bench.run(promptOf([token]));
  expect([1, 3].map((token) => cache.match(promptOf([token])).length)).toEqual([0, 1]);
});

test("caches nothing with 0 bytes, and no chunk twice", () => {
  const prompt = promptOf([1]);
  for (const [maxChunks, numKept] of [
    [0, 0],
    [127 / 128, 0],
    [10, 1],
  ] as const) {
    const bench = newBench(maxChunks);
    const keep = vi.spyOn(bench.memory.kv, "keep");
    for (let round = 0; round < 3; round++) bench.run(prompt);
    expect(keep).toHaveBeenCalledTimes(numKept);
  }
});

test("forgets the chunks with tokens of an expert, and no others", () => {
  const bench = newBench(10);
  const [other, mixed] = [promptOf([1, 2]), promptOf([3, 4], Array<number>(CHUNK + 1).fill(5))];
  bench.run(other);
  bench.run(mixed);
  bench.cache.forget(7);
  expect(bench.cache.numBytes).toBe(4 * CHUNK_BYTES);
  bench.cache.forget(5);
  expect(bench.cache.match(mixed)).toEqual([]);
  expect(bench.cache.match(other)).toHaveLength(2);
  expect(bench.cache.numBytes).toBe(2 * CHUNK_BYTES);
  expect(bench.memory.kv.keptTokens * BYTES_PER_TOKEN).toBe(bench.cache.numBytes);
  bench.cache.forget(0);
  expect(bench.cache.numBytes).toBe(0);
});

test("caches no chunk without the chunk before it, since it could never be found", () => {
  const bench = newBench(10);
  const prompt = promptOf([2, 3]);
  const slot = bench.memory.kv.admit(prompt.tokenIds.length) as KvSlot;
  bench.memory.fill(slot, valuesOf(prompt));
  bench.cache.add(prompt, 1, slot);
  expect(bench.cache.numBytes).toBe(0);
});

test("returns what a prompt with the same beginning has cached (seed 6)", () => {
  const random = seededRandom(6);
  const bench = newBench(20);
  let numKnown = 0;
  for (let round = 0; round < 1000; round++) {
    const chunks = Array.from({ length: 1 + randomInteger(random, 5) }, () => randomInteger(random, 3));
    const expert = randomInteger(random, 2);
    const prompt = promptOf(chunks, expert === 0 ? [] : Array<number>(CHUNK).fill(expert));
    numKnown += bench.run(prompt);
    expect(bench.cache.numBytes).toBeLessThanOrEqual((64 + 20) * CHUNK_BYTES);
  }
  expect(numKnown).toBeGreaterThan(1000);
  expect(bench.memory.kv.usedTokens).toBe(0);
});
