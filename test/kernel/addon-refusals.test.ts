// The addon's functions with arguments that its wrapper never passes.

import { open, writeFile, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadAddon, packNatively } from "../../packages/kernel/src/native-kernel.ts";
import { formatNumber, productBytes } from "../../packages/kernel/src/pack/block-types.ts";
import { NUM_SMALL_PAGES, resultsOf, smallBytes, SMALL_REQUEST, SMALL_SIZES } from "../support/kernel/small-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const addon = loadAddon();
const OPTIONS = Int32Array.of(1, SMALL_SIZES.maxRows, SMALL_SIZES.maxPositions, 0);
const ROOM = resultsOf(1);

/** All that is no handle, and handles of the other kind. */
const junk = (): readonly unknown[] => [undefined, null, 0, -1, NaN, "", {}, [], () => undefined, new Int32Array(4)];

let bytes: Uint8Array;
let kernel: unknown;
let pages: unknown;

/** The argument of `packRows` with a format, a source, a number of inputs and of threads. */
const optionsOf = (...numbers: readonly number[]) => [2, Int32Array.from(numbers)] as const;

/** The argument of `readRows` with a format, and numbers of inputs and of rows. */
const numbers = (...values: readonly number[]) => [4, Int32Array.from(values)] as const;

/** Calls a function of the addon with whatever arguments. */
function call(name: keyof typeof addon, ...values: readonly unknown[]): unknown {
  return (addon[name] as (...given: readonly unknown[]) => unknown)(...values);
}

const step = (...changes: readonly (readonly [index: number, value: unknown])[]): unknown => {
  const { candidateIds, logits, sums, fullLogits } = ROOM;
  const values: unknown[] = [kernel, pages, SMALL_REQUEST, candidateIds, logits, sums, fullLogits, new Float32Array(0)];
  for (const [index, value] of changes) values[index] = value;
  return call("step", ...values);
};

beforeAll(async () => {
  bytes = await smallBytes();
  kernel = addon.open(bytes, "plain", OPTIONS);
  pages = addon.openPages(kernel, NUM_SMALL_PAGES, 0, 1);
});

afterAll(() => {
  step();
  addon.close(kernel);
});

test("what is no handle is refused in the place of one", () => {
  for (const value of [...junk(), pages]) {
    expect(() => call("openPages", value, 1, 1)).toThrow(/Expected/);
    expect(() => call("rotary", value, 0, 0, new Float32Array(16))).toThrow(/Expected/);
    expect(() => call("close", value)).toThrow(/Expected/);
    expect(() => call("runLayers", value, 0, 1)).toThrow(/Expected/);
    expect(() => call("routeLayer", value, 0)).toThrow(/Expected/);
    expect(() => call("feedLayer", value, 0)).toThrow(/Expected/);
    expect(() => call("end", value)).toThrow(/Expected/);
    expect(() => call("place", value, 0, 0, new Uint8Array(64))).toThrow(/Expected/);
    expect(() => step([0, value])).toThrow(/Expected/);
  }
  for (const value of [...junk(), kernel]) {
    expect(() => call("closePages", value)).toThrow(/Expected/);
    expect(() => call("readPage", value, 0, new Uint8Array(64))).toThrow(/Expected/);
    expect(() => call("writePage", value, 0, new Uint8Array(64))).toThrow(/Expected/);
    expect(() => step([1, value])).toThrow(/Expected/);
  }
});

test("other values are refused in the place of a page and its bytes", () => {
  for (const name of ["readPage", "writePage"] as const) {
    for (const value of [undefined, null, "", {}, [], new Float32Array(4), new ArrayBuffer(64)]) {
      expect(() => call(name, pages, 0, value)).toThrow(/Expected/);
    }
    for (const value of [undefined, null, "0", {}]) {
      expect(() => call(name, pages, value, new Uint8Array(64))).toThrow(/Expected/);
    }
  }
});

test("other arrays are refused in the place of results and requests", () => {
  for (const index of [2, 3, 4, 5, 6, 7]) {
    for (const value of [
      ...junk().slice(0, -1),
      new Uint8Array(64),
      new BigInt64Array(64),
      new DataView(new ArrayBuffer(64)),
    ]) {
      expect(() => step([index, value]), `argument ${index}`).toThrow(RangeError);
    }
  }
  expect(() => step([2, new Float32Array(SMALL_REQUEST)])).toThrow(RangeError);
  expect(() => step([5, new Float32Array(2)])).toThrow(RangeError);
});

test("arrays whose memory was given away are refused", () => {
  const request = SMALL_REQUEST.slice();
  structuredClone(request.buffer, { transfer: [request.buffer] });
  expect(() => step([2, request])).toThrow(RangeError);
  const sums = new Float64Array(2);
  structuredClone(sums.buffer, { transfer: [sums.buffer] });
  expect(() => step([5, sums])).toThrow(RangeError);
});

