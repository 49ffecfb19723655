// The memory of a draft model beside plain lists, for random sequences of two drafters.

import { PagePool } from "@readme-moe/kernel";
import { expect, test } from "vitest";
import {
  DraftModelMemory,
  type CachedSequence,
  type WantedSequence,
} from "../../../packages/engine/src/speculation/draft-model-plan.ts";
import * as fc from "../../support/fast-check.ts";

/** A sequence of a plain memory: its tokens, and the pages of 16 positions that it has. */
interface PlainSequence {
  readonly id: string;
  readonly tokens: number[];
  pages: number;
}

/** The memory of a draft model as its description says, over counts of pages. */
class PlainMemory {
  readonly #capacityPages: number;
  /** The least recently used first. */
  sequences: PlainSequence[] = [];

  constructor(capacityPages: number) {
    this.#capacityPages = capacityPages;
  }

  get pages(): number {
    return this.sequences.reduce((sum, { pages }) => sum + pages, 0);
  }

  hold(wanted: readonly WantedSequence[]): readonly (PlainSequence | undefined)[] {
    const isMember = ({ id }: PlainSequence): boolean => wanted.some((one) => one.id === id);
    const holdOne = ({ id, tokenIds, reusableTokens, roomTokens }: WantedSequence): PlainSequence | undefined => {
      const own = this.sequences.find((one) => one.id === id) ?? { id, tokens: [], pages: 0 };
      const others = this.sequences.filter((one) => one !== own);
      const differs = own.tokens.findIndex((token, at) => at >= reusableTokens || token !== tokenIds[at]);
      if (differs >= 0) own.tokens.length = differs;
      own.pages = Math.min(own.pages, Math.ceil(own.tokens.length / 16));
      const needed = Math.max(own.pages, Math.ceil(roomTokens / 16));
      // All that may leave would not be enough.
      const unmoved = others.filter(isMember).reduce((sum, { pages }) => sum + pages, needed);
      this.sequences = others;
      if (unmoved > this.#capacityPages) return undefined;
      while (this.pages + needed > this.#capacityPages)
        this.sequences.splice(
          this.sequences.findIndex((one) => !isMember(one)),
          1,
        );
      own.pages = needed;
      this.sequences.push(own);
      return own;
    };
    const isThere = new Set(this.sequences.map(({ id }) => id));
    const held = wanted.map((one) => (isThere.has(one.id) ? holdOne(one) : undefined));
    return wanted.map((one, at) => held[at] ?? holdOne(one));
  }
}

test("a draft model's memory holds what a plain list holds, while sequences grow, change, leave and come back", () => {
  const [ids, bytesPerToken] = [["a", "b", "c", "d", "e"], 8] as const;
  const sequence = fc.record({
    // Different sequences often begin with equal tokens.
    id: fc.constantFrom(...ids),
    tokenIds: fc.array(fc.nat(1), { maxLength: 40 }),
    reusable: fc.nat(40),
    more: fc.integer({ min: 1, max: 30 }),
  });
  const move = fc.record({
    kind: fc.constantFrom("hold", "hold", "hold", "hold", "release", "releaseAll"),
    which: fc.nat(1),
    wanted: fc.uniqueArray(sequence, { selector: ({ id }) => id, minLength: 1, maxLength: 3 }),
    goesOn: fc.boolean(),
  });
  const seen = { evicted: 0, refused: 0, rewound: 0 };
  fc.assert(
    fc.property(fc.array(move, { maxLength: 40, size: "max" }), fc.integer({ min: 1, max: 2 }), (moves, blocks) => {
      // Two drafters of two models.
      const drafters = [0, 1].map(() => {
        const kv = new PagePool({ capacityTokens: 64 * blocks, bytesPerToken });
        return {
          kv,
          memory: new DraftModelMemory(kv),
          plain: new PlainMemory(4 * blocks),
          known: new Set<CachedSequence>(),
        };
      });
      for (const { kind, which, wanted, goesOn } of moves) {
        const { kv, memory, plain, known } = drafters[which] as (typeof drafters)[number];
        const id = wanted[0]?.id ?? "";
        if (kind === "hold") {
          const asked = wanted.map(({ id: name, tokenIds, reusable, more }) => {
            // A sequence mostly goes on from what it was.
            const before = plain.sequences.find((one) => one.id === name)?.tokens ?? [];
            const all = goesOn ? [...before, ...tokenIds.slice(0, 3)] : tokenIds;
            return {
              id: name,
              tokenIds: all,
              reusableTokens: goesOn ? all.length : Math.min(all.length, reusable),
              roomTokens: all.length + more,
            };
          });
          const numBefore = plain.sequences.filter((one) => !asked.some((other) => other.id === one.id)).length;
          const held = memory.hold(asked);
          const expected = plain.hold(asked);
          expect(held.map((one) => one?.tokenIds)).toStrictEqual(expected.map((one) => one?.tokens));
          seen.evicted +=
            numBefore - plain.sequences.filter((one) => !asked.some((other) => other.id === one.id)).length;
          for (const [at, one] of held.entries()) {
            const [own, { tokenIds = [] } = {}] = [expected[at], asked[at]];
            if (!one || !own) {
              seen.refused++;
              continue;
            }
            known.add(one);
            expect([one.id, one.slot.numTokens]).toStrictEqual([own.id, own.tokens.length]);
            if (own.tokens.length > 0 && own.tokens.length < tokenIds.length) seen.rewound++;
            // The drafter computes the rest.
            kv.advance(one.slot, tokenIds.length - one.slot.numTokens);
            one.tokenIds.push(...tokenIds.slice(one.tokenIds.length));
            own.tokens.push(...tokenIds.slice(own.tokens.length));
          }
        } else if (kind === "release") {
          memory.release(id);
          plain.sequences = plain.sequences.filter((one) => one.id !== id);
        } else {
          memory.releaseAll();
          plain.sequences = [];
        }
        for (const drafter of drafters) {
          drafter.kv.checkIntegrity();
          expect(drafter.memory.bytes).toBe(drafter.plain.pages * 16 * bytesPerToken);
          const stillHeld = [...drafter.known].filter((one) => drafter.memory.isHeld(one));
          const state = stillHeld.map((one) => [one.id, one.tokenIds, one.slot.numTokens, one.slot.reservedTokens]);
          expect(new Map(state.map((one) => [one[0], one]))).toStrictEqual(
            new Map(
              drafter.plain.sequences.map(({ id: name, tokens, pages }) => [
                name,
                [name, tokens, tokens.length, 16 * pages],
              ]),
            ),
          );
          expect(stillHeld).toHaveLength(drafter.plain.sequences.length);
        }
      }
    }),
    { numRuns: 60 },
  );
  expect(
    Object.values(seen).every((count) => count > 50),
    JSON.stringify(seen),
  ).toBe(true);
});
