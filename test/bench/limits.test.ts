// The parts of `npm run bench -- limits` that can be wrong without anybody seeing it.

import { decoderGraph } from "@readme-moe/engine";
import { stackedPicture } from "@readme-moe/refactor";
import { DOMParser } from "@xmldom/xmldom";
import { describe, expect, test } from "vitest";
import { randomModel } from "../../bench/random-model.ts";
import { caseName, casesOf } from "../../bench/limits/cases.ts";
import { partsOf } from "../../bench/limits/engine-figures.ts";
import { graphParts, PARTS } from "../../bench/limits/graph-parts.ts";
import { ENGINE_PARTS } from "../../bench/limits/jobs.ts";
import { readingRate } from "../../bench/limits/memory-readers.ts";
import { profileSums } from "../../bench/limits/profile-figures.ts";
import { readProfile } from "../../bench/limits/profile.ts";
import { readingTable, readingTarget, shareOf } from "../../bench/limits/reading-share.ts";
import { runJob } from "../../bench/limits/run-job.ts";
import { allLayersMs, MEASURED_LAYERS } from "../../bench/limits/shapes.ts";
import { leastMs, stepCost } from "../../bench/limits/step-cost.ts";
import { BETWEEN, partsOfStep, partsPicture } from "../../bench/limits/tables.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { TINY_SHAPE } from "../support/tiny-shape.ts";

const NOT_READ = {
  inputMax: () => Promise.reject(new Error("not read")),
  inputSquares: () => Promise.reject(new Error("not read")),
};
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

describe("parts of the graph", () => {
  test("has two products of attention in each layer, two of each expert, and one head", () => {
    expect(countsOf(1)).toMatchObject({ "attention products": 4, "FFN products": 4, head: 1 });
    expect(countsOf(3)).toMatchObject({ "attention products": 4, "FFN products": 12, head: 1 });
  });

  test("counts rounding to int8 with each input of a product, and scaling with each product", () => {
    // A layer has inputs of attention, its output, the FFN and its down-projection: four operators each, and one behind each product.
    // The head has both, too.
    expect(countsOf(1)["rows to int8 and back"]).toBe(2 * (4 * 4 + 4) + 4 + 1);
    // The FFN's input is rounded once for all experts.
    expect(countsOf(3)["rows to int8 and back"]).toBe(2 * (3 * 4 + 3 * 4 + 2 + 3 * 2) + 4 + 1);
  });

  test("deals to experts only where there are several", () => {
    expect(countsOf(1)["dealing to experts"]).toBeUndefined();
    expect(countsOf(3)["dealing to experts"]).toBeGreaterThan(0);
  });
});

describe("the runtime's profile", () => {
  test("gives medians without warm-up, without the clock, and an `If` without its branch", () => {
    const text = JSON.stringify([
      ...runEvents(0, 900),
      ...runEvents(2000, 10),
      ...runEvents(3000, 12),
      ...runEvents(4000, 50),
    ]);
    const { nodes, numRuns, clockUs } = readProfile(text, 1);
    expect({ numRuns, clockUs }).toEqual({ numRuns: 3, clockUs: 2 });
    const us = Object.fromEntries(nodes.map((one) => [one.name, one.us]));
    expect(us).toEqual({ reshape: 0, product: 10, if: 30 - 6 - 4 - 2 * 1 - 2, inner: 4, inner2: 2, last: 3 });
  });

  test("counts a node that ran in one run of two by half, and takes a list without its end", () => {
    const all = [...runEvents(0, 10), nodeEvent("rare", "Sub", 52, 8), ...runEvents(2000, 10)];
    const text = `${JSON.stringify(all).slice(0, -1)},\n`;
    const rare = readProfile(text, 0).nodes.find(({ name }) => name === "rare");
    expect(rare?.us).toBe((8 - 2) / 2);
  });

  test("is summed by part and by type, nodes without a part apart", () => {
    const nodes = [
      { name: "a", type: "MatMul", us: 1000 },
      { name: "b", type: "MatMul", us: 500 },
      { name: "c", type: "Add", us: 250 },
    ];
    const sums = profileSums(
      { nodes, numRuns: 1, clockUs: 0 },
      new Map([
        ["a", "head"],
        ["b", "FFN products"],
      ]),
    );
    expect(sums.parts).toEqual({ head: 1, "FFN products": 0.5, "inputs, masks, outputs": 0.25 });
    expect(sums.types).toEqual([
      { type: "MatMul", count: 2, ms: 1.5 },
      { type: "Add", count: 1, ms: 0.25 },
    ]);
    expect(sums.numUnknown).toBe(1);
  });

  test("of a session that runs has every node in a part", async () => {
    const cacheFolder = await temporaryFolder();
    const model = { shape: TINY_SHAPE, numExperts: 3, expertSize: 48 };
    const cases = [{ numSeqs: 2, past: 8, distinct: 2 }];
    const [figures] = await runJob({
      kind: "profile",
      model,
      precision: "int8",
      threads: 1,
      cacheFolder,
      cases,
      rounds: 3,
    });
    expect(figures?.numUnknown).toBe(0);
    expect(Object.keys(figures?.parts ?? {}).toSorted()).toEqual([...PARTS].toSorted());
    // Two of three experts, two layers, two products each; and attention's, and the head.
    expect(figures?.types.find(({ type }) => type === "MatMulIntegerToFloat")?.count).toBe(2 * (2 + 2 * 2) + 1);
  });
});

