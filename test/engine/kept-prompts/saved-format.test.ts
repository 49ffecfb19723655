import { describe, expect, test } from "vitest";
import {
  encodeHead,
  fileBytes,
  headFault,
  keyOf,
  type PromptIdentity,
  type SavedHead,
} from "../../../packages/engine/src/kept-prompts/saved-format.ts";
import { surplus, type UsedFile } from "../../../packages/engine/src/kept-prompts/saved-prompts.ts";
import { withByte, wrongValues } from "../../support/damage.ts";
import * as fc from "../../support/fast-check.ts";

const HEAD: SavedHead = { key: "ab".repeat(32), numPages: 9, pageBytes: 4096 };

describe("the head", () => {
  const start = encodeHead(HEAD);

  test("is accepted with the size that follows from it, and with no other", () => {
    expect(headFault(Buffer.concat([start, Buffer.alloc(50)]), fileBytes(HEAD), HEAD)).toBeUndefined();
    expect(headFault(start, fileBytes(HEAD) + 1, HEAD)).toContain("instead of");
  });

  test("is refused with any wrong byte, and when it is cut", () => {
    for (const [at, byte] of start.entries()) {
      for (const wrong of wrongValues(byte)) {
        expect(headFault(withByte(start, at, wrong), fileBytes(HEAD), HEAD)).toBeDefined();
      }
      expect(headFault(start.subarray(0, at), fileBytes(HEAD), HEAD)).toBeDefined();
    }
  });
});

describe("the key", () => {
  const identity: PromptIdentity = {
    model: ["weights", "fp16", "kernel"],
    experts: new Map([
      [2, "a"],
      [5, "b"],
    ]),
    tokenIds: [1, 2, 3],
    routes: [2, 5, 2],
  };
  const key = keyOf(identity);

  test("depends on all that keys and values depend on", () => {
    const others: readonly PromptIdentity[] = [
      { ...identity, model: ["weights", "fp32", "kernel"] },
      { ...identity, model: ["weights", "fp16", "kernel", ""] },
      { ...identity, tokenIds: [1, 2, 4] },
      { ...identity, tokenIds: [1, 2], routes: [2, 5] },
      { ...identity, routes: [2, 5, 5] },
      { ...identity, experts: new Map([...identity.experts, [5, "c"]]) },
    ];
    expect(new Set([key, ...others.map(keyOf)]).size).toBe(others.length + 1);
    expect(key).toMatch(/^[0-9a-f]{64}$/);
  });

  test("does not depend on the numbers of experts", () => {
    const renumbered = new Map([
      [0, "b"],
      [9, "a"],
    ]);
    expect(keyOf({ ...identity, experts: renumbered, routes: [9, 0, 9] })).toBe(key);
  });
});

test("the files that were used last stay, as many as fit", () => {
  const file: fc.Arbitrary<Omit<UsedFile, "path">> = fc.record({ bytes: fc.nat(50), usedMs: fc.nat(20) });
  fc.assert(
    fc.property(fc.array(file, { maxLength: 12 }), fc.nat(200), (found, maxBytes) => {
      const files = found.map((one, index) => ({ ...one, path: `${index}` }));
      const removed = new Set(surplus(files, maxBytes));
      const stay = files.filter(({ path }) => !removed.has(path));
      expect(stay.reduce((sum, { bytes }) => sum + bytes, 0)).toBeLessThanOrEqual(maxBytes);
      const newestGone = Math.max(-1, ...files.filter(({ path }) => removed.has(path)).map(({ usedMs }) => usedMs));
      for (const { usedMs } of stay) expect(usedMs).toBeGreaterThanOrEqual(newestGone);
      if (files.reduce((sum, { bytes }) => sum + bytes, 0) <= maxBytes) expect(removed.size).toBe(0);
    }),
  );
});
