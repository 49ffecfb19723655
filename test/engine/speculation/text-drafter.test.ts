// What the engine's drafter proposes for sequences of real requests.

import { DEFAULT_COST_MODEL, draftChances, newAcceptance, type Draft } from "@readme-moe/core";
import { expect, test } from "vitest";
import type { Sequence } from "../../../packages/engine/src/sequence.ts";
import type { DraftingHead, DraftQuestion } from "../../../packages/engine/src/speculation/drafter.ts";
import { EngineDrafter } from "../../../packages/engine/src/speculation/engine-drafter.ts";
import { TextDrafter } from "../../../packages/engine/src/speculation/text-drafter.ts";

interface Parts {
  readonly requestId?: string;
  readonly cacheSalt?: string;
  readonly prompt: readonly number[];
  readonly answer?: readonly number[];
  readonly prediction?: readonly number[];
  readonly allowed?: { readonly draft: Int32Array; readonly numForced: number };
}

/** Makes the fields of a sequence that a drafter reads. */
function sequenceOf({ requestId = "a", cacheSalt, prompt, answer = [], prediction, allowed }: Parts): Sequence {
  const tokenIds = [...prompt, ...answer];
  const fields = {
    requestId,
    cacheSalt,
    tokenIds,
    promptTokens: prompt.length,
    prediction,
    isBound: allowed !== undefined,
    allowed,
    get numTokens() {
      return tokenIds.length;
    },
    get completionTokens() {
      return tokenIds.length - prompt.length;
    },
  };
  return fields as unknown as Sequence;
}

const unknown = newAcceptance();
const chancesOf = (draft: Draft): readonly number[] => draftChances(unknown, unknown, draft);
const propose = (drafter: TextDrafter, sequence: Sequence, mostTokens = 4) =>
  drafter.propose(sequence, mostTokens, chancesOf);

test("continues what the prompt had, and later what the answer had", () => {
  const drafter = new TextDrafter();
  const sequence = sequenceOf({ prompt: [1, 2, 3, 4, 5, 6, 7, 1, 2, 3] });
  expect(propose(drafter, sequence)).toMatchObject({ source: "context", tokenIds: [4, 5, 6, 7] });
  sequence.tokenIds.push(4, 9, 9, 8, 2, 3, 4);
  expect(propose(drafter, sequence, 2)).toMatchObject({ source: "context", tokenIds: [9, 9] });
});

test("begins with a prediction, and follows it", () => {
  const drafter = new TextDrafter();
  const sequence = sequenceOf({ prompt: [1, 2, 3], prediction: [20, 21, 22, 23] });
  expect(propose(drafter, sequence)).toMatchObject({ source: "prediction", tokenIds: [20, 21, 22, 23] });
  sequence.tokenIds.push(20, 21);
  expect(propose(drafter, sequence)).toMatchObject({ source: "prediction", tokenIds: [22, 23] });
});

test("continues as another choice of the same request did, and not as other requests did", () => {
  const answer = [30, 31, 32, 33, 34];
  const prompt = [1, 2, 3];
  const of = (requestId: string): Draft | undefined => {
    const drafter = new TextDrafter();
    const first = sequenceOf({ prompt, answer, requestId: "a" });
    propose(drafter, first);
    return propose(drafter, sequenceOf({ prompt, answer: [30, 31], requestId }));
  };
  expect(of("a")).toMatchObject({ source: "context", tokenIds: [32, 33, 34] });
  expect(of("b")).toBeUndefined();
});

test("proposes candidates of earlier steps after the same tokens, of requests with the same salt only", () => {
  const drafter = new TextDrafter();
  const row = {
    candidateIds: Int32Array.of(40, 41),
    candidateLogits: Float32Array.of(5, 1),
    logSumExp: 5.1,
    fullLogits: undefined,
  };
  for (const salt of [{}, { cacheSalt: "one" }, { cacheSalt: "" }]) {
    const earlier = sequenceOf({ prompt: [5, 6], answer: [40], requestId: "b", ...salt });
    expect(propose(drafter, sequenceOf({ prompt: [5, 6], ...salt }))).toBeUndefined();
    drafter.observe({ sequence: earlier, numKnown: 2, draftIds: [], rows: [row] });
    expect(propose(drafter, sequenceOf({ prompt: [5, 6], ...salt }))).toMatchObject({
      source: "recycled",
      tokenIds: [40],
    });
  }
  expect(propose(drafter, sequenceOf({ prompt: [5, 6], cacheSalt: "two" }))).toBeUndefined();
});

