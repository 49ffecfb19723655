import { expect, test } from "vitest";
import { nextCollection, type IdleMemory } from "../../packages/readme-moe/src/serving/idle-memory.ts";

const MB = 1 << 20;

/**
 * Parses observations such as `100 140* 140 140`, where a star marks a busy one.
 * @returns the ones that collect memory
 */
function collectionsOf(looks: string, keptAfter: number): readonly number[] {
  let memory: IdleMemory = { keptBytes: 0, wasBusy: true };
  return looks.split(" ").flatMap((look, index) => {
    const [isBusy, residentBytes] = [look.endsWith("*"), Number.parseInt(look, 10) * MB];
    const { collects, ...rest } = nextCollection(memory, { isBusy, residentBytes });
    memory = collects ? { ...rest, keptBytes: keptAfter * MB } : rest;
    return collects ? [index] : [];
  });
}

test.each([
  ["100 100 90 90", 90, [1]],
  ["100* 100* 100*", 90, []],
  ["100 100 90 200* 200 200 92 92", 90, [1, 5]],
  // A pause between two requests does not count as idle.
  ["100 100 90 200* 200 200* 200 200*", 90, [1]],
  // Small growth is never collected.
  ["100 100 95 97 98 98 98", 95, [1]],
  // Probes and scrapes let memory grow without requests.
  ["100 100 95 120 95", 95, [1, 3]],
])("%s", (looks, keptAfter, expected) => {
  expect(collectionsOf(looks, keptAfter)).toEqual(expected);
});
