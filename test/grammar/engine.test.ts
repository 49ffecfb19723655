// A model with random weights that writes JSON, bound by a grammar.

import { join } from "node:path";
import { Grammars } from "@readme-moe/grammar";
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
  engine = await ReadMeEngine.open(path, { threads: 2, cacheFolder: join(folder, "cache") });
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
