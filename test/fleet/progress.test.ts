// The log of an answer, cut and written again in any way, gives each reader the same answer once.

import type { GenerateChunk } from "@readme-moe/core";
import { expect, test } from "vitest";
import { readEntry, writeEntry, type PlacedChunk } from "../../packages/fleet/src/log/entry.ts";
import { AnswerProgress } from "../../packages/fleet/src/log/progress.ts";
import * as fc from "../support/fast-check.ts";
import { USAGE } from "../support/scripted-engine.ts";

interface Answer {
  readonly tokenIds: readonly number[];
  readonly texts: readonly string[];
}

const answers = fc.array(
  fc.array(fc.record({ id: fc.nat(50), text: fc.constantFrom("", "a", "bc", "déf") }), { minLength: 1, maxLength: 12 }),
  { minLength: 1, maxLength: 3 },
);

/** Cuts a choice's tokens into chunks, at the places that a draw names. */
function cut(
  choice: number,
  tokens: readonly { id: number; text: string }[],
  cuts: readonly boolean[],
): GenerateChunk[] {
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
