// Kernels of mixtures refuse descriptions that do not fit, calls in another order, missing experts, and loras of
// experts. A refused call has run nothing.

import {
  encodeStep,
  expertUnits,
  openKernel,
  packLora,
  type DecoderDescription,
  type Kernel,
  type KernelKind,
  type KernelPages,
  type MixtureDescription,
  type PackedTensor,
  type StepResults,
} from "@readme-moe/kernel";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { memoryTensor } from "../support/kernel/memory-store.ts";
import type { ModelShape } from "../support/kernel/model-shape.ts";
import { packedBytes, setAllAngles } from "../support/kernel/packed-bytes.ts";
import { randomModel } from "../support/kernel/random-model.ts";
import { randomWeights, WEIGHT_FORMATS } from "../support/kernel/random-weights.ts";
import { pageMemory } from "../support/page-memory.ts";
import { seededRandom } from "../support/random.ts";

const SHAPE: ModelShape = {
  seed: 1,
  hiddenSize: 64,
  headSize: 16,
  numKvHeads: 2,
  ffnSize: 96,
  numExperts: 1,
  numLayers: 3,
  vocabSize: 70,
  formats: [1],
  mixture: { share: 0.6, numExperts: 5, expertsPerToken: 2 },
};

const mixturesOf = ({ layers }: DecoderDescription): readonly boolean[] => layers.map(({ mixture }) => !!mixture);

// A seed whose layers are a mixture, a dense one, and a mixture.
const { plain, description } = [...Array(200).keys()]
  .map((seed) => randomModel({ ...SHAPE, seed }))
  .find((model) => mixturesOf(model.description).join() === "true,false,true") as ReturnType<typeof randomModel>;
const units = expertUnits(description);
const SIZES = { threads: 2, maxRows: 16, maxPositions: 128 } as const;
const NUM_ROWS = 9;
const REQUEST = encodeStep(
  [{ tokenIds: Array.from({ length: NUM_ROWS }, (_, i) => 7 * i), position: 0, pages: [0], logitsOf: [2, 8] }],
  1,
);

function roomFor(numWanted: number): StepResults {
  return {
    candidateIds: new Int32Array(numWanted),
    logits: new Float32Array(2 * numWanted),
    sums: new Float64Array(2 * numWanted),
    fullLogits: new Float32Array(0),
  };
}

/** Makes weights of a router in one of WEIGHT_FORMATS. */
function router(format: number, numOut: number, numIn: number): PackedTensor {
  const shape = { format: WEIGHT_FORMATS[format]!, numOut, numIn, biasScale: 0 };
  return randomWeights(seededRandom(1), shape).packed;
}

