// Parts of `npm run bench -- limits` whose errors would not be noticed in its results.

import { stackedPicture } from "@readme-moe/refactor";
import { describe, expect, test } from "vitest";
import { randomModel } from "../../bench/random-model.ts";
import { caseName, casesOf } from "../../bench/limits/cases.ts";
import { partsOf } from "../../bench/limits/engine-figures.ts";
import { ENGINE_PARTS } from "../../bench/limits/jobs.ts";
import { readingRate } from "../../bench/limits/memory-readers.ts";
import { readingTable, readingTarget, shareOf } from "../../bench/limits/reading-share.ts";
import { runJob } from "../../bench/limits/run-job.ts";
import { allLayersMs, MEASURED_LAYERS } from "../../bench/limits/shapes.ts";
import { leastMs, stepCost } from "../../bench/limits/step-cost.ts";
import { partsPicture } from "../../bench/limits/tables.ts";
import { marksOf, parseSvg, textsOf } from "../support/svg.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { TINY_SHAPE } from "../support/tiny-shape.ts";

const settings = {
  model: "",
  dense: undefined,
  data: [],
  quick: false,
  rounds: 1,
  seed: 1,
  threads: 1,
  cacheFolder: undefined,
  set: {},
};

/** Computes the bytes of packed int8 weights: outputs in panels of 64 with a scale each, inputs in groups of 32. */
function packedBytes(numOut: number, numIn: number): number {
  return Math.ceil(numOut / 64) * 64 * (Math.ceil(numIn / 32) * 32 + 4);
}

describe("the least cost of a step", () => {
  const dense = randomModel(TINY_SHAPE, 1, 96);
  const mixture = randomModel(TINY_SHAPE, 3, 48);

  test("reads every weight except the embedding's, and the past of each sequence", () => {
    const attention = 2 * packedBytes(64, 64) + 2 * packedBytes(32, 64);
    const layer = attention + 2 * packedBytes(96, 64) + packedBytes(64, 96) + 2 * 64 * 4;
    const cost = stepCost(dense, "int8", { numSeqs: 4, past: 10, distinct: 1 });
    expect(cost.weightBytes).toBe(2 * layer + 64 * 4 + packedBytes(256, 64));
    // Keys and values in half precision.
    expect(cost.kvBytes).toBe(4 * 10 * 2 * 2 * 32 * 2);
  });

  test("computes two operations for each weight and sequence", () => {
    const attention = 64 * 64 + 2 * 32 * 64 + 64 * 64;
    const all = 2 * (attention + 3 * 96 * 64) + 256 * 64;
    expect(stepCost(dense, "int8", { numSeqs: 4, past: 10, distinct: 1 }).productOps).toBe(2 * 4 * all);
  });

  test("grows by an expert's weights with each distinct expert, up to one for each sequence", () => {
    const bytes = [1, 2, 3].map((distinct) => stepCost(mixture, "int8", { numSeqs: 2, past: 1, distinct }).weightBytes);
    const expert = 2 * (2 * packedBytes(48, 64) + packedBytes(64, 48));
    expect(bytes).toEqual([bytes[0], (bytes[0] ?? 0) + expert, bytes[1]]);
  });

  test("takes the longer of reading and computing at the machine's rates", () => {
    const cost = { weightBytes: 300, kvBytes: 100, productOps: 1000, attentionOps: 5 };
    expect(leastMs(cost, { readBytesPerMs: 200, int8OpsPerMs: 500 })).toEqual({ readMs: 2, computeMs: 2 });
  });
});

function round(stepMs: number, readGBPerS: number) {
  return { stepMs, stepGBPerS: 30 / stepMs, readGBPerS };
}

