// Masks of strings with bounded lengths are those of the grammar with its bounds alone.

import type { EngineVocabulary } from "@readme-moe/core";
import type { JsonSchema } from "@readme-moe/grammar";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Budget, keyedSource, type GrammarSource } from "../../packages/grammar/src/grammar-source.ts";
import { resolveGrammarsOptions } from "../../packages/grammar/src/grammars-options.ts";
import { GrammarCache } from "../../packages/grammar/src/matching/grammar-cache.ts";
import { schemaGrammars, wholeGrammar } from "../../packages/grammar/src/schema/ebnf/schema-grammar.ts";
import { honouredSchema } from "../../packages/grammar/src/schema/honoured-schema.ts";
import { UNUSED_CHARACTER, withoutLengths } from "../../packages/grammar/src/schema/keywords.ts";
import { ANSWER_START, taggedSource, type TaggedAnswers } from "../../packages/grammar/src/constraint.ts";
import { smallVocabulary } from "../support/bound-text.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const PARTS = [
  '"',
  '",',
  '": ',
  "\\",
  "\\n",
  "\\u",
  "00e9",
  "a",
  "q",
  "é",
  "本",
  "0",
  ",",
  "{",
  "}",
  "[",
  "]",
  " ",
  "\n",
  UNUSED_CHARACTER,
];

/** All bytes, and random tokens of up to forty characters. */
function randomVocabulary(): EngineVocabulary {
  const random = seededRandom(11);
  const words = new Set<string>();
  while (words.size < 600) {
    const length = 2 + Math.floor(random() ** 2 * 12);
    words.add(Array.from({ length }, () => PARTS[randomInteger(random, PARTS.length)]).join(""));
  }
  const repeated = ["a", "q", " ", "é"].flatMap((part) => [2, 3, 6, 16, 18, 40].map((count) => part.repeat(count)));
  // The rest of a character, and more.
  const rests = [...words].slice(0, 60).map((word) => Buffer.concat([Buffer.of(0xa9), Buffer.from(word)]));
  return smallVocabulary([...words, ...repeated, ...rests]);
}

const vocabulary = randomVocabulary();
let cache: GrammarCache;
beforeAll(() => {
  cache = new GrammarCache(vocabulary, resolveGrammarsOptions({}));
});
afterAll(() => cache.dispose());

const text = (minLength: number | undefined, maxLength?: number): object => ({ type: "string", minLength, maxLength });
const bound = (properties: Readonly<Record<string, unknown>>): JsonSchema =>
  JSON.parse(JSON.stringify({ type: "object", properties, required: Object.keys(properties) })) as JsonSchema;

const schemas: Readonly<Record<string, JsonSchema>> = {
  "short strings": bound({ a: text(undefined, 3), b: text(2, 5) }),
  "strings of one length, and none": bound({ a: text(4, 4), b: text(0, 0) }),
  "long strings": bound({ a: text(undefined, 40), b: text(3, 200) }),
  "strings with least lengths only": bound({ a: text(20), b: text(1) }),
  "lists, and values beside strings": bound({
    a: { type: "array", items: text(undefined, 6), minItems: 2, maxItems: 3 },
    b: { type: ["string", "null", "number"], maxLength: 9 },
    c: { enum: ["é", "aq", "00e9"] },
    d: { type: "object", additionalProperties: text(undefined, 2) },
  }),
  "patterns beside bounds": bound({
    a: text(undefined, 18),
    b: { type: "string", pattern: "^[^b]?[0-9]*$" },
    c: { type: "string", format: "date" },
  }),
  "alternatives of bounded strings": bound({ a: { anyOf: [text(undefined, 3), text(6, 30), { type: "integer" }] } }),
};

const sourceOf = (schema: JsonSchema): GrammarSource => {
  const { text: exact, wide } = schemaGrammars(honouredSchema(schema, new Budget()), new Budget());
  if (!wide?.hadBounds) throw new Error("The schema has no wide grammar");
  return { ...wholeGrammar(exact, 2), wide: { grammar: wholeGrammar(wide.text, 2), hasPatterns: wide.hasPatterns } };
};