describe.each<KernelKind>(["native", "wasm"])("%s kernels", (kind) => {
  let bytes: Uint8Array;
  let kernel: Kernel;
  let pages: KernelPages;
  let expected: Float32Array;

  beforeEach(async () => {
    bytes = await packedBytes(description);
    const whole = openKernel(bytes, SIZES, { kernel: kind });
    setAllAngles(whole, plain);
    const results = roomFor(2);
    whole.step(whole.openPages(2, "fp16"), REQUEST, results);
    expected = results.logits;
    await whole.close();
    kernel = openKernel(bytes, { ...SIZES, expertsFromByte: units.fromByte }, { kernel: kind });
    setAllAngles(kernel, plain);
    pages = kernel.openPages(2, "fp16");
  });

  afterEach(() => kernel.close());

  function place(layer: number, experts: Iterable<number>): void {
    for (const expert of experts) {
      const { start, bytes: length } = units.rangeOf(layer, expert);
      const unit = kernel.newUnit?.(length) ?? pageMemory(length);
      unit.set(bytes.subarray(start, start + length));
      kernel.placeUnit(layer, expert, unit);
    }
  }

  test("run mixtures router by router, and refuse every other order in between", () => {
    const results = roomFor(2);
    expect(() => kernel.routeLayer(0)).toThrow(RangeError);
    kernel.beginStep(pages, REQUEST, results);
    for (const layer of [1, 2, 3, -1, 2 ** 31 - 1])
      expect(() => kernel.routeLayer(layer), `${layer}`).toThrow(RangeError);
    for (const layer of [0, 1]) expect(() => kernel.feedLayer(layer), `${layer}`).toThrow(RangeError);
    const first = kernel.routeLayer(0);
    expect(first).toHaveLength(NUM_ROWS * 2);
    expect(() => kernel.routeLayer(0)).toThrow(RangeError);
    expect(() => kernel.runLayers(0, 1)).toThrow(RangeError);
    expect(() => kernel.runLayers(1, 2)).toThrow(RangeError);
    expect(() => kernel.endStep()).toThrow(RangeError);
    const [missing, ...others] = new Set(first);
    expect(() => kernel.feedLayer(0)).toThrow(/expert/);
    place(0, others);
    expect(() => kernel.feedLayer(0)).toThrow(/expert/);
    place(0, [missing!]);
    kernel.feedLayer(0);
    expect(() => kernel.feedLayer(0)).toThrow(RangeError);
    // The second layer is dense.
    expect(() => kernel.routeLayer(1)).toThrow(/router/);
    kernel.runLayers(1, 2);
    const last = kernel.routeLayer(2);
    expect(last).toHaveLength(2 * 2);
    place(2, new Set(last));
    kernel.feedLayer(2);
    kernel.endStep();
    expect(results.logits).toEqual(expected);
  });

  test("run whole steps when all experts are there, and only then", () => {
    const results = roomFor(2);
    const all = [...Array(units.numExperts).keys()];
    for (const layer of [0, 2]) place(layer, all);
    kernel.placeUnit(2, 4, undefined);
    expect(() => kernel.step(pages, REQUEST, results)).toThrow(/expert/);
    place(2, [4]);
    kernel.step(pages, REQUEST, results);
    expect(results.logits).toEqual(expected);
  });

  test("choose no experts in the last layer when no logits are wanted", () => {
    const request = encodeStep([{ tokenIds: [1, 2], position: 0, pages: [1], logitsOf: [] }], 1);
    kernel.beginStep(pages, request, roomFor(0));
    place(0, kernel.routeLayer(0));
    kernel.feedLayer(0);
    kernel.runLayers(1, 2);
    expect(kernel.routeLayer(2)).toEqual(new Int32Array(0));
    kernel.feedLayer(2);
    kernel.endStep();
  });

  test("begin again after a step that was left between router and experts", () => {
    kernel.beginStep(pages, REQUEST, roomFor(2));
    kernel.routeLayer(0);
    const results = roomFor(2);
    for (const layer of [0, 2]) place(layer, Array(units.numExperts).keys());
    kernel.beginStep(pages, REQUEST, results);
    expect(() => kernel.feedLayer(0)).toThrow(RangeError);
    kernel.runLayers(0, 3);
    kernel.endStep();
    expect(results.logits).toEqual(expected);
  });

  test("refuse experts of dense layers, and those that are not there", () => {
    const unit = kernel.newUnit?.(units.layerBytes[0]!) ?? pageMemory(units.layerBytes[0]!);
    for (const [layer, expert] of [
      [1, 0],
      [0, 5],
      [0, -1],
      [3, 0],
    ] as const) {
      expect(() => kernel.placeUnit(layer, expert, unit), `${layer}, ${expert}`).toThrow(RangeError);
    }
  });

  test("open no mixture that does not fit", async () => {
    const mixture = description.layers[0]!.mixture!;
    const changes: readonly (readonly [Partial<MixtureDescription>, RegExp])[] = [
      [{ expertsPerToken: 6 }, /a mixture's sizes/],
      [{ expertsPerToken: 0 }, /a mixture's sizes/],
      [{ expertsPerToken: -1 }, /a mixture's sizes/],
      [{ experts: [] }, /a mixture's sizes/],
      [{ router: router(0, 4, 64) }, /shape/],
      [{ router: router(0, 7, 64) }, /shape/],
      [{ router: router(0, 5, 63) }, /shape/],
      [{ router: router(1, 5, 64) }, /the format of a router/],
      [{ experts: mixture.experts.slice(1) }, /shape/],
      [{ experts: mixture.experts.map((expert) => ({ ...expert, down: expert.up })) }, /shape|expert/],
    ];
    for (const [change, reason] of changes) {
      const [first, ...others] = description.layers;
      const layers = [{ ...first!, mixture: { ...mixture, ...change } }, ...others];
      const damaged = await packedBytes({ ...description, layers });
      expect(() => openKernel(damaged, SIZES, { kernel: kind }), JSON.stringify(Object.keys(change))).toThrow(reason);
    }
  });

  test("refuse loras of a mixture's experts", async () => {
    const { hiddenSize } = SHAPE;
    const numOut = plain.layers[0]!.mixture!.experts[0]!.up.numOut;
    const refs = {
      rank: 1,
      scale: 1,
      a: memoryTensor(new Float32Array(hiddenSize).fill(1), [1, hiddenSize]),
      b: memoryTensor(new Float32Array(numOut).fill(1), [numOut, 1]),
    };
    const pieces: Uint8Array[] = [];
    const layers = plain.layers.map((_, index) => (index === 0 ? { up: refs } : {}));
    for await (const piece of packLora({ layers, head: undefined }, "fp32", () => ({}))) pieces.push(piece);
    const lora = pageMemory(pieces.reduce((sum, { length }) => sum + length, 0));
    lora.set(Buffer.concat(pieces));
    expect(() => kernel.placeLora(0, lora)).toThrow("a lora of a product that the model does not have");
  });
});

test("units of mixtures lie behind what all tokens use; dense layers have none", async () => {
  const ranges = [0, 2].flatMap((layer) => Array.from({ length: 5 }, (_, expert) => units.rangeOf(layer, expert)));
  let end = units.fromByte;
  for (const { start, bytes } of ranges) {
    expect(start).toBe(end);
    end += bytes;
  }
  expect(end).toBe((await packedBytes(description)).byteLength);
  expect(units.numExperts).toBe(5);
  expect(units.layerBytes[1]).toBe(0);
  expect(() => units.rangeOf(1, 0)).toThrow(RangeError);
});

test("descriptions of which layers have experts of both kinds, or of other numbers, have no units", () => {
  const [first, dense, last] = description.layers;
  const { mixture } = first!;
  const fewer = { ...last!, mixture: { ...mixture!, experts: mixture!.experts.slice(1) } };
  const named = { ...dense!, experts: mixture!.experts };
  for (const layers of [[first!, fewer], [first!, named], [dense!], [named, dense!]]) {
    expect(() => expertUnits({ ...description, layers })).toThrow(TypeError);
  }
});
