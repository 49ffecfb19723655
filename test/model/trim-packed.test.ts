// The packed weights in the cache stay below a limit: the least recently used are dropped, and none that is in use.

import { mkdir, readdir, readFile, utimes } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test, vi } from "vitest";
import { holdModel, packedLimitBytes, packedToDrop, type PackedUse, packedUses, trimPacked } from "@readme-moe/model";
import * as fc from "../support/fast-check.ts";
import { caches, pack, useEmptyCaches } from "../support/model-library.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

useEmptyCaches();

const use = fc.record({
  kind: fc.constant("kernels"),
  key: fc.stringMatching(/^[0-9a-f]{4,8}$/),
  bytes: fc.integer({ min: 0, max: 100 }),
  lastUsedMs: fc.integer({ min: 0, max: 20 }),
  isInUse: fc.boolean(),
  modelPaths: fc.constant([]),
});

function bytesOf(entries: readonly PackedUse[]): number {
  return entries.reduce((sum, entry) => sum + entry.bytes, 0);
}

describe("the choice", () => {
  test("drops no more than needed, the oldest first, and nothing in use", () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(use, { selector: ({ key }) => key }),
        fc.integer({ min: 0, max: 600 }),
        (uses, most) => {
          const dropped = packedToDrop(uses, most);
          const left = uses.filter((entry) => !dropped.includes(entry));
          const free = left.filter(({ isInUse }) => !isInUse);
          expect(dropped.some(({ isInUse }) => isInUse)).toBe(false);
          // The rest fits, or all of it is in use.
          expect(bytesOf(left) <= most || free.length === 0).toBe(true);
          const last = dropped.at(-1);
          if (last) expect(bytesOf(left) + last.bytes).toBeGreaterThan(most);
          const newest = Math.max(0, ...dropped.map(({ lastUsedMs }) => lastUsedMs));
          for (const { lastUsedMs } of free) expect(lastUsedMs).toBeGreaterThanOrEqual(newest);
        },
      ),
    );
  });
});

/** Makes a model with packed weights of about a kilobyte, last used at a time. */
async function used(name: string, atMs: number): Promise<string> {
  const path = join(await temporaryFolder(), name);
  await mkdir(path);
  await pack(path, name);
  const [own] = (await packedUses()).filter(({ modelPaths }) => modelPaths.includes(path));
  const index = join(caches.own, "models-used");
  for (const folder of await readdir(index)) {
    const file = join(index, folder, "model.json");
    const noted: unknown = JSON.parse(await readFile(file, "utf8"));
    if ((noted as { readonly path: string }).path === path) await utimes(file, new Date(atMs), new Date(atMs));
  }
  expect(own?.bytes).toBeGreaterThan(1000);
  return path;
}

describe("trimming", () => {
  test("drops the least recently used packed weights, and keeps those of an open model", async () => {
    const [oldest, older, newer] = [await used("a", 1e12), await used("b", 2e12), await used("c", 3e12)];
    const hold = await holdModel(caches.own, oldest);
    const sizes = await packedUses();
    const all = sizes.reduce((sum, { bytes }) => sum + bytes, 0);
    // Opening is a use, so the oldest is the newest now; closing does not change that.
    const dropped = await trimPacked(all - 1);
    expect(dropped.map(({ modelPaths }) => modelPaths)).toEqual([[older]]);
    expect((await trimPacked(0)).map(({ modelPaths }) => modelPaths)).toEqual([[newer]]);
    expect((await packedUses()).map(({ modelPaths, isInUse }) => ({ modelPaths, isInUse }))).toEqual([
      { modelPaths: [oldest], isInUse: true },
    ]);
    await hold.release();
    expect(await trimPacked(0)).toHaveLength(1);
    expect(await packedUses()).toEqual([]);
  });

  test("keeps what is about to be opened, however small the limit", async () => {
    const path = await used("a", 1e12);
    const [entry] = await packedUses();
    expect(await trimPacked(0, { keptKey: entry?.key })).toEqual([]);
    expect((await packedUses())[0]?.modelPaths).toEqual([path]);
  });
});

test.each([
  [undefined, 50e9],
  ["", 50e9],
  ["0", 0],
  ["123", 123],
])("README_MOE_CACHE_BYTES=%s is a limit of %d", (text, bytes) => {
  vi.stubEnv("README_MOE_CACHE_BYTES", text);
  expect(packedLimitBytes()).toBe(bytes);
});

test("README_MOE_CACHE_BYTES that is no number is refused", () => {
  vi.stubEnv("README_MOE_CACHE_BYTES", "5GB");
  expect(() => packedLimitBytes()).toThrow("Expected README_MOE_CACHE_BYTES to be a number of bytes, got `5GB`");
});
