// Plans and recommendations, on all small cases.

import { describe, expect, test } from "vitest";
import {
  leastExpertBytes,
  leastMemoryBytes,
  planMemory,
  recommend,
  tokenCycleBytes,
  type Candidate,
  type Placement,
} from "../../packages/readme-moe/src/plan/plan-memory.ts";

const SIZES = [0, 1, 3];
const LAYOUTS = [
  { numExperts: 2, layerBytes: [1] },
  { numExperts: 2, layerBytes: [1, 3] },
  { numExperts: 3, layerBytes: [2, 2] },
];

function placements(): readonly Placement[] {
  const models = ["read-me", "dense"] as const;
  const precisions = ["int8", "int4", "fp32"] as const;
  const resident = models.flatMap((model) =>
    precisions.flatMap((precision) =>
      SIZES.flatMap((weightBytes) =>
        SIZES.map((otherBytes) => ({ model, precision, weightBytes, otherBytes, streamed: undefined })),
      ),
    ),
  );
  const streamed = LAYOUTS.flatMap((layout) =>
    SIZES.map((weightBytes) => ({
      model: "read-me" as const,
      precision: "int8" as const,
      weightBytes,
      otherBytes: 1,
      streamed: layout,
    })),
  );
  return [...resident, ...streamed];
}

test("fits exactly if a cache for one layer of all experts fits, and uses the largest cache that fits", () => {
  for (const placement of placements()) {
    const { weightBytes, otherBytes, streamed } = placement;
    for (let memory = 0; memory <= 24; memory++) {
      const [plan] = planMemory([placement], memory);
      const caches = streamed
        ? Array.from({ length: 25 }, (_, bytes) => bytes).filter((bytes) => {
            const isEnough = streamed.layerBytes.every((layer) => bytes >= layer * streamed.numExperts);
            const units = streamed.layerBytes.reduce((sum, layer) => sum + layer * streamed.numExperts, 0);
            return isEnough && bytes <= units && weightBytes + otherBytes + bytes <= memory;
          })
        : [0].filter(() => weightBytes + otherBytes <= memory);
      expect(plan?.fits).toBe(caches.length > 0);
      if (plan?.fits) expect(plan.expertCacheBytes ?? 0).toBe(Math.max(...caches));
    }
  }
});

test("takes at most the memory when it fits, and fits exactly at the least memory", () => {
  for (let memory = 0; memory <= 24; memory++) {
    for (const plan of planMemory(placements(), memory)) {
      const { weightBytes, otherBytes, expertCacheBytes = 0, totalBytes, leastBytes, fits } = plan;
      expect(totalBytes).toBe(weightBytes + otherBytes + expertCacheBytes);
      expect(fits).toBe(totalBytes <= memory);
      expect(leastBytes).toBeLessThanOrEqual(totalBytes);
      expect(planMemory([plan], leastBytes)[0]).toMatchObject({ fits: true, totalBytes: leastBytes });
      expect(planMemory([plan], leastBytes - 1)[0]?.fits).toBe(false);
    }
  }
});

test("never gives a worse plan for more memory", () => {
  for (let memory = 0; memory < 24; memory++) {
    const [less, more] = [planMemory(placements(), memory), planMemory(placements(), memory + 1)];
    for (const [index, plan] of less.entries()) {
      if (plan.fits) expect(more[index]?.fits).toBe(true);
      expect(more[index]?.expertCacheBytes ?? 0).toBeGreaterThanOrEqual(plan.expertCacheBytes ?? 0);
    }
  }
});

test("returns the least memory for any placement, and for its experts", () => {
  const plans = planMemory(placements(), 4);
  const fitting = Array.from({ length: 25 }, (_, memory) => planMemory(placements(), memory)).findIndex((all) =>
    all.some(({ fits }) => fits),
  );
  expect(leastMemoryBytes(plans)).toBe(fitting);
  expect(leastExpertBytes({ numExperts: 3, layerBytes: [2, 5, 1] })).toBe(15);
  expect(tokenCycleBytes({ numExperts: 3, layerBytes: [2, 5, 1] })).toBe(8);
});

describe("a recommendation", () => {
  const streamed = { streamed: LAYOUTS[0], expertCacheBytes: 2 };

  test("is undefined when nothing fits", () => {
    expect(recommend([])).toBeUndefined();
    expect(recommend([candidate({ fits: false }), candidate({ fits: false, model: "dense" })])).toBeUndefined();
  });

  test("prefers eight bits to four, and resident experts to streamed ones", () => {
    const all = [
      candidate({ precision: "fp32" }),
      candidate(streamed),
      candidate({ precision: "int4" }),
      candidate({ precision: "int8" }),
    ];
    for (let count = 1; count <= all.length; count++)
      expect(recommend(all.slice(0, count))?.chosen).toBe(fastest(count));
    function fastest(count: number): Candidate | undefined {
      return count === 1 ? all[0] : all[count - 1];
    }
  });

  test("is the dense model, unless the experts take a tenth less time", () => {
    const dense = candidate({ model: "dense", msPerToken: 10 });
    for (const msPerToken of [5, 8.9, 9, 9.1, 10, 20]) {
      const readMe = candidate({ msPerToken });
      const isReadMe = msPerToken <= 9;
      for (const order of [
        [readMe, dense],
        [dense, readMe],
      ]) {
        expect(recommend(order)).toEqual(
          isReadMe ? { chosen: readMe, instead: dense } : { chosen: dense, instead: readMe },
        );
      }
    }
    expect(recommend([candidate({ msPerToken: 1, fits: false }), dense])).toEqual({
      chosen: dense,
      instead: undefined,
    });
  });
});

function candidate(change: Partial<Candidate>): Candidate {
  return {
    model: "read-me",
    precision: "int8",
    weightBytes: 1,
    otherBytes: 1,
    fits: true,
    leastBytes: 2,
    totalBytes: 2,
    msPerToken: 10,
    ...change,
  };
}
