// What a kernel refuses when it is called past `encodeStep`; its memory is whole afterwards.

import { join } from "node:path";
import * as fc from "../support/fast-check.ts";
import { openKernel, type Kernel, type KernelKind, type KernelPages, type KvPrecision } from "@readme-moe/kernel";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { MISUSES, NATIVE_MISUSES } from "../support/kernel/misuse.ts";
import { packedBytes } from "../support/kernel/packed-bytes.ts";
import { randomModel } from "../support/kernel/random-model.ts";
import {
  NUM_SMALL_PAGES,
  openSmall,
  resultsOf,
  SMALL_REQUEST,
  SMALL_SHAPE,
  SMALL_SIZES,
} from "../support/kernel/small-model.ts";
import { outcomeOf, startNode } from "../support/node-process.ts";

const PROGRAM = join(import.meta.dirname, "..", "support", "programs", "misuse-kernel.ts");
const SEED = 20_261_127;
const HEADER_WORDS = 6;

describe.each<KernelKind>(["native", "wasm"])("%s kernels", (kind) => {
  let kernel: Kernel;
  let pages: KernelPages;
  let logits: Float32Array;

  const logitsOfStep = (): Float32Array => {
    const results = resultsOf(1);
    kernel.step(pages, SMALL_REQUEST, results);
    return results.logits;
  };

  beforeAll(async () => {
    kernel = await openSmall({ kernel: kind });
    pages = kernel.openPages(NUM_SMALL_PAGES, "fp16");
    logits = logitsOfStep();
  });

  afterAll(async () => {
    expect(logitsOfStep()).toEqual(logits);
    await kernel.close();
  });

  test("refuse requests of another length than their header says", () => {
    for (const length of [0, 1, 5, 6, SMALL_REQUEST.length - 1]) {
      expect(() => kernel.step(pages, SMALL_REQUEST.slice(0, length), resultsOf(1)), `${length}`).toThrow(RangeError);
    }
    expect(() => kernel.step(pages, Int32Array.of(...SMALL_REQUEST, 0), resultsOf(1))).toThrow(RangeError);
  });

  test("refuse or run requests of which any words are others, and are whole afterwards", () => {
    const word = fc.oneof(fc.integer({ min: -3, max: 80 }), fc.constantFrom(-(2 ** 31), 2 ** 31 - 1, 2 ** 28, 2 ** 16));
    const changes = fc.array(fc.tuple(fc.nat(SMALL_REQUEST.length - 1), word), { minLength: 1, maxLength: 4 });
    let numRefused = 0;
    fc.assert(
      fc.property(changes, (words) => {
        const request = SMALL_REQUEST.slice();
        for (const [index, value] of words) request[index] = value;
        try {
          kernel.step(pages, request, resultsOf(8));
        } catch (error) {
          expect(error).toBeInstanceOf(RangeError);
          numRefused++;
        }
        expect(logitsOfStep()).toEqual(logits);
      }),
      { seed: SEED, numRuns: 300 },
    );
    expect(numRefused).toBeGreaterThan(100);
  });

  test("refuse requests whose header is negative or larger than any step", () => {
    for (let index = 0; index < HEADER_WORDS; index++) {
      for (const value of [-1, -(2 ** 31), 2 ** 31 - 1]) {
        const request = SMALL_REQUEST.slice();
        request[index] = value;
        expect(() => kernel.step(pages, request, resultsOf(1)), `${index}: ${value}`).toThrow(RangeError);
      }
    }
  });

  test("refuse results that there is no room for", () => {
    const room = resultsOf(1);
    expect(() => kernel.step(pages, SMALL_REQUEST, { ...room, candidateIds: new Int32Array(0) })).toThrow(RangeError);
    expect(() => kernel.step(pages, SMALL_REQUEST, { ...room, logits: new Float32Array(1) })).toThrow(RangeError);
    expect(() => kernel.step(pages, SMALL_REQUEST, { ...room, sums: new Float64Array(1) })).toThrow(RangeError);
    for (const length of [1, 10_000]) {
      const inputSquares = new Float32Array(length);
      expect(() => kernel.step(pages, SMALL_REQUEST, { ...room, inputSquares }), `${length}`).toThrow(RangeError);
    }
  });

  test("refuse angles of sets and positions that are not there", () => {
    const angles = new Float32Array(3);
    for (const set of [-1, 5]) expect(() => kernel.setAngles(set, 0, new Float32Array(16))).toThrow(RangeError);
    expect(() => kernel.setAngles(0, 0, angles)).toThrow(RangeError);
    for (const position of [-1, SMALL_SIZES.maxPositions, 2 ** 31 - 1]) {
      expect(() => kernel.setAngles(0, position, new Float32Array(64))).toThrow(RangeError);
    }
  });

  test("refuse more pages than there is memory for, and none", () => {
    for (const count of [0, -1, 2 ** 31 - 1])
      expect(() => kernel.openPages(count, "fp16"), `${count}`).toThrow(RangeError);
  });

  test("refuse an unknown precision of pages", () => {
    expect(() => kernel.openPages(1, "int4" as KvPrecision)).toThrow("memory for pages");
  });

  test("refuse pages that are closed; closing them again does nothing", () => {
    const closed = kernel.openPages(NUM_SMALL_PAGES, "fp16");
    closed.close();
    expect(() => kernel.step(closed, SMALL_REQUEST, resultsOf(1))).toThrow(/closed|pages/);
    closed.close();
    const [first, second] = [kernel.openPages(NUM_SMALL_PAGES, "fp16"), kernel.openPages(NUM_SMALL_PAGES, "fp16")];
    closed.close();
    expect(() => kernel.step(closed, SMALL_REQUEST, resultsOf(1))).toThrow(/closed|pages/);
    kernel.step(first, SMALL_REQUEST, resultsOf(1));
    kernel.step(second, SMALL_REQUEST, resultsOf(1));
    first.close();
    second.close();
  });

  test("refuse pages of a kernel whose layers or heads are others", async () => {
    for (const change of [{ numLayers: 1 }, { headSize: 32 }, { numKvHeads: 1 }]) {
      const bytes = await packedBytes(randomModel({ ...SMALL_SHAPE, ...change }).description);
      const other = openKernel(bytes, SMALL_SIZES, { kernel: kind });
      const others = other.openPages(NUM_SMALL_PAGES, "fp16");
      expect(() => kernel.step(others, SMALL_REQUEST, resultsOf(1))).toThrow(/pages/);
      others.close();
      await other.close();
    }
  });

  test("refuse everything when they are closed; closing again does nothing", async () => {
    const closed = await openSmall({ kernel: kind });
    const left = closed.openPages(NUM_SMALL_PAGES, "fp16");
    await closed.close();
    expect(() => closed.step(left, SMALL_REQUEST, resultsOf(1))).toThrow(/open|closed/);
    expect(() => closed.openPages(1, "fp16")).toThrow(/open|closed/);
    expect(() => closed.setAngles(0, 0, new Float32Array(16))).toThrow(/open|closed/);
    await closed.close();
    left.close();
  });
});

describe("mistakes of a caller", () => {
  // A kernel that reads what is not there ends its process, and the list is cut.
  test("with memory that a step needs leave a native kernel whole", async () => {
    const outcome = await outcomeOf(startNode([PROGRAM]));
    const stdout = Object.keys(NATIVE_MISUSES).map((name) => `${name}\n`);
    expect(outcome).toStrictEqual({ code: 0, signal: null, stdout: stdout.join(""), stderr: "" });
  });

  test.each(Object.entries(MISUSES))("leave a wasm kernel whole: %s", async (_, misuse) => {
    expect(await misuse("wasm")).toBeUndefined();
  });
});
