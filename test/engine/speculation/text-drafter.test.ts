// What the engine's drafter proposes for sequences of real requests.

import { draftChances, newAcceptance, type Draft } from "@readme-moe/core";
import { expect, test } from "vitest";
import type { Sequence } from "../../../packages/engine/src/sequence.ts";
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
  expect(drafter.suggest(sequence, 4, chancesOf)).toMatchObject({ source: "context", tokenIds: [2, 1, 2, 1] });
  expect(propose(drafter, sequenceOf({ prompt: [1, 2, 1], allowed: { draft: new Int32Array(), numForced: 0 } }))).toBe(
    undefined,
  );
});
