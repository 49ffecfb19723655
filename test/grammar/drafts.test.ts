// Answers about allowed tokens: their masks are those of single questions, and drafts are what an answer goes on with.

import { allowsToken, forbidOthers, type EngineVocabulary } from "@readme-moe/core";
import { ANSWER_START, Grammars, type Constraint } from "@readme-moe/grammar";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { JsonLayout } from "../../packages/grammar/src/matching/compile-plan.ts";
import { TokenTable } from "../../packages/grammar/src/matching/matchers.ts";
import { smallVocabulary, textOf, writeBound } from "../support/bound-text.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const vocabulary = smallVocabulary(["name", "yes", ' "', '":', '{"', '"}', "\n "]);
const [end] = vocabulary.eosTokenIds as [number];
const ascii = (text: string): number[] => Array.from(Buffer.from(text));
let grammars: Grammars;
beforeAll(async () => {
  grammars = await Grammars.open(vocabulary);
});
afterAll(() => grammars.dispose());

async function ask(constraint: Constraint, ids: readonly number[], asked: readonly number[] = []) {
  const { allowTokens } = constraint.processor();
  if (!allowTokens) throw new Error("The processor has no `allowTokens`");
  const tokenIds = Int32Array.from([7, ...ids]);
  return allowTokens({ tokenIds, promptTokens: 1, choice: 0, draft: Int32Array.from(asked) });
}

async function plainMask(constraint: Constraint, ids: readonly number[]): Promise<readonly number[]> {
  const logits = new Float32Array(vocabulary.vocabSize);
  await constraint.processor()(logits, { tokenIds: Int32Array.from(ids), promptTokens: 0, choice: 0 });
  return Array.from(logits.keys()).filter((id) => logits[id] !== -Infinity);
}

const idsOf = (mask: Int32Array): readonly number[] => {
  const logits = new Float32Array(vocabulary.vocabSize);
  forbidOthers(logits, mask);
  return Array.from(logits.keys()).filter((id) => logits[id] !== -Infinity);
};

const person = {
  type: "object",
  properties: {
    name: { type: "string", minLength: 1 },
    age: { type: "integer", minimum: 0, maximum: 120 },
    city: { enum: ["Rome", "Oslo"] },
    tags: { type: "array", items: { type: "string", maxLength: 4 }, maxItems: 2 },
    more: { type: "object", properties: { x: { type: ["number", "null"] } }, required: ["x"] },
  },
  required: ["name", "age", "city", "tags", "more"],
};

const constraints: Readonly<Record<string, () => Promise<Constraint>>> = {
  "a schema": () => grammars.jsonSchema(person),
  "any object": () => grammars.jsonObject(),
  "a choice": () => grammars.choice(["yes, of course", "yes, maybe", "no"]),
  "a regular expression": () => grammars.regex("(ab|cd){2,4}-[0-9]{3}é?"),
  "tags in free text": () =>
    grammars.tagged({ tags: [{ begin: "<t>", schema: { type: "integer" }, end: "</t>" }], trigger: "<t>" }),
  "a tag at the beginning": () =>
    grammars.tagged({ tags: [{ begin: `${ANSWER_START}{`, schema: person, end: "}" }], trigger: `${ANSWER_START}{` }),
};

test.each(Object.entries(constraints))(
  "masks along a draft of %s are those of single questions",
  async (name, open) => {
    const constraint = await open();
    const random = seededRandom(3);
    let [numDrafted, numAsked] = [0, 0];
    for (let round = 0; round < 6; round++) {
      const { ids } = await writeBound(constraint, vocabulary, random, { patience: 4 * round, maxTokens: 120 });
      for (let question = 0; question < 5; question++) {
        const before = ids.slice(0, randomInteger(random, ids.length + 1));
        const asked = ids.slice(before.length, before.length + randomInteger(random, 12));
        if (random() < 0.3) asked.splice(randomInteger(random, asked.length + 1), 0, randomInteger(random, 256));
        const { draft, numForced, masks } = await ask(constraint, before, asked);
        expect(draft.length).toBeLessThanOrEqual(16);
        expect(masks).toHaveLength(1 + draft.length);
        let isForced = true;
        for (let index = 0; index <= draft.length; index++) {
          const allowed = idsOf(masks[index] as Int32Array);
          expect(allowed).toEqual(await plainMask(constraint, [...before, ...draft.subarray(0, index)]));
          if (index === draft.length) break;
          const id = draft[index] as number;
          expect(allowed).toContain(id);
          if (id === end) expect(allowed).toEqual([end]);
          isForced &&= allowed.length === 1;
          expect(index < numForced).toBe(isForced);
        }
        numDrafted += draft.length;
        const isAsked = draft.length > 0 && draft.every((id, index) => id === asked[index]);
        if (isAsked) numAsked++;
      }
    }
    expect(numDrafted).toBeGreaterThan(0);
    if (name === "a schema") expect(numAsked).toBeGreaterThan(0);
  },
);

