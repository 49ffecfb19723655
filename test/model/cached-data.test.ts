// Data in the cache folder: made once, found again, and made again when it is damaged.

import { copyFile, mkdir, open, readdir, readFile, rename, rm, truncate, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { cachedData } from "@readme-moe/model";
import { fingerprintOf } from "../../packages/model/src/cache/cached-data.ts";
import { describe, expect, test } from "vitest";
import { ENTRY_DAMAGES, onlyEntry } from "../support/cached-entry.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const KIND = "kernels";
const SIZE = 4096;

interface Maker {
  readonly path: (cache: string, key?: string) => Promise<string>;
  readonly numMade: () => number;
}

/** Makes three chunks of 4 KiB, and counts how often. */
function maker(): Maker {
  let numMade = 0;
  async function* chunks(): AsyncGenerator<Uint8Array> {
    numMade += 1;
    for (const value of [1, 2, 3]) yield new Uint8Array(SIZE).fill(value);
  }
  return {
    path: (cache, key = "model") => cachedData(cache, { kind: KIND, key, note: "a note", chunks }),
    numMade: () => numMade,
  };
}

async function expectContents(path: string): Promise<void> {
  const bytes = await readFile(path);
  expect(bytes.byteLength).toBe(3 * SIZE);
  expect([0, SIZE, 3 * SIZE - 1].map((at) => bytes[at])).toEqual([1, 2, 3]);
}

test("makes data once and then finds it", async () => {
  const cache = await temporaryFolder();
  const [first, second] = [maker(), maker()];
  await expectContents(await first.path(cache));
  await expectContents(await second.path(cache));
  expect([first.numMade(), second.numMade()]).toEqual([1, 0]);
  await onlyEntry(cache);
});

test("makes another entry for another key", async () => {
  const cache = await temporaryFolder();
  const paths = [await maker().path(cache), await maker().path(cache, "other model")];
  expect(new Set(paths).size).toBe(2);
  expect(await readdir(join(cache, KIND))).toHaveLength(2);
});

const DAMAGES: typeof ENTRY_DAMAGES = {
  ...ENTRY_DAMAGES,
  "the data missing": (entry) => rm(join(entry, "weights.bin")),
  "the data empty": (entry) => truncate(join(entry, "weights.bin"), 0),
  "the description empty": (entry) => writeFile(join(entry, "entry.json"), ""),
  "the description without a file": (entry) => writeFile(join(entry, "entry.json"), "{}"),
  "the description null": (entry) => writeFile(join(entry, "entry.json"), "null"),
  "a folder in place of the data": async (entry) => {
    await rm(join(entry, "weights.bin"));
    await mkdir(join(entry, "weights.bin"));
  },
  "an empty folder": async (entry) => {
    await rm(entry, { recursive: true });
    await mkdir(entry);
  },
};

test.each(Object.entries(DAMAGES))("makes data again when its entry is damaged: %s", async (_, damage) => {
  const cache = await temporaryFolder();
  await maker().path(cache);
  await damage(await onlyEntry(cache));
  const [rebuilt, again] = [maker(), maker()];
  await expectContents(await rebuilt.path(cache));
  await expectContents(await again.path(cache));
  expect([rebuilt.numMade(), again.numMade()]).toEqual([1, 0]);
  await onlyEntry(cache); // and nothing else was left behind
});

describe("large data that was read whole once", () => {
  const LARGE = 5 << 20;
  /** A place that no sample covers. */
  const BETWEEN = (1 << 16) + 1000;
  const LONG_AGO = new Date("2020-01-01");

  /** Makes an entry whose file was written long ago, and opens it again. */
  async function known() {
    const cache = await temporaryFolder();
    let numMade = 0;
    async function* chunks(): AsyncGenerator<Uint8Array> {
      numMade += 1;
      for (let done = 0; done < LARGE; done += SIZE) yield new Uint8Array(SIZE).fill(done / SIZE);
    }
    const path = () => cachedData(cache, { kind: KIND, key: "large", note: "a note", chunks });
    const file = await path();
    await utimes(file, LONG_AGO, LONG_AGO);
    expect(await path()).toBe(file);
    const write = async (bytes: string, at: number): Promise<void> => {
      const handle = await open(file, "r+");
      await handle.write(bytes, at);
      await handle.close();
    };
    return { file, path, write, numMade: () => numMade, original: await readFile(file) };
  }

  test("is not read whole again: other bytes of the same time may stay unnoticed", async () => {
    const { file, path, write, numMade } = await known();
    expect(numMade()).toBe(1);
    await write("other", BETWEEN);
    await utimes(file, LONG_AGO, LONG_AGO);
    await path();
    expect(numMade()).toBe(1);
    expect((await readFile(file)).toString("utf8", BETWEEN, BETWEEN + 5)).toBe("other");
  });

  test.each([
    ["its first bytes", 0],
    ["its last bytes", LARGE - 5],
    ["a block of the middle", Math.floor(((LARGE - (1 << 16)) * 7) / 15) + 100],
  ])("is made again when %s are others, whatever its time", async (_, at) => {
    const { file, path, write, numMade, original } = await known();
    await write("other", at);
    await utimes(file, LONG_AGO, LONG_AGO);
    await path();
    expect(numMade()).toBe(2);
    expect((await readFile(file)).equals(original)).toBe(true);
  });

  test("is made again when any byte was written since", async () => {
    const { file, path, write, numMade, original } = await known();
    await write("other", BETWEEN);
    await path();
    expect(numMade()).toBe(2);
    expect((await readFile(file)).equals(original)).toBe(true);
  });

  test("is made again when it is longer or shorter, whatever its time", async () => {
    const { file, path, numMade, original } = await known();
    for (const [made, length] of [LARGE + 1, LARGE - 1].entries()) {
      await truncate(file, length);
      await utimes(file, LONG_AGO, LONG_AGO);
      await path();
      expect(numMade()).toBe(2 + made);
      expect((await readFile(file)).equals(original)).toBe(true);
    }
  });

  test("is read whole again when it is a copy, and made again if that is damaged", async () => {
    const { file, path, write, numMade, original } = await known();
    const copy = async (): Promise<void> => {
      await copyFile(file, `${file}.copy`);
      await rename(`${file}.copy`, file);
      await utimes(file, LONG_AGO, LONG_AGO);
    };
    await copy();
    await path();
    expect(numMade()).toBe(1);
    // The copy is known now.
    await write("other", BETWEEN);
    await utimes(file, LONG_AGO, LONG_AGO);
    await path();
    expect(numMade()).toBe(1);
    await copy();
    await path();
    expect(numMade()).toBe(2);
    expect((await readFile(file)).equals(original)).toBe(true);
  });
});

test("gives whole data to several makers at once, also when they find a damaged entry", async () => {
  const cache = await temporaryFolder();
  const all = (): Promise<readonly string[]> => Promise.all(Array.from({ length: 5 }, () => maker().path(cache)));
  for (const path of await all()) await expectContents(path);
  await ENTRY_DAMAGES["a byte of the weights changed"]?.(await onlyEntry(cache));
  for (const path of await all()) await expectContents(path);
  await onlyEntry(cache);
});

test("fails when the cache cannot be written", async () => {
  const file = join(await temporaryFolder(), "not-a-folder");
  await writeFile(file, "");
  await expect(maker().path(file)).rejects.toMatchObject({ message: /ENOTDIR/ });
});

async function* failing(): AsyncGenerator<Uint8Array> {
  yield new Uint8Array(SIZE);
  throw new Error("the checkpoint is gone");
}

test("leaves no entry behind when the data cannot be made, and passes the error on", async () => {
  const cache = await temporaryFolder();
  await expect(cachedData(cache, { kind: KIND, key: "model", note: "a note", chunks: failing })).rejects.toThrow(
    /the checkpoint is gone/,
  );
  expect(await readdir(join(cache, KIND))).toEqual([]);
});

test("removes the old entry of a killed maker, and keeps that of a slow one", async () => {
  const cache = await temporaryFolder();
  const [killed, slow] = ["killed", "slow"].map((name) => join(cache, KIND, `.building-${name}`)) as [string, string];
  const longAgo = new Date(Date.now() - 48 * 3_600_000);
  for (const folder of [killed, slow]) {
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, "weights"), "half");
    await utimes(folder, longAgo, longAgo);
  }
  await utimes(join(killed, "weights"), longAgo, longAgo);
  await maker().path(cache);
  const names = await readdir(join(cache, KIND));
  expect(names).toContain(".building-slow");
  expect(names).not.toContain(".building-killed");
});

test("hashing a large file tells how far it is, and not at all what is remembered or small", async () => {
  const folder = await temporaryFolder();
  const [large, small] = [join(folder, "large"), join(folder, "small")];
  const bytes = 100 * 2 ** 20;
  await writeFile(large, "");
  await truncate(large, bytes);
  await writeFile(small, "small");
  const fingerprint = await fingerprintOf([large, small]);
  const told: (readonly number[])[] = [];
  const onHashed = (...progress: readonly number[]): void => void told.push(progress);
  const first = await fingerprint(folder, onHashed);
  expect(told).toEqual([32, 64, 96].map((megabytes) => [megabytes * 2 ** 20, bytes]));
  told.length = 0;
  expect(await fingerprint(folder, onHashed)).toBe(first);
  expect(told).toEqual([]);
});