test("drafts of a bound sequence are those that its caller allows", () => {
  const drafter = new TextDrafter();
  const allowed = { draft: Int32Array.of(50, 51, 52), numForced: 2 };
  const sequence = sequenceOf({ prompt: [1, 2, 1], allowed });
  expect(propose(drafter, sequence)).toEqual({ source: "grammar", tokenIds: [50, 51, 52], classes: [0, 0, 1] });
  expect(drafter.likeliest(sequence, 4, chancesOf)).toMatchObject({ source: "context", tokenIds: [2, 1, 2, 1] });
  expect(propose(drafter, sequenceOf({ prompt: [1, 2, 1], allowed: { draft: new Int32Array(), numForced: 0 } }))).toBe(
    undefined,
  );
});

/** A head that drafts the same tokens in 2 ms. */
function headOf(tokenIds: readonly number[]): DraftingHead {
  let spentMs = 0;
  return {
    get spentMs() {
      return spentMs;
    },
    msPerToken: () => 2,
    propose: (asked) => {
      spentMs += 2 * asked.length;
      return asked.map(() => ({ source: "head", tokenIds, classes: tokenIds.map(() => 9) }));
    },
    follow: () => undefined,
    isPromising: () => true,
    forget: () => undefined,
  };
}

const work = { tokens: 2, distinctExperts: 1, cachedTokens: 0, missingBytes: 0 };
const step = { work, cost: DEFAULT_COST_MODEL };
const questionOf = (sequence: Sequence, allowanceMs = 10): DraftQuestion => {
  return { sequence, mostTokens: 4, allowanceMs, chancesOf };
};

test("suggests what a head drafts, and charges it with the tokens that the caller allows", async () => {
  const drafter = new EngineDrafter(headOf([60, 61, 62]));
  const allowed = { draft: new Int32Array(), numForced: 0 };
  const bound = sequenceOf({ prompt: [1, 2, 3], allowed });
  expect(drafter.suggest(questionOf(bound), step)).toMatchObject({ source: "head", tokenIds: [60, 61, 62] });
  allowed.draft = Int32Array.of(60, 61);
  const free = sequenceOf({ requestId: "b", prompt: [1, 2, 3] });
  const begun = sequenceOf({ requestId: "c", prompt: [1, 2, 3], allowed: { draft: Int32Array.of(7), numForced: 1 } });
  expect(
    await drafter.propose(
      [bound, free, begun].map((one) => questionOf(one)),
      step,
    ),
  ).toEqual([
    { draft: { source: "head", tokenIds: [60, 61], classes: [9, 9] }, drafterMs: 2 },
    { draft: { source: "head", tokenIds: [60, 61, 62], classes: [9, 9, 9] }, drafterMs: 2 },
    { draft: { source: "grammar", tokenIds: [7], classes: [0] }, drafterMs: 0 },
  ]);
});

test("suggests without a head what texts have, where time or a step is missing", () => {
  const drafter = new EngineDrafter(headOf([60]));
  const sequence = sequenceOf({ prompt: [1, 2, 1], allowed: { draft: new Int32Array(), numForced: 0 } });
  const ofTexts = { source: "context", tokenIds: [2, 1, 2, 1] };
  expect(drafter.suggest(questionOf(sequence), undefined)).toMatchObject(ofTexts);
  expect(drafter.suggest(questionOf(sequence, 1), step)).toMatchObject(ofTexts);
  expect(
    drafter.suggest(
      questionOf(sequenceOf({ prompt: [1, 2], allowed: { draft: new Int32Array(), numForced: 0 } })),
      undefined,
    ),
  ).toBe(undefined);
});
