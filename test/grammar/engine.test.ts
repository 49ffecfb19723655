// A model with random weights that writes JSON, bound by a grammar.

import { join } from "node:path";
import type { ProcessLogits, SamplingParams } from "@readme-moe/core";
import { Grammars, type Constraint } from "@readme-moe/grammar";
import { ReadMeEngine } from "@readme-moe/engine";
import { Ajv2020 } from "ajv/dist/2020.js";
import { afterAll, beforeAll, expect, test } from "vitest";
import { complete, completeAll } from "../support/complete.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../support/tiny-read-me.ts";

const folder = await persistentFolder();
let engine: ReadMeEngine;
let grammars: Grammars;
beforeAll(async () => {
  const path = join(folder, "model");
  await writeTinyReadMe(path, WITH_TOKENIZER);
  engine = await ReadMeEngine.open(path, { precision: "fp32", threads: 2, cacheFolder: join(folder, "cache") });
  grammars = await Grammars.open(engine);
});
afterAll(async () => {
  await grammars.dispose();
  await engine.dispose();
});

const schema = {
  type: "object",
  properties: {
    name: { type: "string", maxLength: 8 },
    age: { type: "integer", minimum: 0, maximum: 120 },
    tags: { type: "array", items: { enum: ["red", "green"] }, maxItems: 2 },
  },
  required: ["name", "age", "tags"],
};
const isValid = new Ajv2020().compile(schema);

test("makes an untrained model answer by the schema, in every choice", async () => {
  const constraint = await grammars.jsonSchema(schema, { maxWhitespace: 1 });
  const params = { maxTokens: 120, n: 4, seed: 5, temperature: 1.2 };
  const { choices } = await completeAll(engine, { prompt: "Once", params, processLogits: constraint.processor() });
  expect(choices).toHaveLength(4);
  for (const { text, finishReason } of choices) {
    expect(finishReason).toBe("stop");
    expect(isValid(JSON.parse(text)), text).toBe(true);
  }
  const free = await complete(engine, { prompt: "Once", params: { ...params, n: 1 } });
  expect(() => JSON.parse(free.text) as unknown).toThrow(SyntaxError);
});

test("keeps concurrent bound and free requests independent", async () => {
  const [constraint, choice] = [await grammars.jsonSchema(schema), await grammars.choice(["left", "right"])];
  const ask = (seed: number, processLogits?: ReturnType<typeof choice.processor>) =>
    complete(engine, { prompt: "Two", params: { maxTokens: 200, seed }, processLogits });
  const alone = await ask(3);
  const [free, bound, one, other] = await Promise.all([
    ask(3),
    ask(4, constraint.processor()),
    ask(5, choice.processor()),
    ask(6, choice.processor()),
  ]);
  expect(free.text).toBe(alone.text);
  expect(isValid(JSON.parse(bound.text)) || bound.finishReason === "length").toBe(true);
  for (const { text } of [one, other]) expect(["left", "right"]).toContain(text);
});

test("leaves the beginning of a valid answer when there is no more room", async () => {
  const constraint = await grammars.jsonObject();
  const { text, finishReason } = await complete(engine, {
    prompt: "Once",
    params: { maxTokens: 3, temperature: 0 },
    processLogits: constraint.processor(),
  });
  if (finishReason === "length") expect(text).toMatch(/^\{/);
  else expect(JSON.parse(text)).toEqual({});
});

/** The function alone, so that rows travel. */
function rowsOnly(processor: ProcessLogits): ProcessLogits {
  return (logits, context) => processor(logits, context);
}

const sources: readonly (readonly [string, () => Promise<Constraint>])[] = [
  ["a schema", () => grammars.jsonSchema(schema, { maxWhitespace: 1 })],
  ["a schema without blanks", () => grammars.jsonSchema(schema, { maxWhitespace: 0 })],
  ["any object", () => grammars.jsonObject()],
  ["a choice", () => grammars.choice(["left, then right", "left, then left", "right"])],
  ["a regular expression", () => grammars.regex("(ab|cd){2,9}-[0-9]{3}")],
];
const kinds: readonly SamplingParams[] = [
  { temperature: 0 },
  { temperature: 1, n: 3, logprobs: 2 },
  { temperature: 0.8, topP: 0.9, n: 2, presencePenalty: 1, repetitionPenalty: 1.2 },
  { temperature: 1.3, stop: ['",', "ht"] },
];

test.each(sources)("gives the same answers as with rows that travel, under %s", async (_, open) => {
  const constraint = await open();
  for (const [seed, kind] of kinds.entries()) {
    const params = { ...kind, maxTokens: 60, seed };
    const rows = await completeAll(engine, {
      prompt: "Once",
      params,
      processLogits: rowsOnly(constraint.processor()),
    });
    const asked = await completeAll(engine, { prompt: "Once", params, processLogits: constraint.processor() });
    expect(asked.choices).toEqual(rows.choices);
  }
});

test("16 bound answers at once are those of each alone, also when others are aborted in the middle", async () => {
  const constraint = await grammars.jsonSchema(schema);
  const request = (seed: number) => ({
    prompt: "Two",
    params: { maxTokens: 40, seed, temperature: seed % 2 },
    processLogits: constraint.processor(),
  });
  const alone = [];
  for (let seed = 0; seed < 16; seed++) alone.push(await complete(engine, request(seed)));
  const leaving = Array.from({ length: 4 }, async (_, seed) => {
    let numChunks = 0;
    for await (const chunk of engine.generate(request(100 + seed))) {
      numChunks += chunk.tokens.length;
      if (numChunks > 3 * seed) break;
    }
  });
  expect(await Promise.all(alone.map((_, seed) => complete(engine, request(seed))))).toEqual(alone);
  await Promise.all(leaving);
});
