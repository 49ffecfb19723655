// The log of an answer, cut and written again in any way, gives each reader the same answer once.

import { GenerationStream, type GenerateChunk } from "@readme-moe/core";
import { expect, test } from "vitest";
import { Follower } from "../../packages/fleet/src/front/followed-requests.ts";
import { AnswerProgress, type PlacedChunk, readEntry, writeEntry } from "../../packages/fleet/src/log/token-log.ts";
import * as fc from "../support/fast-check.ts";
import { USAGE } from "../support/scripted-engine.ts";

interface Answer {
  readonly tokenIds: readonly number[];
  readonly texts: readonly string[];
}

const answers = fc.array(
  fc.array(fc.record({ id: fc.nat(50), text: fc.constantFrom("", "a", "bc", "déf") }), { maxLength: 12 }),
  { minLength: 1, maxLength: 3 },
);

/** Cuts a choice's tokens into chunks, at the places that a draw names. */
function cut(
  choice: number,
  tokens: readonly { id: number; text: string }[],
  cuts: readonly boolean[],
): GenerateChunk[] {
  if (tokens.length === 0) return [{ choice, text: "", tokens: [], finishReason: "stop" }];
  const chunks: GenerateChunk[] = [];
  let open: { ids: number[]; text: string } = { ids: [], text: "" };
  for (const [index, { id, text }] of tokens.entries()) {
    open.ids.push(id);
    open.text += text;
    const isLast = index === tokens.length - 1;
    if (!isLast && !cuts[index % cuts.length]) continue;
    const made = { choice, text: open.text, tokens: open.ids.map((one) => ({ id: one })) };
    chunks.push(isLast ? { ...made, finishReason: "stop" } : made);
    open = { ids: [], text: "" };
  }
  return chunks;
}

/** Writes an answer as one worker does: its choices in turn. */
function logOf(made: readonly (readonly { id: number; text: string }[])[], cuts: readonly boolean[]): PlacedChunk[] {
  const queues = made.map((tokens, choice) => cut(choice, tokens, cuts));
  const chunks: GenerateChunk[] = [];
  while (queues.some((queue) => queue.length > 0)) chunks.push(...queues.flatMap((queue) => queue.splice(0, 1)));
  const last = chunks.pop() as GenerateChunk;
  const progress = new AnswerProgress(made.length);
  return [...chunks, { ...last, usage: USAGE }].map((chunk) => progress.place(chunk));
}

/** Reads an answer as a front does. */
function read(numChoices: number, entries: readonly PlacedChunk[]): { answer: Answer[]; kinds: string[] } {
  const progress = new AnswerProgress(numChoices);
  const texts = Array.from({ length: numChoices }, () => "");
  const kinds = entries.map((entry) => {
    const novelty = progress.follow(entry);
    if (novelty.kind === "new") texts[novelty.chunk.choice] += novelty.chunk.text;
    return novelty.kind;
  });
  return { answer: progress.tokenIds.map((tokenIds, index) => ({ tokenIds, texts: [texts[index] ?? ""] })), kinds };
}

const whole = (made: readonly (readonly { id: number; text: string }[])[]): Answer[] =>
  made.map((tokens) => ({ tokenIds: tokens.map(({ id }) => id), texts: [tokens.map(({ text }) => text).join("")] }));

test("an answer is read as it was written, and repeated entries change nothing", () => {
  fc.assert(
    fc.property(answers, fc.array(fc.boolean(), { minLength: 1 }), fc.nat(), (made, cuts, repeatFrom) => {
      const log = logOf(made, cuts);
      const from = repeatFrom % log.length;
      const { answer, kinds } = read(made.length, [
        ...log.slice(0, from + 1),
        ...log.slice(0, from + 1),
        ...log.slice(from + 1),
      ]);
      expect(answer).toEqual(whole(made));
      expect(kinds.filter((kind) => kind === "old")).toHaveLength(from + 1);
    }),
  );
});

test("a reader who has followed lost entries goes on with those that another worker cut elsewhere", () => {
  fc.assert(
    fc.property(
      answers,
      fc.array(fc.boolean(), { minLength: 1 }),
      fc.array(fc.boolean(), { minLength: 1 }),
      fc.nat(),
      (made, cuts, others, at) => {
        const log = logOf(made, cuts);
        const seen = log.slice(0, at % log.length);
        const { answer, kinds } = read(made.length, [...seen, ...logOf(made, others)]);
        expect(answer).toEqual(whole(made));
        expect(kinds).not.toContain("different");
        expect(kinds).not.toContain("gap");
      },
    ),
  );
});

/** Events between a log and its follower. */
const happenings = fc.array(
  fc.oneof(
    fc.record({ kind: fc.constant("message" as const), at: fc.nat() }),
    fc.record({ kind: fc.constant("messages in order" as const), at: fc.nat(12) }),
    fc.record({ kind: fc.constant("read" as const), at: fc.nat(5) }),
    fc.record({ kind: fc.constant("loss" as const), at: fc.nat() }),
  ),
  { maxLength: 30, size: "max" },
);
const cutPlaces = fc.array(fc.boolean(), { minLength: 1, maxLength: 5 });