test("drafts the text of a schema in the layout that the answer has so far", async () => {
  const constraint = await grammars.jsonSchema(person);
  const after = async (text: string): Promise<string> =>
    textOf(vocabulary, [...(await ask(constraint, ascii(text))).draft]);
  const probable = [
    ["{", '\n  "name": "'],
    ['{"n', 'ame": "'],
    ['{"name":"x"', ',"age":'],
    ['{"name": "x"', ', "age": '],
    ['{ "name": "x"', ', "age": '],
    ['{\n\t"name": "x"', ',\n\t"age": '],
    ['{"name": "a \\" {', ""],
    ['{"name": "x", "age": 120', ', "city": "'],
    ['{"name": "x", "age": 12', ""],
    ['{"name": "x", "age": 7, "city": "R', 'ome", "tags": ['],
  ] as const;
  for (const [text, draft] of probable) {
    // A draft ends after 16 tokens, which are single bytes mostly, or after some milliseconds, which may be too few.
    await expect
      .poll(() => after(text), { message: text })
      .toSatisfy((found: string) => draft.startsWith(found) && found.length >= Math.min(draft.length, 12));
  }
});

test("drafts what the asker suggests where the grammar has nothing to say, as far as it is allowed", async () => {
  const constraint = await grammars.jsonSchema(person);
  const suggest = async (before: string, text: string): Promise<string> =>
    textOf(vocabulary, [...(await ask(constraint, ascii(before), ascii(text))).draft]);
  await expect.poll(() => suggest('{"name": "', "some name")).toBe("some name");
  await expect.poll(() => suggest('{"name": "', 'x",17')).toBe('x",');
  await expect.poll(() => suggest('{"name": "', "a".repeat(40))).toBe("a".repeat(16));
  expect(await suggest('{"name": "x", "age": ', "two")).toBe("");
  // A forced text comes first.
  await expect.poll(() => suggest('{"n', "o")).toMatch(/^ame/);
});

test("an end token is drafted only where nothing else is allowed, and the end follows it", async () => {
  const yes = await grammars.choice(["yes"]);
  const lastOfYes = async () => {
    const { draft, numForced, masks } = await ask(yes, ascii("ye"), [end]);
    return { draft: [...draft], numForced, next: masks[2] && idsOf(masks[2]) };
  };
  await expect.poll(lastOfYes).toEqual({ draft: [...ascii("s"), end], numForced: 2, next: [end] });
  expect((await ask(yes, [...ascii("yes"), end], [end])).masks.map(idsOf)).toEqual([[end]]);
  const open = await grammars.regex("a*");
  expect([...(await ask(open, ascii("aa"), [end])).draft]).toEqual([]);
});

test("tokens that do not fit the grammar are refused, as without a draft", async () => {
  await expect(ask(await grammars.choice(["yes"]), ascii("no"))).rejects.toThrow(RangeError);
});

test("a layout is learned from the text and is probable in what follows", () => {
  for (const value of [{ a: 1, b: { c: ["x", "y"], d: {} }, e: '\\"{,:' }, [[1, 2], { a: null }]]) {
    for (const text of [JSON.stringify(value, undefined, 4), JSON.stringify(value, undefined, "\t")]) {
      const layout = new JsonLayout();
      const first = text.search(/[^\s{[]/);
      layout.read(text.slice(0, first + 1));
      let isInString = text[first] === '"';
      for (let at = first + 1; at < text.length; at++) {
        const character = text[at] as string;
        const isBlank = /\s/.test(character);
        const next = text.slice(at).search(/\S/);
        if (!isInString && next >= 0) {
          expect([text, at, layout.blanksBefore(text[at + next] as string)]).toEqual([
            text,
            at,
            text.slice(at, at + next),
          ]);
        }
        if (character === '"' && !/(^|[^\\])(\\\\)*\\$/.test(text.slice(0, at))) isInString = !isInString;
        layout.read(character);
        expect(isBlank && isInString && next < 0).toBe(false);
      }
    }
  }
});

const table = (pieces: readonly string[]): { tokens: (text: string) => readonly string[] } => {
  const small: EngineVocabulary = smallVocabulary(pieces);
  const tokens = new TokenTable(small);
  return { tokens: (text) => tokens.tokenize(text).map((id) => textOf(small, [id])) };
};

describe("tokens of a text", () => {
  test("join the neighbours with the lowest id first", () => {
    expect(table(["ab", "bc", "abc"]).tokens("xabcbc")).toEqual(["x", "abc", "bc"]);
    expect(table(["bc", "ab", "abc"]).tokens("abc")).toEqual(["abc"]);
    expect(table(["bc", "ab"]).tokens("abc")).toEqual(["a", "bc"]);
  });

  test("stay within pieces, and a blank belongs to what follows", () => {
    const pieces = ['":', ' "', "\n ", "\n  ", 'x"', "e5"];
    expect(table(pieces).tokens('x":\n  "')).toEqual(["x", '":', "\n ", ' "']);
    // Line ends join signs in vocabularies that have such a token.
    expect(table(['",', '",\n', ' "']).tokens('",\n  "')).toEqual(['",\n', " ", ' "']);
  });

  test("are those of the bytes in any text", () => {
    const random = seededRandom(5);
    const small = smallVocabulary(["the", " th", "é", "ab"]);
    const tokens = new TokenTable(small);
    for (let round = 0; round < 200; round++) {
      const text = Array.from({ length: 20 }, () => String.fromCodePoint(32 + randomInteger(random, 400))).join("");
      expect(textOf(small, tokens.tokenize(text))).toBe(text);
      expect(tokens.textOf(Int32Array.from(tokens.tokenize(text)))).toBe(text);
    }
    expect(allowsToken(Int32Array.of(2), 1)).toBe(true);
  });
});
