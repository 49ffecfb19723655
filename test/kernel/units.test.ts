// Kernels whose experts are placed one by one: the bits of a kernel that has them all, and what is refused.

import { expertUnits, openKernel, type Kernel, type KernelKind, type KernelPages } from "@readme-moe/kernel";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { packedBytes, setAllAngles } from "../support/kernel/packed-bytes.ts";
import {
  NUM_SMALL_PAGES,
  resultsOf,
  SMALL_EXPERTS,
  SMALL_REQUEST,
  SMALL_SHAPE,
  SMALL_SIZES,
} from "../support/kernel/small-model.ts";

const { plain, description } = SMALL_EXPERTS;
const units = expertUnits(description);
const { numLayers, numExperts } = SMALL_SHAPE;

/** Memory of whole pages: what can be resized begins at one. */
function newMemory(length: number): Uint8Array {
  return new Uint8Array(new ArrayBuffer(length, { maxByteLength: length }), 0, length);
}

describe.each<KernelKind>(["native", "wasm"])("%s kernels", (kind) => {
  let bytes: Uint8Array;
  let kernel: Kernel;
  let pages: KernelPages;
  let expected: Float32Array;

  beforeAll(async () => {
    bytes = await packedBytes(description);
    const whole = openKernel(bytes, SMALL_SIZES, { kernel: kind });
    setAllAngles(whole, plain);
    const results = resultsOf(1);
    whole.step(whole.openPages(NUM_SMALL_PAGES, "fp16"), SMALL_REQUEST, results);
    expected = results.logits;
    await whole.close();
    kernel = openKernel(bytes, { ...SMALL_SIZES, expertsFromByte: units.fromByte }, { kernel: kind });
    setAllAngles(kernel, plain);
    pages = kernel.openPages(NUM_SMALL_PAGES, "fp16");
  });

  afterAll(() => kernel.close());

  function unitOf(layer: number, expert: number, size?: number): Uint8Array {
    const { start, bytes: length } = units.rangeOf(layer, expert);
    const unit = kernel.newUnit?.(length) ?? newMemory(length);
    unit.set(bytes.subarray(start, start + length));
    return unit.subarray(0, size ?? length);
  }

  function placeAll(layer: number): void {
    for (let expert = 0; expert < numExperts; expert++) kernel.placeUnit(layer, expert, unitOf(layer, expert));
  }

  test("give the bits of all experts in memory, layer by layer", () => {
    const results = resultsOf(1);
    kernel.beginStep(pages, SMALL_REQUEST, results);
    for (let layer = 0; layer < numLayers; layer++) {
      expect(() => kernel.runLayers(layer, layer + 1)).toThrow(RangeError);
      placeAll(layer);
      kernel.runLayers(layer, layer + 1);
      for (let expert = 0; expert < numExperts; expert++) kernel.placeUnit(layer, expert, undefined);
    }
    kernel.endStep();
    expect(results.logits).toEqual(expected);
  });

  test("refuse a step without a unit, and run it when it is there", () => {
    const results = resultsOf(1);
    for (let layer = 0; layer < numLayers; layer++) placeAll(layer);
    kernel.placeUnit(numLayers - 1, 0, undefined);
    const last = SMALL_REQUEST.slice();
    // The wanted row is the last one; all rows have the first expert now.
    last.fill(0, 7 + 20, 7 + 40);
    expect(() => kernel.step(pages, last, results)).toThrow(/expert/);
    kernel.placeUnit(numLayers - 1, 0, unitOf(numLayers - 1, 0));
    kernel.step(pages, SMALL_REQUEST, results);
    expect(results.logits).toEqual(expected);
  });

  test("refuse layers that do not come next, and ends without them", () => {
    expect(() => kernel.endStep()).toThrow();
    kernel.beginStep(pages, SMALL_REQUEST, resultsOf(1));
    for (const [from, to] of [
      [1, 2],
      [0, 0],
      [0, numLayers + 1],
      [-1, 1],
    ] as const) {
      expect(() => kernel.runLayers(from, to), `${from} to ${to}`).toThrow(RangeError);
    }
    expect(() => kernel.endStep()).toThrow(RangeError);
  });

  test("refuse units that are too short, and places that are not there", () => {
    const { bytes: length } = units.rangeOf(0, 0);
    expect(() => kernel.placeUnit(0, 0, unitOf(0, 0, length - 64))).toThrow(RangeError);
    expect(() => kernel.placeUnit(0, 0, unitOf(0, 0).subarray(4))).toThrow(RangeError);
    for (const [layer, expert] of [
      [-1, 0],
      [numLayers, 0],
      [0, -1],
      [0, numExperts],
    ] as const) {
      expect(() => kernel.placeUnit(layer, expert, unitOf(0, 0)), `${layer}, ${expert}`).toThrow(RangeError);
    }
  });

  test("have none to place where all are in memory", async () => {
    const whole = openKernel(bytes, SMALL_SIZES, { kernel: kind });
    const unit = whole.newUnit?.(units.rangeOf(0, 0).bytes) ?? new Uint8Array(units.rangeOf(0, 0).bytes);
    expect(() => whole.placeUnit(0, 0, unit)).toThrow(RangeError);
    await whole.close();
  });
});

test("units lie one after the other to the file's end, each the size of its layer's", async () => {
  const ranges = Array.from({ length: numLayers * numExperts }, (_, index) =>
    units.rangeOf(Math.floor(index / numExperts), index % numExperts),
  );
  let end = units.fromByte;
  for (const { start, bytes } of ranges) {
    expect(start).toBe(end);
    end += bytes;
  }
  expect(end).toBe((await packedBytes(description)).byteLength);
  expect(() => units.rangeOf(numLayers, 0)).toThrow(RangeError);
});
