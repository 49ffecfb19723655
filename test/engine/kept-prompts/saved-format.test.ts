// Saved prompts: the format of a file, and the folder beside a plain one.

import { readdir, readFile, rm, stat, truncate, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import {
  encodeHead,
  fileBytes,
  headFault,
  keyOf,
  type PromptIdentity,
  type SavedHead,
  SavedPrompts,
  surplus,
  type UsedFile,
} from "../../../packages/engine/src/saved-prompts.ts";
import { withByte, wrongValues } from "../../support/damage.ts";
import * as fc from "../../support/fast-check.ts";
import { randomInteger, seededRandom } from "../../support/random.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

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

const partsOf = (name: string): readonly SavedHead[] =>
  Array.from({ length: 4 }, (_, place) => ({ key: `${name}${place}`.repeat(32), numPages: 1, pageBytes: 64 }));

describe("parts of a prompt", () => {
  const [first, second] = [partsOf("a"), partsOf("b")];
  const bytes = fileBytes(first[0] as SavedHead);
  const page = [new Uint8Array(64)];

  test("are removed from the last to the first", async () => {
    const folder = await temporaryFolder();
    const saved = new SavedPrompts(folder, 6 * bytes);
    for (const [place, head] of first.entries()) await saved.write(head, page, place);
    for (const [place, head] of second.slice(0, 3).entries()) await saved.write(head, page, place);
    const left = await Promise.all(first.map((head) => saved.touch(head)));
    expect(left).toEqual([true, true, true, false]);
  });

  test("leave room when they are cleaned up, and are cleaned up when it is used", async () => {
    const folder = await temporaryFolder();
    const saved = new SavedPrompts(folder, 6 * bytes, { slackBytes: 2 * bytes });
    const counts: number[] = [];
    for (const head of [...first, ...second]) {
      await saved.write(head, page);
      counts.push((await readdir(folder)).length);
    }
    expect(counts).toEqual([1, 2, 3, 4, 5, 6, 4, 5]);
  });

  test("take no more than their share of the free disk", async () => {
    const folder = await temporaryFolder();
    const saved = new SavedPrompts(folder, 6 * bytes, { diskShare: 0 });
    await saved.write(first[0] as SavedHead, page);
    expect(await readdir(folder)).toEqual([]);
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

/** A file of a plain folder. */
interface PlainFile {
  readonly head: SavedHead;
  readonly pages: Buffer;
  readonly bytes: number;
  usedAt: number;
  isDamaged: boolean;
}

test.each([1, 2, 3])("two processes save and read the prompts of a plain folder (seed %i)", async (seed) => {
  const random = seededRandom(seed);
  const pick = <Item>(items: readonly Item[]): Item => items[randomInteger(random, items.length)] as Item;
  const folder = join(await temporaryFolder(), "made", "later");
  const maxBytes = 1300;
  const open = (): SavedPrompts => new SavedPrompts(folder, maxBytes);
  const processes = [open(), open()];
  const files = new Map<string, PlainFile>();
  const pathOf = ({ key }: SavedHead): string => join(folder, `${key}.kv`);
  // Prompts of different keys may have equal pages, and the last one is too long to be saved.
  const heads = [1, 1, 2, 3, 5, 9].map((numPages, index) => ({
    key: `${index}`.repeat(64),
    numPages,
    pageBytes: numPages === 9 ? 256 : 128,
  }));
  const seen = { removed: 0, tooLong: 0, refused: 0, failed: 0 };
  const foreign = ["README", `${"0".repeat(64)}.kv.bak`, "0.kv"];
  for (let step = 1; step <= 120; step++) {
    const [saved, head] = [pick(processes), pick(heads)];
    const [action, known] = [randomInteger(random, 13), files.get(head.key)];
    // The clock of files that this step does not use is in the past.
    for (const file of files.values()) await utimes(pathOf(file.head), file.usedAt, file.usedAt);
    if (action < 5) {
      const pages = Buffer.alloc(head.numPages * head.pageBytes, pick(["a", "b"]));
      const cut = randomInteger(random, pages.length);
      const isFailing = random() < 0.2;
      const pieces = function* (): Generator<Uint8Array> {
        yield pages.subarray(0, cut);
        if (isFailing) throw new Error("released");
        yield pages.subarray(cut);
      };
      const bytes = fileBytes(head);
      if (bytes > maxBytes || isFailing) {
        await expect(saved.write(head, pieces())).rejects.toMatchObject({ code: "ERR_WRITE_FAILED" });
        seen[isFailing ? "failed" : "tooLong"]++;
      } else {
        // Both may save the same prompt at once.
        await Promise.all((random() < 0.3 ? processes : [saved]).map((one) => one.write(head, pieces())));
        files.set(head.key, { head, pages, bytes, usedAt: step, isDamaged: false });
        const useOf = (file: PlainFile): number => (file.head === head ? Infinity : file.usedAt);
        const byUse = (a: PlainFile, b: PlainFile): number => useOf(b) - useOf(a);
        let total = 0;
        for (const file of [...files.values()].toSorted(byUse)) {
          total += file.bytes;
          if (total > maxBytes && files.delete(file.head.key)) seen.removed++;
        }
      }
    } else if (action < 9) {
      const asked = random() < 0.2 ? { ...head, numPages: head.numPages + 1 } : head;
      const { bytes, refusal } = await saved.read(asked);
      const isRefused = known && (known.isDamaged || asked !== head);
      expect(refusal?.startsWith(`${pathOf(head)}: `)).toBe(isRefused ? true : undefined);
      expect(bytes && Buffer.from(bytes)).toStrictEqual(isRefused ? undefined : known?.pages);
      if (isRefused) seen.refused++;
      else if (known) {
        expect((await stat(pathOf(head))).mtimeMs).toBeGreaterThan(1e9);
        known.usedAt = step;
      }
    } else if (action === 9 && known) {
      const content = await readFile(pathOf(head));
      if (random() < 0.3) await truncate(pathOf(head), randomInteger(random, content.length));
      else await writeFile(pathOf(head), withByte(content, randomInteger(random, content.length), 255));
      Object.assign(known, { isDamaged: true, bytes: (await stat(pathOf(head))).size });
      known.usedAt = step;
    } else if (action === 10) {
      await rm(pathOf(head), { force: true });
      files.delete(head.key);
    } else if (known) {
      // The clock of another machine is ahead.
      known.usedAt = 4e9 + step;
      await utimes(pathOf(head), known.usedAt, known.usedAt);
    } else processes[randomInteger(random, 2)] = open();
    // Files of other programs stay in the folder.
    if (step === 30) for (const name of foreign) await writeFile(join(folder, name), "x".repeat(3000));
    const names = [...files.keys()].map((key) => `${key}.kv`);
    const found = new Set(await readdir(folder).catch(() => []));
    expect(found).toStrictEqual(new Set([...names, ...(step < 30 ? [] : foreign)]));
    const unused = [...files.values()].filter(({ usedAt: at }) => at !== step);
    for (const file of unused) expect((await stat(pathOf(file.head))).mtimeMs).toBe(file.usedAt * 1000);
  }
  expect(
    Object.values(seen).every((count) => count > 0),
    JSON.stringify(seen),
  ).toBe(true);
});
