// Constraints as data: made again elsewhere they allow the same tokens, and whatever the data says, they only forbid.

import { ReadMeError, type EngineVocabulary, type ProcessLogits } from "@readme-moe/core";
import { Grammars, limitReasoning, openConstraint, type Constraint, type ReasoningRule } from "@readme-moe/grammar";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { smallVocabulary, writeBound } from "../support/bound-text.ts";
import * as fc from "../support/fast-check.ts";
import { seededRandom } from "../support/random.ts";

const vocabulary: EngineVocabulary = smallVocabulary(["<think>", "</think>"]);
const { vocabSize, eosTokenIds } = vocabulary;
const [BEGIN, END] = [vocabSize - 4, vocabSize - 3];
const engine = { info: vocabulary };

let here: Grammars;
let elsewhere: Grammars;
beforeAll(async () => {
  [here, elsewhere] = await Promise.all([Grammars.open(vocabulary), Grammars.open(vocabulary)]);
});
afterAll(() => Promise.all([here.dispose(), elsewhere.dispose()]));

const SCHEMA = {
  type: "object",
  properties: { name: { type: "string", maxLength: 5 }, count: { type: "integer", minimum: 3 }, "1": { const: "é" } },
  required: ["name", "1"],
};

const CONSTRAINTS: Readonly<Record<string, () => Promise<Constraint>>> = {
  "a JSON object": () => here.jsonObject({ maxWhitespace: 2 }),
  "a JSON schema": () => here.jsonSchema(SCHEMA),
  "a grammar": () => here.grammar('start ::= "a" [b-d]* "é"', "start"),
  "a regular expression": () => here.regex("(foo|ba[rz])+é?"),
  "a choice": () => here.choice(["yes", "no", "né"]),
  "tags in free text": () =>
    here.tagged({ tags: [{ begin: "<t>", schema: { type: "integer" }, end: "</t>" }], trigger: "<t>", isSingle: true }),
  "tags alone": () => here.tagged({ tags: [{ begin: "(", schema: { enum: ["a", 1] }, end: ")" }], separator: "; " }),
};

const RULE: ReasoningRule = {
  vocabSize,
  eosTokenIds,
  beginId: BEGIN,
  endId: END,
  isOpen: false,
  budgetTokens: 3,
  closingIds: [10, END, 10],
  gapIds: [10],
};

/** Takes a value through JSON. */
const sent = (value: unknown): unknown => JSON.parse(JSON.stringify(value));

/** Opens a source where another process would, after a journey as text. */
const open = (source: unknown): Promise<ProcessLogits> =>
  openConstraint(sent(source), { engine, grammars: elsewhere, client: "a" });

async function written(processor: ProcessLogits, seed: number) {
  const { ids } = await writeBound({ processor: () => processor }, vocabulary, seededRandom(seed), {
    patience: 8,
    maxTokens: 40,
  });
  return ids;
}

/** Answers of a function along a completion, with a draft. */
async function answersAlong(processor: ProcessLogits, ids: readonly number[]) {
  const prompt = [1, 2, 3];
  const answers: unknown[] = [];
  for (let length = 0; length < ids.length; length++) {
    const tokenIds = Int32Array.from([...prompt, ...ids.slice(0, length)]);
    const draft = Int32Array.from(ids.slice(length, length + 3));
    const allowed = await processor.allowTokens?.({ tokenIds, promptTokens: 3, choice: 0, draft });
    // The length of a draft may depend on the time that it takes.
    answers.push(allowed?.masks[0]);
  }
  return answers;
}

describe.each(Object.entries(CONSTRAINTS))("%s", (_, make) => {
  test("is the same after a journey as JSON", async () => {
    const original = (await make()).processor();
    const { source } = original;
    expect(sent(source)).toEqual(source);
    const again = await open(source);
    expect(again.source).toEqual(source);
    for (const seed of [1, 2, 3]) {
      const ids = await written(original, seed);
      expect(await written(again, seed)).toEqual(ids);
      expect(await answersAlong(again, ids)).toEqual(await answersAlong(original, ids));
    }
  });

  test("is the same behind bounded reasoning", async () => {
    const original = limitReasoning({ ...RULE, bound: (await make()).processor() });
    const again = await open(original.source);
    expect(again.source).toEqual(original.source);
    const ids = [BEGIN, 40, 41, 42, 10, END, 10, ...(await written((await make()).processor(), 4))];
    expect(await answersAlong(again, ids)).toEqual(await answersAlong(original, ids));
  });
});

function opensNothing(): never {
  throw new Error("Grammars are opened for nothing");
}

test("bounds of free reasoning need no grammars, and keep no limit that is absent", async () => {
  const { budgetTokens: _, ...endless } = RULE;
  for (const rule of [RULE, endless, { ...RULE, isOpen: true, budgetTokens: 0 }]) {
    const original = limitReasoning(rule);
    const again = await openConstraint(sent(original.source), { engine, grammars: opensNothing });
    const ids = [BEGIN, 40, 41, 42, 10, END, 10, 77];
    expect(await answersAlong(again, ids)).toEqual(await answersAlong(original, ids));
  }
});

test("a schema that is changed later stays as it was in the source", async () => {
  const schema = { type: "object", properties: { a: { type: "string" } } };
  const constraint = await here.jsonSchema(schema);
  schema.properties.a.type = "integer";
  expect(constraint.processor().source).toMatchObject({ schema: { properties: { a: { type: "string" } } } });
});

test("a caller's own function has no source, and bounds of reasoning around it have none", () => {
  const own: ProcessLogits = Object.assign((): void => undefined, {
    allowTokens: () => ({ draft: new Int32Array(), numForced: 0, masks: [] }),
  });
  expect(limitReasoning({ ...RULE, bound: own }).source).toBeUndefined();
});

