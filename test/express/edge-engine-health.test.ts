// When an engine counts as failing, and what the routes of health answer: against plain rules, for all short histories.

import { ReadMeError } from "@readme-moe/core";
import { ApiError } from "@readme-moe/express";
import { describe, expect, test } from "vitest";
import {
  afterOutcome,
  type EngineOutcome,
  freshRecord,
  isFailing,
  MODEL_STATES,
  outcomeKind,
  type OutcomeKind,
} from "../../packages/express/src/edge/models/model-entry.ts";
import { verdicts, type JudgedModel } from "../../packages/express/src/edge/operations.ts";
import { ClientGone } from "../../packages/express/src/http/request.ts";

const KINDS: readonly OutcomeKind[] = ["answer", "fault", "neither"];

function* tuples<Item>(items: readonly Item[], length: number): Generator<readonly Item[]> {
  if (length === 0) yield [];
  else for (const head of items) for (const tail of tuples(items, length - 1)) yield [head, ...tail];
}

function recordOf(outcomes: readonly EngineOutcome[]): ReturnType<typeof freshRecord> {
  return outcomes.reduce(afterOutcome, freshRecord(0));
}

/** Finds the longest chain of faults since the last answer, each begun after the one before, by trying all. */
function longestChain(outcomes: readonly EngineOutcome[]): number {
  const faults = outcomes
    .slice(outcomes.findLastIndex(({ kind }) => kind === "answer") + 1)
    .filter(({ kind, startedMs }) => kind === "fault" && startedMs >= 0);
  let longest = 0;
  for (let chosen = 0; chosen < 1 << faults.length; chosen++) {
    const chain = faults.filter((_, index) => chosen & (1 << index));
    const isChain = chain.every(({ startedMs }, index) => startedMs >= (chain[index - 1]?.endedMs ?? 0));
    if (isChain) longest = Math.max(longest, chain.length);
  }
  return longest;
}

/** Lists all requests that may end at `at + 1`, with any earlier begin. */
const requests = (at: number) =>
  (["fault", "answer"] as const).flatMap((kind) =>
    Array.from({ length: at + 1 }, (_, back) => ({ kind, startedMs: back, endedMs: at + 1 })),
  );

describe("an engine's record", () => {
  test("counts faults in a row until an answer", () => {
    for (const kinds of tuples(KINDS, 7)) {
      const record = recordOf(kinds.map((kind, at) => ({ kind, startedMs: at, endedMs: at + 0.5 })));
      const told = kinds.filter((kind) => kind !== "neither");
      const inARow = told.length - (told.findLastIndex((kind) => kind === "answer") + 1);
      expect([record.failures, isFailing(record, 3)]).toEqual([inARow, inARow >= 3]);
    }
  });

  test("counts faults of requests that ran at the same time once, in every overlap of five", () => {
    const extend = (before: readonly EngineOutcome[]): void => {
      if (before.length > 0 && before.every(({ kind }) => kind === "fault")) {
        expect(recordOf(before).failures, JSON.stringify(before)).toBe(longestChain(before));
      }
      // An answer ends a row; a request that began before it and fails after it may begin a new one.
      expect(recordOf(before).failures).toBeLessThanOrEqual(longestChain(before));
      if (before.length === 5) return;
      for (const next of requests(before.length)) extend([...before, next]);
    };
    extend([]);
  });

  test("ignores requests that began before the engine was opened again", () => {
    const record = afterOutcome(freshRecord(10), { kind: "fault", startedMs: 9, endedMs: 11 });
    expect(record.failures).toBe(0);
    expect(afterOutcome(record, { kind: "fault", startedMs: 10, endedMs: 12 })).toMatchObject({ failingSinceMs: 12 });
  });
});

const readMe = (code: ConstructorParameters<typeof ReadMeError>[0]) => new ReadMeError(code, "");
const api = (status: number, cause?: unknown) => new ApiError({ status, type: "t", message: "", cause });

test("an error is a fault of the engine or not", () => {
  for (const [error, kind] of [
    [undefined, "answer"],
    [new ClientGone("left"), "neither"],
    [api(400, new TypeError("a wrong prompt")), "neither"],
    [api(503), "neither"],
    [api(500, new TypeError("of a grammar")), "neither"],
    [readMe("ERR_QUEUE_FULL"), "neither"],
    [readMe("ERR_DISPOSED"), "neither"],
    [api(400, readMe("ERR_CONTEXT_LENGTH")), "neither"],
    [api(503, readMe("ERR_ENGINE_FAILED")), "fault"],
    [readMe("ERR_FILE_UNREADABLE"), "fault"],
    [new Error("outer", { cause: readMe("ERR_RUNTIME") }), "fault"],
    [new TypeError("a defect"), "fault"],
    ["thrown text", "fault"],
  ] as const) {
    expect(outcomeKind(error), String(error)).toBe(kind);
  }
});

/** Also one that is opened for a request, unless its last opening has failed. */
const works = ({ state, isHung, code }: JudgedModel) =>
  !isHung && (state === "ready" || state === "opening" || (state === "closed" && code === undefined));
const isLost = ({ state, isHung }: JudgedModel) => state === "failed" || state === "failing" || isHung;

test("the routes of health answer by the rules, for all pairs of models in all states", () => {
  const each = MODEL_STATES.flatMap((state) => [false, true].map((isHung) => ({ state, isHung })));
  for (const [first, second] of tuples(each, 2)) {
    for (const isDraining of [false, true]) {
      const models = [
        { name: "a", code: "ERR_X", ...first },
        { name: "b", ...second },
      ] as readonly JudgedModel[];
      const { health, ready, live } = verdicts(models, isDraining);
      expect(health.isGood).toBe(models.every(works));
      expect(ready.isGood).toBe(models.some(works) && !isDraining);
      expect(live.isGood).toBe(!models.some(isLost));
      // The message names the model.
      for (const { name, ...model } of models) {
        if (!live.isGood) expect(live.message.includes(`model ${name} `)).toBe(isLost({ name, ...model }));
        if (!health.isGood && !works({ name, ...model }) && model.state !== "loading") {
          expect(health.message).toContain(`model ${name} `);
        }
        if (!ready.isGood && !isDraining) expect(ready.message).toContain(`model ${name} `);
      }
    }
  }
  expect(verdicts([{ name: "a", state: "loading", isHung: false }], false).health).toEqual({
    isGood: false,
    message: "Loading model",
  });
});