/** Bytes of packed int8 weights: outputs in panels of 64 with a scale each, inputs in groups of 32. */
function packedBytes(numOut: number, numIn: number): number {
  return Math.ceil(numOut / 64) * 64 * (Math.ceil(numIn / 32) * 32 + 4);
}

describe("what a step costs at least", () => {
  const dense = randomModel(TINY_SHAPE, 1, 96);
  const mixture = randomModel(TINY_SHAPE, 3, 48);

  test("is every weight but the embedding's, and the past of each sequence", () => {
    const attention = 2 * packedBytes(64, 64) + 2 * packedBytes(32, 64);
    const layer = attention + 2 * packedBytes(96, 64) + packedBytes(64, 96) + 2 * 64 * 4;
    const cost = stepCost(dense, "int8", { numSeqs: 4, past: 10, distinct: 1 });
    expect(cost.weightBytes).toBe(2 * layer + 64 * 4 + packedBytes(256, 64));
    // Keys and values in halves.
    expect(cost.kvBytes).toBe(4 * 10 * 2 * 2 * 32 * 2);
  });

  test("is two operations for each weight and sequence", () => {
    const attention = 64 * 64 + 2 * 32 * 64 + 64 * 64;
    const all = 2 * (attention + 3 * 96 * 64) + 256 * 64;
    expect(stepCost(dense, "int8", { numSeqs: 4, past: 10, distinct: 1 }).productOps).toBe(2 * 4 * all);
  });

  test("grows by an expert's weights with each distinct expert, up to one for each sequence", () => {
    const bytes = [1, 2, 3].map((distinct) => stepCost(mixture, "int8", { numSeqs: 2, past: 1, distinct }).weightBytes);
    const expert = 2 * (2 * packedBytes(48, 64) + packedBytes(64, 48));
    expect(bytes).toEqual([bytes[0], (bytes[0] ?? 0) + expert, bytes[1]]);
  });

  test("takes reading and computing at the machine's rates", () => {
    const cost = { weightBytes: 300, kvBytes: 100, productOps: 1000, attentionOps: 5 };
    expect(leastMs(cost, { readBytesPerMs: 200, int8OpsPerMs: 500 })).toEqual({ readMs: 2, computeMs: 2 });
  });
});

function round(stepMs: number, readGBPerS: number) {
  return { stepMs, stepGBPerS: 30 / stepMs, readGBPerS };
}

