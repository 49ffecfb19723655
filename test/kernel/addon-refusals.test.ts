// The addon's functions with arguments that its wrapper never passes.

import { afterAll, beforeAll, expect, test } from "vitest";
import { loadAddon } from "../../packages/kernel/src/native-kernel.ts";
import { NUM_SMALL_PAGES, resultsOf, smallBytes, SMALL_REQUEST, SMALL_SIZES } from "../support/kernel/small-model.ts";

const addon = loadAddon();
const OPTIONS = Int32Array.of(1, SMALL_SIZES.maxRows, SMALL_SIZES.maxPositions, 0);
const ROOM = resultsOf(1);

/** All that is no handle, and handles of the other kind. */
const junk = (): readonly unknown[] => [undefined, null, 0, -1, NaN, "", {}, [], () => undefined, new Int32Array(4)];

let bytes: Uint8Array;
let kernel: unknown;
let pages: unknown;

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
  pages = addon.openPages(kernel, NUM_SMALL_PAGES, true);
});

afterAll(() => {
  step();
  addon.close(kernel);
});

test("what is no handle is refused in the place of one", () => {
  for (const value of [...junk(), pages]) {
    expect(() => call("openPages", value, 1, true)).toThrow(/Expected/);
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
