// A step without decisions is counted as its single layers would be.

import { ExpertCache, EVICTION_POLICIES } from "@readme-moe/core";
import { expect, test } from "vitest";
import { randomInteger, seededRandom } from "../support/random.ts";

const NUM_EXPERTS = 4;
const LAYER_BYTES = [3, 5, 4];
const ALL_BYTES = NUM_EXPERTS * 12;

function someExperts(random: () => number): number[] {
  return Array.from({ length: NUM_EXPERTS }, (_, expert) => expert).filter(() => random() < 0.5);
}

test.each(EVICTION_POLICIES)("counts like single layers, %s", (policy) => {
  let numWhole = 0;
  for (let seed = 0; seed < 40; seed++) {
    const random = seededRandom(seed);
    const layout = { numExperts: NUM_EXPERTS, layerBytes: LAYER_BYTES };
    const budgetBytes = 20 + randomInteger(random, ALL_BYTES);
    const [one, other] = [1, 2].map(() => new ExpertCache({ layout, budgetBytes, policy })) as [
      ExpertCache,
      ExpertCache,
    ];
    let planned = someExperts(random);
    for (let step = 0; step < 20; step++) {
      const running = planned;
      planned = random() < 0.3 ? [] : someExperts(random);
      // Both could run whole; only one of them does.
      const isWhole = one.ranWholeStep(running, planned);
      if (isWhole) numWhole++;
      for (const cache of isWhole ? [other] : [one, other]) {
        for (const layer of LAYER_BYTES.keys()) {
          const everyLayer = (experts: readonly number[]) => LAYER_BYTES.map(() => experts);
          const plan = cache.enterLayer({ layer, running: everyLayer(running), planned: everyLayer(planned) });
          if (isWhole) expect(plan).toMatchObject({ evict: [], load: [] });
          cache.ran(layer, running);
        }
      }
      expect(one.state).toEqual(other.state);
      expect(one.counters).toEqual(other.counters);
      one.checkIntegrity();
    }
  }
  expect(numWhole).toBeGreaterThan(100);
});