const startTag = { begin: `${ANSWER_START}{`, end: "" };
const tagged = (answers: Partial<TaggedAnswers>, others: TaggedAnswers["tags"][0]["others"] = []): GrammarSource =>
  taggedSource({
    tags: [
      { begin: "<a>", schema: schemas["short strings"]!, end: "</a>", others },
      { begin: "<b>", schema: { type: "object" }, end: "</b>" },
    ],
    ...answers,
  });

const sources: Readonly<Record<string, () => GrammarSource>> = {
  ...Object.fromEntries(Object.entries(schemas).map(([name, schema]) => [name, () => sourceOf(schema)])),
  "tags alone": () => tagged({}),
  "tags in free text": () => tagged({ trigger: "<" }),
  "tags in free text, and at its beginning": () => tagged({ trigger: ["<", startTag.begin] }, [startTag]),
};

const WORDS = Math.ceil(vocabulary.vocabSize / 32);
const allowedBy = (mask: Int32Array): readonly number[] =>
  Array.from({ length: vocabulary.vocabSize }, (_, id) => id).filter((id) => ((mask[id >> 5] ?? 0) >> (id & 31)) & 1);

test.each(Object.entries(sources))("%s", async (name, open) => {
  const wide = open();
  expect(wide.wide).toBeDefined();
  const { wide: _, ...exact } = wide;
  const [one, other] = [keyedSource(wide), keyedSource(exact)];
  for (const source of [one, other]) await cache.compile(source, {});
  const random = seededRandom(name.length);
  let numMasks = 0;
  for (let walk = 0; walk < 12; walk++) {
    const ids: number[] = [];
    for (let step = 0; step < 40; step++) {
      const question = { matcher: `${walk}`, tokenIds: Int32Array.from(ids) };
      const [mine, plain] = await Promise.all([one, other].map((source) => cache.mask(source, question, {})));
      const allowed = allowedBy(plain!.masks.subarray(0, WORDS));
      expect(allowedBy(mine!.masks.subarray(0, WORDS)), JSON.stringify(ids)).toEqual(allowed);
      numMasks++;
      // Long walks within strings, near their bounds and across them, each in a third of the walks.
      const wanted = allowed.filter((id) => !vocabulary.eosTokenIds.includes(id) && isWanted(id, walk % 3));
      const among = wanted.length > 0 && random() < 0.9 ? wanted : allowed;
      const next = among[randomInteger(random, among.length)] as number;
      if (vocabulary.eosTokenIds.includes(next)) break;
      ids.push(next);
    }
  }
  expect(numMasks).toBeGreaterThan(100);
});

function isWanted(id: number, kind: number): boolean {
  const bytes = vocabulary.bytes.subarray(vocabulary.offsets[id], vocabulary.offsets[id + 1]);
  if (kind === 0) return !bytes.includes(0x22) && bytes.length <= 2;
  if (kind === 2 && bytes.at(-1) === 0xc3) return true;
  return kind === 1 ? !bytes.includes(0x22) && bytes.length > 3 : bytes.includes(0x5c) || bytes.includes(0x22);
}

const wideOf = (schema: JsonSchema) => withoutLengths(honouredSchema(schema, new Budget()));

test("schemas whose strings may be of two kinds at once keep their bounds", () => {
  const short = { type: "string", maxLength: 5 };
  expect(wideOf({ anyOf: [short, { enum: ["a"] }] })).toBeUndefined();
  expect(wideOf({ anyOf: [short, { type: "string", pattern: "^a*$" }] })).toBeUndefined();
  expect(wideOf({ anyOf: [short, { type: "string", format: "date" }] })).toBeUndefined();
  expect(wideOf(bound({ a: short, b: { enum: [`x${UNUSED_CHARACTER}`] } }))).toBeUndefined();
  expect(wideOf(bound({ a: short, [UNUSED_CHARACTER]: short }))).toBeUndefined();
  expect(wideOf({ anyOf: [short, { type: "null" }] })).toMatchObject({ hadBounds: true, hasPatterns: false });
  expect(wideOf({ type: "string" })).toMatchObject({ hadBounds: false });
});

test("tags of which one begins as another keep their bounds", () => {
  const schema = schemas["short strings"]!;
  const tags = [
    { begin: "<a>", schema, end: "</a>" },
    { begin: "<a>{", schema: { type: "object" }, end: "</a>" },
  ];
  expect(taggedSource({ tags }).wide).toBeUndefined();
});