test("a follower gives an answer once, whichever entries it misses, hears twice, too early, or after the log lost some", () => {
  fc.assert(
    fc.property(answers, cutPlaces, cutPlaces, happenings, (made, cuts, others, events) => {
      const [texts, tokenIds] = [made.map(() => ""), made.map((): number[] => [])];
      const stream = new GenerationStream(() => undefined);
      const about = {
        numChoices: made.length,
        stream,
        nowMs: 0,
        onDifferent: expect.unreachable,
        onFailed: expect.unreachable,
      };
      const onChunk = ({ choice, text, tokens }: GenerateChunk): void => {
        texts[choice] += text;
        tokenIds[choice]?.push(...tokens.map(({ id }) => id));
      };
      const follower = new Follower({ ...about, onChunk });
      let log = logOf(made, cuts);
      let [numWritten, next] = [0, 0];
      const hear = (place: number): void => {
        const entry = log[place - 1];
        if (entry && place <= numWritten) follower.take(place, writeEntry(entry), 0);
      };
      const readBehind = (after: number, count = Infinity): void => {
        for (let place = after + 1; place <= Math.min(numWritten, after + count); place++) hear(place);
      };
      for (const { kind, at } of events) {
        numWritten = Math.min(log.length, numWritten + (at % 3));
        if (kind === "message") hear(1 + (at % log.length));
        if (kind === "messages in order") for (let count = 0; count < at; count++) hear(++next);
        if (kind === "read") readBehind(follower.place, at);
        if (kind === "loss") {
          // Another worker goes on behind what is left, and cuts the rest at other places.
          const kept = log.slice(0, Math.min(numWritten, at % log.length));
          const progress = new AnswerProgress(made.length);
          for (const entry of kept) progress.follow(entry);
          log = [
            ...kept,
            ...logOf(made, at % 2 === 0 ? cuts : others).filter((entry) => progress.follow(entry).kind === "new"),
          ];
          [numWritten, next] = [kept.length, Math.min(next, kept.length)];
        }
      }
      numWritten = log.length;
      // A front asks for what did not come, and after a longer silence for all.
      for (let round = 0; round < 3 && !follower.isOver; round++) readBehind(round === 0 ? follower.place : 0);
      expect(follower.isOver).toBe(true);
      expect(made.map((_, choice) => ({ tokenIds: tokenIds[choice], texts: [texts[choice]] }))).toEqual(whole(made));
    }),
    { numRuns: 500 },
  );
});

test("a missing entry is a gap, and another token is told", () => {
  const log = logOf(
    [
      [
        { id: 1, text: "a" },
        { id: 2, text: "b" },
        { id: 3, text: "c" },
      ],
    ],
    [true],
  );
  expect(read(1, [log[0]!, log[2]!]).kinds).toEqual(["new", "gap"]);
  const other = { ...log[1]!, chunk: { ...log[1]!.chunk, tokens: [{ id: 9 }] } };
  expect(read(1, [log[0]!, log[1]!, other]).kinds).toEqual(["new", "new", "different"]);
  expect(read(1, [{ ...log[0]!, chunk: { ...log[0]!.chunk, choice: 5 } }]).kinds).toEqual(["different"]);
});

test("entries survive JSON, and others are not read", () => {
  for (const placed of logOf(
    [
      [
        { id: 1, text: "é" },
        { id: 2, text: "" },
      ],
      [{ id: 3, text: "x" }],
    ],
    [true, false],
  )) {
    expect(readEntry(writeEntry(placed))).toEqual(placed);
  }
  const error = { error: { kind: "ReadMeError", code: "ERR_CONTEXT_LENGTH", message: "long" } } as const;
  expect(readEntry(writeEntry(error))).toEqual(error);
  for (const text of [
    "",
    "{",
    "[]",
    "null",
    '{"c":0}',
    '{"c":-1,"p":0,"o":0,"t":[],"x":""}',
    '{"c":128,"p":0,"o":0,"t":[],"x":""}',
    '{"c":0,"p":0.5,"o":0,"t":[],"x":""}',
    '{"c":0,"p":0,"o":9007199254740992,"t":[],"x":""}',
    '{"c":0,"p":0,"o":0,"t":{"0":1},"x":""}',
    '{"c":0,"p":0,"o":0,"t":[],"x":1}',
    '{"c":0,"p":0,"o":0,"t":[],"y":""}',
    '{"c":0,"p":0,"o":0,"t":[],"x":"","more":1}',
    '{"c":0,"p":0,"o":0,"t":[null],"x":""}',
    '{"c":0,"p":0,"o":0,"t":[{"id":"1"}],"x":""}',
    '{"c":0,"p":0,"o":0,"t":[{"id":1,"expert":-1}],"x":""}',
    '{"c":0,"p":0,"o":0,"t":[{"id":1,"path":"a"}],"x":""}',
  ]) {
    expect(readEntry(text)).toBeUndefined();
  }
});