test("calls with too few arguments are refused", () => {
  for (const name of [
    "open",
    "packRows",
    "startTeam",
    "endTeam",
    "multiplyRows",
    "openPages",
    "closePages",
    "rotary",
    "step",
    "begin",
    "runLayers",
    "routeLayer",
    "feedLayer",
    "end",
    "place",
    "close",
  ] as const) {
    expect(() => call(name), name).toThrow(/Expected/);
    expect(() => call(name, kernel, 1, 2, 3, 4, 5, 6, 7, 8), name).toThrow(/Expected/);
  }
});

test("kernels are opened from bytes or a path, with known instructions and sizes that can be", () => {
  for (const value of junk()) expect(() => call("open", value, "plain", OPTIONS)).toThrow(RangeError);
  expect(() => addon.open("/nothing/is/here", "plain", OPTIONS)).toThrow(RangeError);
  expect(() => addon.open(import.meta.dirname, "plain", OPTIONS)).toThrow(RangeError);
  expect(() => addon.open("x".repeat(40_000), "plain", OPTIONS)).toThrow(RangeError);
  for (const name of ["", "avx9", "x".repeat(100)]) expect(() => addon.open(bytes, name, OPTIONS)).toThrow(RangeError);
  for (const value of [...junk(), new Float32Array(3), new Int32Array(2), new Int32Array(3)]) {
    expect(() => call("open", bytes, "plain", value)).toThrow(RangeError);
  }
  for (const options of [
    [0, 1, 1],
    [65, 1, 1],
    [-1, 1, 1],
    [1, 0, 1],
    [1, -1, 1],
    [1, 2 ** 31 - 1, 1],
    [1, 1, 0],
    [1, 1, -5],
    [1, 1, 2 ** 31 - 1],
  ]) {
    expect(() => addon.open(bytes, "plain", Int32Array.from(options)), options.join()).toThrow(RangeError);
  }
});

test("rows are packed only if they are whole, into memory that has room for them, with the numbers that their format needs", () => {
  const [FLOAT, INT8, HALF] = [2, 3, 5];
  /** Packs two rows of 40 floats in bytes. */
  const pack = (...changes: readonly (readonly [index: number, value: unknown])[]): unknown => {
    const values: unknown[] = [
      new Uint8Array(64 * 64),
      0,
      Int32Array.of(INT8, FLOAT, 40, 1),
      new Uint8Array(2 * 160),
      new Float32Array(40),
      new Float32Array(2),
    ];
    for (const [index, value] of changes) values[index] = value;
    return call("packRows", ...values);
  };
  const noScales = [5, new Float32Array()] as const;
  pack();
  pack([4, new Float32Array()]);
  pack([0, addon.newWeights(64 * 64)]);
  pack(optionsOf(FLOAT, HALF, 40, 64), [0, new Uint8Array(4 * 64 * 40)], [3, new Uint8Array(160)], noScales);
  const refused: Readonly<Record<string, readonly (readonly [number, unknown])[]>> = {
    "no memory": [[0, undefined]],
    "too little memory": [[0, new Uint8Array(64 * 64 - 1)]],
    "too little memory of the addon": [[0, addon.newWeights(64 * 64 - 1)]],
    "a place too far": [[1, 1]],
    "a place before": [[1, -1]],
    "a place that is no number": [[1, NaN]],
    "three options": [optionsOf(INT8, FLOAT, 40)],
    "no inputs": [optionsOf(INT8, FLOAT, 0, 1)],
    "fewer inputs than none": [optionsOf(INT8, FLOAT, -40, 1)],
    "too many inputs": [optionsOf(INT8, FLOAT, 2 ** 30, 1)],
    "no threads": [optionsOf(INT8, FLOAT, 40, 0)],
    "too many threads": [optionsOf(INT8, FLOAT, 40, 65)],
    "bytes that are rounded again": [optionsOf(INT8, INT8, 40, 1)],
    "blocks that are rounded": [optionsOf(INT8, 24, 32, 1)],
    tables: [optionsOf(0, 0, 40, 1)],
    "a format of routers": [optionsOf(4, FLOAT, 40, 1)],
    "a format below all": [optionsOf(-1, -1, 40, 1), noScales],
    "a format between": [optionsOf(7, 7, 40, 1), noScales],
    "a format above all": [optionsOf(1000, 1000, 32, 1), noScales],
    "formats of files and of fitted blocks": [optionsOf(16, 16, 32, 1), noScales],
    "halves that become others": [optionsOf(HALF, 6, 40, 1), noScales],
    "halves that are divided": [optionsOf(HALF, HALF, 40, 1), noScales],
    "no rows": [[3, new Uint8Array()]],
    "part of a row": [[3, new Uint8Array(161)]],
    "too few factors": [[4, new Float32Array(39)]],
    "too many factors": [[4, new Float32Array(41)]],
    "factors of another type": [[4, new Float64Array(40)]],
    "too little room for scales": [[5, new Float32Array(1)]],
    "too much room for scales": [[5, new Float32Array(3)]],
    "scales of floats": [optionsOf(FLOAT, FLOAT, 40, 1), [0, new Uint8Array(64 * 160)]],
  };
  for (const [name, changes] of Object.entries(refused)) expect(() => pack(...changes), name).toThrow(RangeError);
  for (const index of [2, 3, 4, 5]) {
    for (const value of junk().slice(0, -1))
      expect(() => pack([index, value]), `argument ${index}`).toThrow(RangeError);
  }
});

