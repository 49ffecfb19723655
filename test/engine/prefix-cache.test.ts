import { expect, test } from "vitest";
import { PrefixCache } from "../../packages/engine/src/prefix-cache.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const CHUNK = 4;
const CHUNK_BYTES = 40;
const chunk = (value: number): Float32Array => new Float32Array(CHUNK_BYTES / 4).fill(value);
const zeros = (tokens: readonly number[]): number[] => tokens.map(() => 0);

/** Adds all whole chunks of a prompt. */
function addAll(cache: PrefixCache, tokens: readonly number[], experts = zeros(tokens)): void {
  for (let index = 0; (index + 1) * CHUNK <= tokens.length; index++) {
    cache.add(tokens, experts, index, () => chunk(tokens[index * CHUNK] as number));
  }
}

test("finds the longest known beginning, and leaves at least one token to be computed", () => {
  const cache = new PrefixCache(CHUNK, 1000);
  const prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9];
  addAll(cache, prompt);
  expect(cache.match(prompt, zeros(prompt))).toEqual([chunk(1), chunk(5)]);
  expect(cache.match(prompt.slice(0, 8), zeros(prompt))).toEqual([chunk(1)]);
  expect(cache.match([1, 2, 3, 4, 5, 6, 7, 0, 9], zeros(prompt))).toEqual([chunk(1)]);
  expect(cache.match([5, 6, 7, 8, 9], zeros(prompt))).toEqual([]);
  expect(cache.match(prompt, [0, 0, 0, 1, 0, 0, 0, 0, 0])).toEqual([]);
});

test("keeps within its bytes, drops what was used least recently, and a chunk's end before its beginning", () => {
  const cache = new PrefixCache(CHUNK, 4 * CHUNK_BYTES);
  const [a, b] = [
    [1, 1, 1, 1, 2, 2, 2, 2, 9],
    [3, 3, 3, 3, 4, 4, 4, 4, 9],
  ];
  addAll(cache, a);
  addAll(cache, b);
  expect(cache.numBytes).toBe(4 * CHUNK_BYTES);
  cache.match(a, zeros(a));
  addAll(cache, [5, 5, 5, 5, 9]);
  expect(cache.numBytes).toBe(4 * CHUNK_BYTES);
  expect(cache.match(a, zeros(a))).toHaveLength(2);
  expect(cache.match(b, zeros(b))).toHaveLength(1);
});

test("copies nothing when it may keep nothing, and nothing that it has already", () => {
  let copies = 0;
  const counted = (): Float32Array => {
    copies += 1;
    return chunk(1);
  };
  const none = new PrefixCache(CHUNK, 0);
  none.add([1, 1, 1, 1, 1], [0, 0, 0, 0, 0], 0, counted);
  expect(copies).toBe(0);
  const cache = new PrefixCache(CHUNK, 1000);
  for (let round = 0; round < 3; round++) cache.add([1, 1, 1, 1, 1], [0, 0, 0, 0, 0], 0, counted);
  expect(copies).toBe(1);
  // Without the chunk before it, a chunk could never be found.
  cache.add([2, 2, 2, 2, 3, 3, 3, 3], zeros([2, 2, 2, 2, 3, 3, 3, 3]), 1, counted);
  expect(copies).toBe(1);
});

test("what it gives is always what a prompt with the same beginning has put in", () => {
  const random = seededRandom(6);
  const cache = new PrefixCache(CHUNK, 20 * CHUNK_BYTES);
  for (let round = 0; round < 2000; round++) {
    const tokens = Array.from({ length: 1 + randomInteger(random, 20) }, () => randomInteger(random, 2));
    const experts = tokens.map(() => randomInteger(random, 2));
    const fingerprint = (index: number): number =>
      tokens
        .slice(0, (index + 1) * CHUNK)
        .reduce((sum, token, at) => (sum * 7 + token * 2 + (experts[at] as number) + 1) % 65_521, 1);
    cache.match(tokens, experts).forEach((found, index) => expect(found[0]).toBe(fingerprint(index)));
    for (let index = 0; (index + 1) * CHUNK <= tokens.length; index++) {
      cache.add(tokens, experts, index, () => chunk(fingerprint(index)));
    }
    expect(cache.numBytes).toBeLessThanOrEqual(20 * CHUNK_BYTES);
  }
});
