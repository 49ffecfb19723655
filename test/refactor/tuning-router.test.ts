// The text on which the costs of experts are measured.

import { expect, test } from "vitest";
import type { TextSequence } from "../../packages/refactor/src/tuning/tuning-data.ts";
import { textToMeasure } from "../../packages/refactor/src/tuning/tuning-router.ts";
import * as fc from "../support/fast-check.ts";

test("is spread over the text of each kind", () => {
  const arbitrary = fc.record({
    counts: fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 4 }),
    perKind: fc.integer({ min: 1, max: 8 }),
  });
  fc.assert(
    fc.property(arbitrary, ({ counts, perKind }) => {
      const text = counts.flatMap((count, domain) =>
        Array.from({ length: count }, (): TextSequence => ({ tokenIds: new Int32Array(4), domain })),
      );
      const chosen = textToMeasure(text, perKind);
      expect(new Set(chosen).size).toBe(chosen.length);
      for (const [kind, count] of counts.entries()) {
        const own = text.filter(({ domain }) => domain === kind);
        const places = chosen.filter(({ domain }) => domain === kind).map((one) => own.indexOf(one));
        expect(places).toHaveLength(Math.min(perKind, count));
        // No stretch without one of them is longer than the share of one.
        const ends = [-1, ...places, count];
        const gaps = ends.slice(1).map((end, index) => end - ends[index]! - 1);
        expect(Math.max(...gaps)).toBeLessThanOrEqual(Math.ceil(count / places.length));
      }
    }),
  );
});
