// The forecast of routes against a plain implementation, and on routes whose chances are known.

import { RouteForecast, type RouteForecastOptions } from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import { PlainRouteForecast } from "../oracles/plain-route-forecast.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

function distinct(random: () => number, count: number, limit: number): readonly number[] {
  const chosen = new Set<number>();
  while (chosen.size < count) chosen.add(randomInteger(random, limit));
  return Array.from(chosen);
}

test("gives the chances of a plain implementation, for random sequences, chunks and routes (seed 17)", () => {
  const random = seededRandom(17);
  for (let round = 0; round < 12; round++) {
    const shape = {
      numLayers: 1 + (round % 4),
      numExperts: 3 + randomInteger(random, 4),
      expertsPerToken: 1 + (round % 3),
    };
    const layersAhead = randomInteger(random, shape.numLayers);
    const forecast = new RouteForecast({ ...shape, layersAhead, maxRows: 24, maxSequences: 24 });
    const plain = new PlainRouteForecast(shape, layersAhead);
    // Enough steps that counts are halved.
    for (let step = 0; step < 260; step++) {
      const sequences = [0, 1, 2].flatMap((id) => Array<number>(randomInteger(random, 4)).fill(id));
      if (sequences.length === 0) continue;
      forecast.beginStep(sequences);
      plain.beginStep(sequences);
      for (let layer = 0; layer < shape.numLayers; layer++) {
        const isLast = layer === shape.numLayers - 1;
        const rows = Array.from(sequences.keys()).filter(() => !isLast || random() < 0.8);
        const routes = new Map(rows.map((row) => [row, distinct(random, shape.expertsPerToken, shape.numExperts)]));
        forecast.observe(layer, Array.from(routes.values()).flat(), rows);
        plain.observe(layer, routes);
        const expected = plain.chances.flat();
        expect(forecast.chances).toHaveLength(expected.length);
        for (const [index, chance] of expected.entries()) expect(forecast.chances[index]).toBeCloseTo(chance, 5);
      }
    }
  }
});

/** Draws the routes of one sequence after another, one expert a layer. */
type NextExpert = (layer: number, before: number, previousLayer: number) => number;

const SHAPE = { numLayers: 4, numExperts: 8, expertsPerToken: 1 };

/** Runs tokens of some sequences, and collects each layer's chances before it runs beside what it then used. */
function predictions(next: NextExpert, numTokens: number, options: Partial<RouteForecastOptions> = {}) {
  const forecast = new RouteForecast({ ...SHAPE, ...options });
  const pairs: { chance: number; isUsed: boolean; token: number }[] = [];
  const last = new Map<number, number[]>();
  for (let token = 0; token < numTokens; token++) {
    const sequence = token % 2;
    const before = last.get(sequence) ?? [0, 0, 0, 0];
    const experts: number[] = [];
    forecast.beginStep([sequence]);
    for (let layer = 0; layer < SHAPE.numLayers; layer++) {
      const expert = next(layer, before[layer] ?? 0, experts[layer - 1] ?? before.at(-1) ?? 0);
      // Layer 0 follows another sequence's token here, so its chances belong to that one.
      for (let other = 0; other < (layer > 0 ? SHAPE.numExperts : 0); other++) {
        const chance = forecast.chances[layer * SHAPE.numExperts + other] as number;
        pairs.push({ chance, isUsed: other === expert, token });
      }
      experts.push(expert);
      forecast.observe(layer, [expert], [0]);
    }
    last.set(sequence, experts);
  }
  return { forecast, pairs };
}

