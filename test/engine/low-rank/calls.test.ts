// How a step is split into calls, and how experts get their numbers: invariants of random cases.

import { expect, test } from "vitest";
import { callsOf } from "../../../packages/engine/src/kernel-calls.ts";
import { ExpertNames } from "../../../packages/engine/src/low-rank/expert-names.ts";
import type { StepSequence } from "../../../packages/engine/src/step-runner.ts";
import * as fc from "../../support/fast-check.ts";

const slot = { numTokens: 0, reservedTokens: 0 } as StepSequence["slot"];
const sequenceOf = (experts: readonly number[]): StepSequence => ({
  slot,
  tokenIds: experts.map((_, index) => index),
  experts,
  logitsOf: [experts.length - 1],
});

test("calls hold every token once and in order, within their rows and the experts that fit", () => {
  const experts = fc.array(fc.nat(6), { minLength: 1, maxLength: 30 });
  const steps = fc.array(experts, { minLength: 1, maxLength: 6 });
  fc.assert(
    fc.property(steps, fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 8 }), (lists, maxRows, most) => {
      const sequences = lists.map(sequenceOf);
      const calls = callsOf(sequences, { maxRows, fit: (some) => some.size <= most });
      const next = lists.map(() => 0);
      for (const { parts, experts: distinct } of calls) {
        expect(parts.reduce((sum, { from, to }) => sum + to - from, 0)).toBeLessThanOrEqual(maxRows);
        expect(distinct.length).toBeLessThanOrEqual(most);
        const own = parts.flatMap(({ index, from, to }) => lists[index]?.slice(from, to) ?? []);
        expect(distinct).toEqual([...new Set(own)].toSorted((a, b) => a - b));
        for (const { index, from, to, sequence, wanted } of parts) {
          expect([sequence, from]).toEqual([sequences[index], next[index]]);
          expect(to).toBeGreaterThan(from);
          const isLast = to === lists[index]?.length;
          expect(wanted.map(({ token }) => token)).toEqual(isLast ? [to - 1] : []);
          next[index] = to;
        }
      }
      expect(next).toEqual(lists.map(({ length }) => length));
    }),
  );
});

test("without a limit of experts, rows of one expert are neighbours and nothing else is split", () => {
  const sequences = [[2], [0], [2], [1, 1], [0]].map(sequenceOf);
  const [call, ...others] = callsOf(sequences, { maxRows: 100 });
  expect(others).toEqual([]);
  expect(call?.parts.map(({ index }) => index)).toEqual([1, 4, 3, 0, 2]);
  expect(call?.experts).toEqual([0, 1, 2]);
});

test("experts keep their numbers, and the number of a removed one is used again", () => {
  const command = fc.record({ name: fc.constantFrom("a", "b", "c", "d", "e"), isAdded: fc.boolean() });
  fc.assert(
    fc.property(fc.array(command, { maxLength: 40 }), (commands) => {
      const names = new ExpertNames();
      const known = new Map<string, number>();
      for (const { name, isAdded } of commands) {
        const index = known.get(name);
        if (isAdded && index !== undefined) expect(() => names.reserve(name)).toThrow(`got \`${name}\``);
        else if (isAdded) {
          const taken = new Set(known.values());
          const free = Array.from({ length: 6 }, (_, i) => i + 1).find((i) => !taken.has(i)) ?? 0;
          expect(names.reserve(name)).toBe(free);
          expect(() => names.indexOf(name)).toThrow(RangeError);
          names.setUsable(free, true);
          known.set(name, free);
        } else if (index !== undefined) {
          names.setUsable(index, false);
          expect(() => names.indexOf(name)).toThrow(RangeError);
          names.free(index);
          known.delete(name);
        }
        for (const [one, at] of known) expect([names.indexOf(one), names.indexOf(at)]).toEqual([at, at]);
        expect(names.list.filter((one) => one !== "").toSorted()).toEqual(["none", ...known.keys()].toSorted());
        expect(names.list).toHaveLength(1 + Math.max(0, ...known.values()));
      }
    }),
  );
  expect(() => new ExpertNames().indexOf("")).toThrow(RangeError);
});