describe("figures", () => {
  test("of reading divide all threads' bytes by the time in which any thread read", () => {
    const rounds = [
      [
        [0, 10],
        [5, 20],
      ],
      [
        [20, 30],
        [20, 25],
      ],
    ] as const;
    expect(rounds.map((threads) => readingRate(threads, 1e7))).toEqual([1, 2]);
  });

  test("of a step beside reading are ratios of medians, robust against one slow round", () => {
    const rounds = [round(2, 20), round(3, 25), round(30, 2)];
    expect(shareOf(rounds)).toBe(10 / 20);
    expect(readingTable([{ name: "1,024", rounds }], 1).rows).toEqual([
      ["1,024", "3.00", "10.0", "20.0", "50 % (40 % to 75 %)"],
    ]);
    expect(readingTarget([{ name: "1,024", rounds }])).toMatchObject([{ value: 0.5, wanted: "over", limit: 0.7 }]);
  });

  test("of reading are measured by turns with steps of a real model", async () => {
    const cacheFolder = await temporaryFolder();
    const model = { shape: TINY_SHAPE, numExperts: 1, expertSize: 96 };
    const rounds = await runJob({
      kind: "reading",
      model,
      precision: "int8",
      threads: 2,
      cacheFolder,
      past: 8,
      rounds: 2,
    });
    const cost = stepCost(randomModel(TINY_SHAPE, 1, 96), "int8", { numSeqs: 1, past: 8, distinct: 1 });
    expect(rounds.length).toBe(2);
    for (const { stepMs, stepGBPerS, readGBPerS } of rounds) {
      expect(stepGBPerS * stepMs * 1e6).toBeCloseTo(cost.weightBytes + cost.kvBytes, 3);
      expect(readGBPerS).toBeGreaterThan(0.1);
      expect(readGBPerS).toBeLessThan(1000);
    }
  });

  test("of all layers are computed from those of some", () => {
    const [few, many] = MEASURED_LAYERS;
    expect(allLayersMs([stepOf(few), stepOf(many)], 28)).toBeCloseTo(stepOf(28), 9);
    expect(allLayersMs([9, 8], 28)).toBeNaN();
  });

  test("of an engine's step add up to it", () => {
    const parts = partsOf({ ms: 20, beforeForwardMs: 2, took: { forward: 12, router: 3 } });
    expect(Object.keys(parts)).toEqual(ENGINE_PARTS);
    expect(Object.values(parts).reduce((sum, ms) => sum + ms, 0)).toBe(20);
    expect(parts["sampling, events"]).toBe(3);
  });
});

describe("cases", () => {
  test("have no more experts than sequences or the model, and leave room after their past", () => {
    const { dense, mixture } = casesOf({ ...settings, set: { sequences: "1,4", contexts: "128,4096" } }, 3, 1024);
    expect(dense.map((one) => caseName(one, 1))).toEqual(["1 × 128", "4 × 128", "1 × 896", "4 × 896"]);
    const short = mixture.filter(({ past }) => past === 128).map((one) => caseName(one, 3));
    expect(short).toEqual(["1 × 128, 1 expert", "4 × 128, 1 expert", "4 × 128, 2 experts"]);
  });
});

describe("the picture", () => {
  const parts = { "forward pass": 6, router: 1, scheduling: 1, "sampling, events": 2 };
  const step = { name: "dense", engine: { step: 10, parts } };

  test("draws parts end to end, each as wide as its share", async () => {
    const document = parseSvg(await stackedPicture(partsPicture([step])));
    const rects = marksOf(document, "rect").map(({ path: [x = 0, , width = 0] }) => ({ x, width }));
    expect(marksOf(document, "rect").map(({ label }) => label)).toContain("forward pass: 6.00");
    expect(textsOf(document).map(({ text }) => text)).toEqual(expect.arrayContaining(["dense", "10.00", "scheduling"]));
    expect(rects).toHaveLength(4);
    const all = rects.reduce((sum, { width }) => sum + width, 0);
    expect((rects[0]?.width ?? 0) / all).toBeCloseTo(0.6, 3);
    rects.slice(1).forEach(({ x }, index) => {
      const before = rects[index] as (typeof rects)[number];
      expect(x).toBeCloseTo(before.x + before.width, 1);
    });
  });
});

function stepOf(layers: number): number {
  return 7 + 3 * layers;
}