describe.skipIf(addon.readRows === undefined)("rows of a file (skipped on Windows)", () => {
  const [NUM_IN, NUM_ROWS, ROW_BYTES] = [64, 70, 68];
  const format = formatNumber("Q8_0");
  const numBytes = productBytes("Q8_0", NUM_ROWS, NUM_IN);
  const OFFSET = 33;
  const stored = new Uint8Array(NUM_ROWS * ROW_BYTES).map((_, i) => (i * 31) % 251);
  let file: FileHandle;
  beforeAll(async () => {
    const path = join(await persistentFolder(), "rows");
    await writeFile(path, new Uint8Array([...new Uint8Array(OFFSET), ...stored]));
    file = await open(path);
  });
  afterAll(() => file.close());

  /** Reads all rows behind the first 64 bytes of an array of 64 more than they take. */
  const read = (...changes: readonly (readonly [index: number, value: unknown])[]) => {
    const target = new Uint8Array(numBytes + 128).fill(9);
    const values: unknown[] = [file.fd, OFFSET, target, 64, Int32Array.of(format, NUM_IN, NUM_ROWS)];
    for (const [index, value] of changes) values[index] = value;
    return { target, done: call("readRows", ...values) as Promise<void> };
  };

  test("are packed as rows in memory are, and nothing beside them is written", async () => {
    const expected = new Uint8Array(numBytes + 128).fill(9);
    const rows = { format, source: format, numIn: NUM_IN, inputs: new Float32Array(), scales: new Float32Array() };
    const place = { target: expected, place: 64 };
    packNatively(addon, { ...rows, rows: stored, byteLength: numBytes }, 1, place);
    const reads = Array.from({ length: 20 }, () => read());
    await Promise.all(reads.map(({ done }) => done));
    for (const { target } of reads) expect(target).toStrictEqual(expected);
  });

  test("that are not all there, or whose file cannot be read, are refused without writing beside them", async () => {
    const { target, done } = read([1, OFFSET + 1]);
    await expect(done).rejects.toThrow(`the file ends at byte ${OFFSET + stored.length}`);
    expect([...target.subarray(0, 64), ...target.subarray(64 + numBytes)]).toStrictEqual(Array(128).fill(9));
    await expect(read([1, 2 ** 40]).done).rejects.toThrow("the file ends at byte");
    await expect(read([0, 1_000_000]).done).rejects.toThrow("error 9 of the system");
    await expect(read([0, -1]).done).rejects.toThrow("error 9 of the system");
  });

  test("need whole blocks of a format that rows have, and room", () => {
    const refused: Readonly<Record<string, readonly [number, unknown]>> = {
      "no file": [0, undefined],
      "an offset before": [1, -1],
      "no memory": [2, undefined],
      "too little memory": [2, new Uint8Array(numBytes + 63)],
      "memory of the addon": [2, addon.newWeights(numBytes + 64)],
      "a place too far": [3, 129],
      "a place before": [3, -1],
      "two numbers": numbers(format, NUM_IN),
      "part of a block": numbers(format, NUM_IN + 1, NUM_ROWS),
      "no inputs": numbers(format, 0, NUM_ROWS),
      "too many inputs": numbers(format, 2 ** 30, NUM_ROWS),
      "no rows": numbers(format, NUM_IN, 0),
      "fewer rows than none": numbers(format, NUM_IN, -NUM_ROWS),
      "too many rows": numbers(format, NUM_IN, 2 ** 31 - 1),
      "rounded bytes": numbers(3, NUM_IN, NUM_ROWS),
      tables: numbers(0, NUM_IN, 1),
      "a format below all": numbers(-1, NUM_IN, 1),
      "a format above all": numbers(1000, NUM_IN, 1),
      "fitted blocks": numbers(16, NUM_IN, 1),
    };
    for (const [name, change] of Object.entries(refused)) expect(() => read(change), name).toThrow(RangeError);
    for (const index of [0, 2, 4])
      for (const value of junk().slice(-3)) expect(() => read([index, value]), `argument ${index}`).toThrow(RangeError);
  });
});
