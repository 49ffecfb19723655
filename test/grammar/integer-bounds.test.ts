// Integers at and beside their bounds: the real grammar against plain comparisons.

import { Grammars, type Constraint, type JsonSchema } from "@readme-moe/grammar";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Budget } from "../../packages/grammar/src/grammar-source.ts";
import { honouredSchema } from "../../packages/grammar/src/schema/honoured-schema.ts";
import { allowedAfter, smallVocabulary } from "../support/bound-text.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

interface Bounds {
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
  readonly exclusiveMaximum?: number;
}

const vocabulary = smallVocabulary();
let grammars: Grammars;
beforeAll(async () => {
  grammars = await Grammars.open(vocabulary);
});
afterAll(() => grammars.dispose());

/** Whether an integer keeps to its bounds, as JSON Schema words them. */
function isWithin(value: number, bounds: Bounds): boolean {
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = bounds;
  return (
    (minimum === undefined || value >= minimum) &&
    (maximum === undefined || value <= maximum) &&
    (exclusiveMinimum === undefined || value > exclusiveMinimum) &&
    (exclusiveMaximum === undefined || value < exclusiveMaximum)
  );
}

/** Integers in a row. */
function range(from: number, to: number): readonly number[] {
  return Array.from({ length: to - from + 1 }, (_, index) => from + index);
}

describe("what a schema's bounds leave of integers", () => {
  const HALVES = [undefined, ...range(-3, 3).map((twice) => twice / 2)];
  const VALUES = range(-5, 5);

  test("is what comparisons leave, for every combination of four bounds in steps of a half", () => {
    const combinations = HALVES.flatMap((minimum) =>
      HALVES.flatMap((maximum) =>
        HALVES.flatMap((exclusiveMinimum) =>
          HALVES.map((exclusiveMaximum) => ({ minimum, maximum, exclusiveMinimum, exclusiveMaximum })),
        ),
      ),
    );
    for (const combination of combinations) {
      const given = Object.entries(combination).filter(([, bound]) => bound !== undefined);
      const bounds: Bounds = Object.fromEntries(given);
      const schema = { type: "integer", ...bounds };
      const expected = VALUES.filter((value) => isWithin(value, bounds));
      const what = JSON.stringify(schema);
      if (expected.length === 0) {
        expect(() => honouredSchema(schema, new Budget()), what).toThrow(/allows no (integer|number)$/);
        continue;
      }
      const left = honouredSchema(schema, new Budget()) as Bounds;
      expect(
        VALUES.filter((value) => isWithin(value, left)),
        what,
      ).toEqual(expected);
    }
  });
});

/** Whether a text is a whole answer. */
async function accepts(constraint: Constraint, text: string): Promise<boolean> {
  const ids = [...Buffer.from(text)];
  const [end] = vocabulary.eosTokenIds;
  // A token that is not allowed may not be asked beyond.
  for (const [index, id] of ids.entries()) {
    if (!(await allowedAfter(constraint, vocabulary, ids.slice(0, index))).includes(id)) return false;
  }
  return (await allowedAfter(constraint, vocabulary, ids)).includes(end as number);
}

async function expectBounded(bounds: Bounds, values: readonly number[]): Promise<void> {
  const constraint = await grammars.jsonSchema({ type: "integer", ...bounds } satisfies JsonSchema);
  const accepted: number[] = [];
  for (const value of values) if (await accepts(constraint, String(value))) accepted.push(value);
  expect(accepted, JSON.stringify(bounds)).toEqual(values.filter((value) => isWithin(value, bounds)));
}

describe("an answer that is an integer", () => {
  test.each<Bounds>([
    { exclusiveMinimum: 3 },
    { exclusiveMaximum: 3 },
    { exclusiveMinimum: -10, exclusiveMaximum: 10 },
    { exclusiveMinimum: 0, exclusiveMaximum: 2 },
    { minimum: -9, exclusiveMaximum: -9 + 1 },
    { exclusiveMinimum: -1.5, exclusiveMaximum: 2.5 },
    { minimum: -1.5, maximum: 2.5 },
    { minimum: 5, exclusiveMinimum: 5, maximum: 7, exclusiveMaximum: 7 },
    { minimum: 6, exclusiveMinimum: 4, maximum: 8, exclusiveMaximum: 12 },
  ])("can be every integer from -12 to 13 within %j, and no other", async (bounds) => {
    await expectBounded(bounds, range(-12, 13));
  });

  test.each([1, 2, 3, 4, 5, 6])("is within bounds of any size, at and beside them (seed %i)", async (seed) => {
    const random = seededRandom(seed);
    const size = 10 ** (1 + seed);
    const low = randomInteger(random, 2 * size) - size;
    const high = low + 2 + randomInteger(random, size);
    const bounds = {
      [random() < 0.5 ? "minimum" : "exclusiveMinimum"]: low,
      [random() < 0.5 ? "maximum" : "exclusiveMaximum"]: high,
    };
    const beside = [low, high].flatMap((bound) => range(bound - 2, bound + 2));
    await expectBounded(
      bounds,
      [...new Set(beside)].toSorted((a, b) => a - b),
    );
  });
});