describe("figures", () => {
  test("of reading are all threads' bytes over the time in which any of them read", () => {
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

  test("of a step beside reading are ratios of medians, whatever one round was", () => {
    const rounds = [round(2, 20), round(3, 25), round(30, 2)];
    expect(shareOf(rounds)).toBe(10 / 20);
    expect(readingTable([{ past: 1024, rounds }], 1).rows).toEqual([
      ["1,024", "3.00", "10.0", "20.0", "50 % (40 % to 75 %)"],
    ]);
    expect(readingTarget([{ past: 1024, rounds }])).toMatchObject([{ value: 0.5, wanted: "over", limit: 0.7 }]);
  });

  test("of reading take turns with steps of a real model", async () => {
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

  test("of all layers follow from those of some", () => {
    const [few, many] = MEASURED_LAYERS;
    expect(allLayersMs([stepOf(few), stepOf(many)], 28)).toBeCloseTo(stepOf(28), 9);
    expect(allLayersMs([9, 8], 28)).toBeNaN();
  });

  test("of an engine's step add up to it", () => {
    const parts = partsOf({ ms: 20, beforeForwardMs: 2, took: { forward: 12, run: 9, append: 1, router: 3 } });
    expect(Object.keys(parts)).toEqual(ENGINE_PARTS);
    expect(Object.values(parts).reduce((sum, ms) => sum + ms, 0)).toBe(20);
    expect(parts["sampling, events"]).toBe(3);
  });
});

describe("cases", () => {
  test("have no more experts than sequences, nor than the model, and leave room behind their past", () => {
    const { dense, mixture } = casesOf({ ...settings, set: { sequences: "1,4", contexts: "128,4096" } }, 3, 1024);
    expect(dense.map((one) => caseName(one, 1))).toEqual(["1 × 128", "4 × 128", "1 × 896", "4 × 896"]);
    const short = mixture.filter(({ past }) => past === 128).map((one) => caseName(one, 3));
    expect(short).toEqual(["1 × 128, 1 expert", "4 × 128, 1 expert", "4 × 128, 2 experts"]);
  });
});

describe("the picture", () => {
  const engine = {
    step: 10,
    parts: {
      graph: 6,
      "feeds and results": 1,
      "appending keys and values": 0.5,
      router: 0.5,
      scheduling: 1,
      "sampling, events": 1,
    },
  };
  const profile = { parts: { head: 2, norms: 1 }, types: [], numNodes: 2, numUnknown: 0 };
  const step = { name: "dense", engine, profile };

  test("has what is between nodes, and sums to the step", () => {
    const parts = partsOfStep(step);
    expect(parts[BETWEEN]).toBe(3);
    expect(Object.values(parts).reduce((sum, ms) => sum + ms, 0)).toBe(10);
  });

  test("lays parts end to end, each as wide as its share", () => {
    const document = new DOMParser().parseFromString(stackedPicture(partsPicture([step])), "image/svg+xml");
    const rects = Array.from(document.getElementsByTagName("rect"))
      .filter((rect) => rect.getAttribute("height") === "20")
      .map((rect) => ({ x: Number(rect.getAttribute("x")), width: Number(rect.getAttribute("width")) }));
    expect(rects).toHaveLength(8);
    const all = rects.reduce((sum, { width }) => sum + width, 0);
    expect((rects[0]?.width ?? 0) / all).toBeCloseTo(0.2, 3);
    rects.slice(1).forEach(({ x }, index) => {
      const before = rects[index] as (typeof rects)[number];
      expect(x).toBeCloseTo(before.x + before.width, 1);
    });
  });
});

/** Nodes of each part, of a mixture of so many experts. */
function countsOf(numExperts: number): Record<string, number> {
  const graph = decoderGraph(randomModel(TINY_SHAPE, numExperts, 48), { precision: "int8", calibration: NOT_READ });
  const counts: Record<string, number> = {};
  for (const part of graphParts(graph).values()) counts[part] = (counts[part] ?? 0) + 1;
  return counts;
}

function nodeEvent(name: string, type: string, ts: number, dur: number) {
  return {
    cat: "Node",
    name: `${name}_kernel_time`,
    ts,
    dur,
    args: { op_name: type },
  };
}

function runEvent(ts: number, dur: number) {
  return { cat: "Session", name: "model_run", ts, dur, args: {} };
}

function stepOf(layers: number): number {
  return 7 + 3 * layers;
}

/** Gaps of 1, a clock of 2; the `If` holds two nodes and the writing of both. */
function runEvents(ts: number, product: number) {
  return [
    nodeEvent("reshape", "Reshape", ts, 2),
    nodeEvent("product", "MatMul", ts + 3, product),
    nodeEvent("if", "If", ts + product + 4, 30),
    nodeEvent("inner", "Mul", ts + product + 8, 6),
    nodeEvent("inner2", "Mul", ts + product + 18, 4),
    nodeEvent("last", "Add", ts + product + 35, 5),
    runEvent(ts, product + 41),
  ];
}