describe("chances", () => {
  test("become certain where an expert always follows another one", () => {
    const random = seededRandom(3);
    const { pairs } = predictions(
      (layer, _, previous) => (layer === 0 ? randomInteger(random, 8) : (3 * previous + layer) % 8),
      600,
    );
    for (const { chance, isUsed } of pairs.filter(({ token }) => token > 300)) {
      if (isUsed) expect(chance).toBeGreaterThan(0.95);
      else expect(chance).toBeLessThan(0.05);
    }
  });

  test("become certain where a sequence always repeats its last token's experts", () => {
    const homes = [
      [1, 5, 2, 6],
      [7, 0, 3, 4],
    ];
    let token = 0;
    const { pairs } = predictions((layer) => homes[Math.floor(token++ / 4) % 2]?.[layer] ?? 0, 200);
    for (const { chance, isUsed } of pairs.filter((pair) => pair.token > 100)) {
      if (isUsed) expect(chance).toBeGreaterThan(0.9);
      else expect(chance).toBeLessThan(0.1);
    }
  });

  test("agree with frequencies where routes are partly random: half repeated, a quarter following, a quarter drawn", () => {
    const random = seededRandom(5);
    const { pairs } = predictions((layer, before, previous) => {
      const draw = random();
      if (draw < 0.5) return before;
      return draw < 0.75 ? (5 * previous + layer) % 8 : randomInteger(random, 8);
    }, 6000);
    const bins = Array.from({ length: 10 }, () => ({ count: 0, chances: 0, used: 0 }));
    for (const { chance, isUsed } of pairs.filter(({ token }) => token > 1500)) {
      const bin = bins[Math.min(9, Math.floor(chance * 10))]!;
      bin.count++;
      bin.chances += chance;
      bin.used += Number(isUsed);
    }
    const filled = bins.filter(({ count }) => count > 1000);
    expect(filled.length).toBeGreaterThan(3);
    for (const { count, chances, used } of filled) expect(Math.abs(chances - used) / count).toBeLessThan(0.04);
  });

  test("follow a change of the routes", () => {
    const forecast = new RouteForecast(SHAPE);
    for (let token = 0; token < 4000; token++) {
      const isLater = token >= 2000;
      forecast.beginStep([0]);
      for (let layer = 0; layer < 4; layer++) forecast.observe(layer, [isLater ? 7 - layer : layer], [0]);
    }
    for (let layer = 0; layer < 4; layer++) {
      expect(forecast.chances[layer * 8 + 7 - layer]).toBeGreaterThan(0.9);
      expect(forecast.chances[layer * 8 + layer]).toBeLessThan(0.1);
    }
  });
});

/** Runs random steps of more and more sequences. */
function runMany(): RouteForecast {
  const random = seededRandom(8);
  const shape = { numLayers: 3, numExperts: 6, expertsPerToken: 2 };
  const forecast = new RouteForecast({ ...shape, maxSequences: 8, maxRows: 4 });
  const { bytes } = forecast;
  for (let step = 0; step < 300; step++) {
    const sequences = Array.from({ length: 1 + randomInteger(random, 40) }, (_, row) => 1000 * step + (row >> 2));
    forecast.beginStep(sequences);
    for (let layer = 0; layer < 3; layer++) {
      forecast.observe(
        layer,
        sequences.flatMap(() => distinct(random, 2, 6)),
        Array.from(sequences.keys()),
      );
    }
    expect(Array.from(forecast.chances).every((chance) => chance >= 0 && chance <= 1)).toBe(true);
  }
  expect(forecast.bytes).toBe(bytes);
  return forecast;
}

test("keeps its bytes and chances in [0, 1], whatever the number of sequences and rows, and is deterministic", () => {
  const [first, second] = [runMany(), runMany()];
  expect(first.chances).toEqual(second.chances);
  // Twice the shape of OLMoE: 128 experts, 8 for each token, in 48 layers.
  const { bytes } = new RouteForecast({ numLayers: 48, numExperts: 128, expertsPerToken: 8 });
  expect(bytes).toBeLessThan(4e6);
});

/** Finds the least chance of an expert in steps of random rows. */
function leastChance(numRows: number): number {
  const random = seededRandom(2);
  const forecast = new RouteForecast({ ...SHAPE, maxRows: 2 });
  for (let step = 0; step < 400; step++) {
    const sequences = Array.from({ length: numRows }, (_, row) => row);
    forecast.beginStep(sequences);
    for (let layer = 0; layer < 3; layer++) {
      forecast.observe(
        layer,
        sequences.map(() => randomInteger(random, 8)),
        sequences,
      );
    }
  }
  return Math.min(...Array.from({ length: 8 }, (_, expert) => forecast.chances[2 * 8 + expert] as number));
}

test("raises the chances of a step with more rows than it learns from", () => {
  // Two random rows use an expert in a quarter of the steps, 32 nearly always.
  expect(leastChance(2)).toBeLessThan(0.4);
  expect(leastChance(32)).toBeGreaterThan(0.9);
});

test("rejects impossible options, naming them", () => {
  const options: RouteForecastOptions = SHAPE;
  expect(() => new RouteForecast({ ...options, expertsPerToken: 9 })).toThrow(/`expertsPerToken`.*from 1 to 8/);
  expect(() => new RouteForecast({ ...options, layersAhead: 4 })).toThrow(/`layersAhead`.*from 0 to 3/);
  expect(() => new RouteForecast({ ...options, maxSequences: 4 })).toThrow(/`maxRows`.*from 1 to 4/);
});
