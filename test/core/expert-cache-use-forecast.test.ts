// Compares the next uses of units with a walk through the coming layers.

import { ExpertCache, type ExpertLayout, type ExpertUnit, type StepUses, type UseForecast } from "@readme-moe/core";
import { expect, test } from "vitest";
import { certainUses, nextUses } from "../../packages/core/src/expert-cache/plan-reads.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

/** Last step of estimates. */
const LAST_STEP = 3;

interface NextUse {
  readonly slot: number;
  readonly isCertain: boolean;
}

/** Walks through layer after layer, as a model runs, until one needs the unit. */
function walk(
  { layer, expert }: ExpertUnit,
  { layer: first, running, planned, laterSteps }: UseForecast,
  numLayers: number,
): NextUse {
  let slot = 0;
  for (let step = 0; step <= LAST_STEP; step++) {
    for (let at = step === 0 ? first : 0; at < numLayers; at++, slot++) {
      if (at !== layer) continue;
      const sure = [running, planned][step]?.[at]?.includes(expert) ?? false;
      if (sure || laterSteps?.[expert] === step) return { slot, isCertain: sure };
    }
  }
  return { slot: Infinity, isCertain: false };
}

test("finds the next use of each unit where a walk from any layer finds it (seed 31)", () => {
  const random = seededRandom(31);
  let numEstimates = 0;
  for (let round = 0; round < 500; round++) {
    const numLayers = 1 + randomInteger(random, 5);
    const numExperts = 1 + randomInteger(random, 4);
    const experts = Array.from({ length: numExperts }, (_, expert) => expert);
    const layout: ExpertLayout = { numExperts, layerBytes: Array<number>(numLayers).fill(1) };
    const someStep = (): StepUses => layout.layerBytes.map(() => experts.filter(() => random() < 0.3));
    const running = someStep();
    const planned = random() < 0.7 ? someStep() : undefined;
    const someSteps = (): readonly number[] =>
      experts.map(() => (random() < 0.25 ? Infinity : 1 + randomInteger(random, LAST_STEP)));
    const laterSteps = random() < 0.8 ? someSteps() : undefined;
    // The last value is between two steps.
    for (let layer = 0; layer <= numLayers; layer++) {
      const uses: UseForecast = { layer, running, planned, laterSteps };
      const { slots, isCertain } = nextUses(uses, layout, certainUses(uses));
      const expected = layout.layerBytes.flatMap((_, at) =>
        experts.map((expert) => walk({ layer: at, expert }, uses, numLayers)),
      );
      expect(Array.from(slots)).toEqual(expected.map(({ slot }) => slot));
      expect(Array.from(isCertain)).toEqual(expected.map((use) => Number(use.isCertain)));
      if (layer > 0) numEstimates += expected.filter((use) => !use.isCertain && use.slot < Infinity).length;
    }
  }
  expect(numEstimates).toBeGreaterThan(1000);
});

test("ranks an estimate for the next step's beginning before a certain use after it", () => {
  const layout = { numExperts: 3, layerBytes: [1, 1, 1] };
  const cache = new ExpertCache({ layout, budgetBytes: 2, lookaheadLayers: 0 });
  const step: StepUses = [[0], [1], [2]];
  const planned: StepUses = [[], [1], []];
  for (const layer of [0, 1]) {
    const running = step;
    cache.enterLayer({ layer, running });
    cache.ran(layer, running[layer] ?? []);
  }
  // Layer 2 takes the place of one of two: expert 0 is expected in layer 0, expert 1 is certain in the layer after it.
  const plan = cache.enterLayer({ layer: 2, running: step, planned, laterSteps: [1, Infinity, Infinity] });
  expect(plan.evict).toEqual([{ layer: 1, expert: 1, nextUse: 1 }]);
  expect(plan.load).toEqual([{ layer: 2, expert: 2 }]);
});