const REASONING = { kind: "reasoning", beginId: BEGIN, endId: END, isOpen: true, closingIds: [END], gapIds: [] };
const TAG = { begin: "(", schema: true, end: ")" };

test.each<[unknown, string]>([
  [undefined, "`source` to be { kind, … }"],
  ["json", "`source` to be { kind, … }"],
  [{}, "`source.kind` to be one of json, grammar, regex, choice, tagged, reasoning"],
  [{ kind: "toString" }, "`source.kind` to be one of"],
  [{ kind: "ebnf", text: "root ::= 1" }, "`source.kind` to be one of"],
  [{ kind: "regex", pattern: "a", module: "/etc/passwd" }, "`module`"],
  [{ kind: "regex", pattern: 5 }, "`pattern` to be a text"],
  [{ kind: "grammar", ebnf: 'root ::= "a"', root: 5 }, "`root` to be a text"],
  [{ kind: "grammar", ebnf: "root ::= [é]", root: "root" }, "classes of ASCII"],
  [{ kind: "choice", texts: "abc" }, "`texts` to be a list"],
  [{ kind: "json", schema: 5, maxWhitespace: 1 }, "schema"],
  [{ kind: "json", schema: { $dynamicRef: "#a" }, maxWhitespace: 1 }, "$dynamicRef"],
  [{ kind: "json", schema: true, maxWhitespace: 1e9 }, "`maxWhitespace`"],
  [{ kind: "tagged", answers: 5 }, "`source.answers` to be { tags, … }"],
  [{ kind: "tagged", answers: { tags: {} } }, "`source.answers.tags` to be a list"],
  [{ kind: "tagged", answers: { tags: [5] } }, "`source.answers.tags[0]` to be { begin, schema, end }"],
  [{ kind: "tagged", answers: { tags: [{ ...TAG, begin: 5 }] } }, "`source.answers.tags[0].begin` to be a text"],
  [{ kind: "tagged", answers: { tags: [TAG], trigger: {} } }, "`source.answers.trigger` to be a text"],
  [{ kind: "tagged", answers: { tags: [TAG], trigger: ["a", 1] } }, "`source.answers.trigger[1]` to be a text"],
  [{ kind: "tagged", answers: { tags: [{ ...TAG, others: 1 }] } }, "`source.answers.tags[0].others` to be a list"],
  [
    { kind: "tagged", answers: { tags: [{ ...TAG, others: [{ begin: "a" }] }] } },
    "`source.answers.tags[0].others[0].end` to be a text",
  ],
  [{ kind: "tagged", answers: { tags: [TAG], isSingle: 1 } }, "`source.answers.isSingle` to be true or false"],
  [{ ...REASONING, endId: vocabSize }, "`source.endId`"],
  [{ ...REASONING, beginId: -1 }, "`source.beginId`"],
  [{ ...REASONING, isOpen: 1 }, "`source.isOpen` to be true or false"],
  [{ ...REASONING, budgetTokens: 0.5 }, "`source.budgetTokens`"],
  [{ ...REASONING, closingIds: [] }, "`source.closingIds` to be a list with `endId`"],
  [{ ...REASONING, gapIds: Array.from({ length: 65 }, () => 1) }, "`source.gapIds` to have at most 64 tokens"],
  [{ ...REASONING, vocabSize: 7 }, "`vocabSize`"],
  [{ ...REASONING, bound: REASONING }, "`source.bound.kind` to be another kind"],
  [{ ...REASONING, bound: { kind: "regex", pattern: "[" } }, "pattern"],
])("refuses %j", async (source, message) => {
  const refused = openConstraint(source, { engine, grammars: elsewhere });
  await expect(refused).rejects.toThrow(message);
  await expect(refused).rejects.toSatisfy((error) => error instanceof TypeError || error instanceof RangeError);
});

test("refuses a source that is too large", async () => {
  const source = { kind: "regex", pattern: "a".repeat(300_000) };
  await expect(openConstraint(source, { engine, grammars: elsewhere })).rejects.toThrow(RangeError);
});

test("whatever is sent, is refused as a caller's mistake or does nothing but forbid tokens", async () => {
  const sources = await Promise.all(Object.values(CONSTRAINTS).map(async (make) => (await make()).processor().source));
  const plain = [...sources, ...sources.map((bound) => ({ ...REASONING, bound }))].map((source) =>
    JSON.stringify(source),
  );
  const parts = fc.oneof(fc.jsonValue({ maxDepth: 2 }), fc.constantFrom("", "root", "[", 1e9, -1, null, true, [], {}));
  const damage = fc.record({ base: fc.constantFrom(...plain), at: fc.nat(60), part: parts });
  await fc.assert(
    fc.asyncProperty(damage, async ({ base, at, part }) => {
      const places: string[] = [];
      JSON.parse(base, (key, value: unknown) => (places.push(key), value));
      let place = 0;
      const changed: unknown = JSON.parse(base, (_, value: unknown) => (place++ === at % places.length ? part : value));
      let bound: ProcessLogits;
      try {
        bound = await open(changed);
      } catch (error) {
        expect(error instanceof TypeError || error instanceof RangeError || error instanceof ReadMeError).toBe(true);
        return;
      }
      const logits = Float32Array.from({ length: vocabSize }, (_, id) => id / 7);
      const before = logits.slice();
      await bound(logits, { tokenIds: Int32Array.of(5), promptTokens: 1, choice: 0 });
      expect(logits.every((logit, id) => logit === before[id] || logit === -Infinity)).toBe(true);
    }),
    { numRuns: Number(process.env["README_MOE_HOSTILE_SOURCES"] ?? 60) },
  );
});
