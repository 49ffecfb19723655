// Answers that are bound by plain data in a request, without HTTP, against JSON.parse, a validator and the grammars.

import type { AnswerFormat, GenerateRequest } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { Grammars } from "@readme-moe/grammar";
import { Ajv2020 } from "ajv/dist/2020.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { complete, completeAll } from "../support/complete.ts";
import { openTinyEngine } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const PROMPT = "Where to?";
const SCHEMA = {
  type: "object",
  properties: { city: { enum: ["Rome", "Oslo"] }, nights: { type: "array", items: { type: "boolean" }, maxItems: 2 } },
  required: ["city", "nights"],
  additionalProperties: false,
};
const isValid = new Ajv2020({ strict: false }).compile(SCHEMA);
const GRAMMAR = 'start ::= "on " [1-9] [0-9]? " nights"';

let engine: ReadMeEngine;
beforeAll(async () => {
  engine = await openTinyEngine(await persistentFolder(), {}, { config: { max_position_embeddings: 1024 } });
});
afterAll(() => engine.dispose());

const CASES: readonly (readonly [AnswerFormat, (text: string) => boolean])[] = [
  [{ type: "json_schema", schema: SCHEMA }, (text) => isValid(JSON.parse(text))],
  [{ type: "regex", pattern: "[a-c]{2,4}-\\d{3}" }, (text) => /^[a-c]{2,4}-\d{3}$/.test(text)],
  [{ type: "choice", choices: ["north", "south by east"] }, (text) => ["north", "south by east"].includes(text)],
  [{ type: "grammar", grammar: GRAMMAR, root: "start" }, (text) => /^on [1-9]\d? nights$/.test(text)],
];

describe.each(CASES)("%j", (format, fits) => {
  test("binds every choice, with the tokens of a processor made by hand", async () => {
    const params = { n: 4, temperature: 1.5, seed: 7, maxTokens: 300, logprobs: 2 };
    const { choices } = await completeAll(engine, { prompt: PROMPT, format, params });
    expect(choices).toHaveLength(4);
    for (const { text, finishReason } of choices) {
      expect(finishReason).toBe("stop");
      expect([text, fits(text)]).toEqual([text, true]);
    }
    await using grammars = await Grammars.open(engine);
    const processLogits = (await grammars.format(format)).processor();
    expect((await completeAll(engine, { prompt: PROMPT, processLogits, params })).choices).toEqual(choices);
  });
});

test("any JSON object: what is cut short is the beginning of one", async () => {
  const format: AnswerFormat = { type: "json_object" };
  const { text } = await complete(engine, { prompt: PROMPT, format, params: { maxTokens: 20, seed: 3 } });
  expect(text).toMatch(/^\s*\{/);
});

test("stops and log-probabilities are those of the answer", async () => {
  const format: AnswerFormat = { type: "choice", choices: ["north"] };
  const params = { stop: "rt", logprobs: 1, maxTokens: 30 };
  const { text, stop, tokens } = await complete(engine, { prompt: PROMPT, format, params });
  expect([text, stop]).toEqual(["no", "rt"]);
  for (const { logprob } of tokens) expect(logprob).toBeLessThanOrEqual(0);
});

test("requests with other formats and without one run beside each other", async () => {
  const alone = await complete(engine, { prompt: PROMPT, params: { temperature: 0, maxTokens: 12 } });
  const [free, ...bound] = await Promise.all([
    complete(engine, { prompt: PROMPT, params: { temperature: 0, maxTokens: 12 } }),
    ...CASES.map(([format]) => complete(engine, { prompt: PROMPT, format, params: { seed: 1, maxTokens: 300 } })),
  ]);
  expect(free).toEqual(alone);
  for (const [index, { text }] of bound.entries()) expect([text, CASES[index]?.[1](text)]).toEqual([text, true]);
});

describe("wrong formats", () => {
  test.each<readonly [unknown, string]>([
    ["json", "`format` to be an object with a type, got"],
    [null, "`format` to be an object with a type, got `null`"],
    [[], "`format` to be an object"],
    [{}, "`format.type` to be one of json_object, json_schema, regex, choice, grammar"],
    [{ type: "xml" }, '`format.type` to be one of json_object, json_schema, regex, choice, grammar, got `"xml"`'],
    [{ type: "toString" }, "`format.type`"],
    [{ type: "json_schema" }, "`format.schema` to be a JSON schema: an object, true or false"],
    [{ type: "json_schema", schema: "{}" }, "`format.schema`"],
    [{ type: "json_schema", schema: {}, strict: true }, "strict"],
    [{ type: "regex", pattern: "" }, "`format.pattern` to be a text"],
    [{ type: "choice", choices: [] }, "`format.choices` to be a list of texts that is not empty"],
    [{ type: "choice", choices: ["a", 3] }, "`format.choices`"],
    [{ type: "grammar", grammar: "root ::= [a]", root: 3 }, "`format.root` to be a text"],
  ])("%j is refused at once", (format, message) => {
    const request = { prompt: PROMPT, format } as GenerateRequest;
    expect(() => engine.generate(request)).toThrow(TypeError);
    expect(() => engine.generate(request)).toThrow(message);
  });

  test("a format beside `processLogits` is refused at once", () => {
    const request = { prompt: PROMPT, format: { type: "json_object" }, processLogits: () => undefined } as const;
    expect(() => engine.generate(request)).toThrow("Expected `format` or `processLogits`, got both");
  });

  test.each<readonly [AnswerFormat, new (message: string) => Error]>([
    [{ type: "json_schema", schema: { type: "object", not: {} } }, TypeError],
    [{ type: "regex", pattern: "(" }, TypeError],
    [{ type: "grammar", grammar: "root ::= (" }, TypeError],
    [{ type: "choice", choices: ["a".repeat(300_000)] }, RangeError],
  ])("%.60j is the grammar's error while iterating, and harms no other request", async (format, kind) => {
    const generation = engine.generate({ prompt: PROMPT, format });
    await expect(generation.next()).rejects.toThrow(kind);
    const [ordinary] = CASES;
    const bound = { prompt: PROMPT, format: ordinary?.[0], params: { seed: 2, maxTokens: 300 } };
    expect(isValid(JSON.parse((await complete(engine, bound)).text))).toBe(true);
  });
});

test("a request that is left ends its grammar, and an engine that is disposed ends all", async () => {
  const own = await openTinyEngine(await persistentFolder(), {}, { config: { max_position_embeddings: 1024 } });
  const slow: AnswerFormat = { type: "regex", pattern: "((a{1,512}){1,512}){1,512}" };
  const left = own.generate({ prompt: PROMPT, format: slow });
  const first = left.next();
  await left.accepted;
  await left.return?.();
  expect(await first).toEqual({ done: true, value: undefined });
  const waiting = expect(own.generate({ prompt: PROMPT, format: slow }).next()).rejects.toThrow("disposed");
  await own.dispose();
  await waiting;
});
