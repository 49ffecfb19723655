// Tools with generated schemas, by HTTP: each request is answered or refused, and bound calls are valid.

import { ReadMeError } from "@readme-moe/core";
import { readMe } from "@readme-moe/express";
import { Ajv2020 } from "ajv/dist/2020.js";
import express from "express";
import { afterAll, beforeAll, expect, test } from "vitest";
import { smallVocabulary, writeBound } from "../../support/bound-text.ts";
import * as fc from "../../support/fast-check.ts";
import { RUNS_LONG_TESTS } from "../../support/long-tests.ts";
import { postJson } from "../../support/post-json.ts";
import { seededRandom } from "../../support/random.ts";
import { acceptTen, chunkOf, scriptedEngine, USAGE } from "../../support/scripted-engine.ts";
import { listen, type RunningServer } from "../../support/served-model.ts";

const NUM_RUNS = RUNS_LONG_TESTS ? 10_000 : 100;
const vocabulary = smallVocabulary(["<tool_call>", '{"name": "']);
let server: RunningServer;
let numRequests = 0;

/** A model that writes anything that its constraint allows, behind the beginning of a call where it is free. */
const engine = {
  ...scriptedEngine({
    async *answer({ processLogits, prompt }) {
      if (!processLogits) throw new ReadMeError("ERR_ENGINE_FAILED", "Expected a constraint");
      const isFree = JSON.stringify(prompt).includes("freely");
      const ids = isFree ? Array.from(Buffer.from('```json\n{"name": "f"')) : [];
      const { text, isWhole } = await writeBound(
        { processor: () => processLogits },
        vocabulary,
        seededRandom(numRequests++),
        { ids, patience: 12, maxTokens: 260 },
      );
      yield chunkOf(0, text);
      yield chunkOf(0, "", { finishReason: isWhole ? "stop" : "length", usage: USAGE });
    },
    accept: acceptTen,
    info: { vocabSize: vocabulary.vocabSize },
  }),
  vocabulary: async () => vocabulary,
};

beforeAll(async () => {
  server = await listen(express().use(readMe.api({ models: { made: engine }, grammars: { maxGrammars: 2 } })));
});
afterAll(() => server[Symbol.asyncDispose]());

type Schema = Readonly<Record<string, unknown>>;

const { schema } = fc.letrec<{ schema: Schema; leaf: Schema }>((tie) => ({
  leaf: fc.oneof(
    fc.record({ type: fc.constantFrom("string", "integer", "number", "boolean", "null") }),
    fc.record({ type: fc.constant("string"), maxLength: fc.nat(8) }),
    fc.record({ type: fc.constant("string"), description: fc.string({ minLength: 200, maxLength: 3000 }) }),
    fc.record({ type: fc.constant("integer"), minimum: fc.integer({ min: -9, max: 9 }), maximum: fc.nat(20) }),
    fc.record({ enum: fc.uniqueArray(fc.jsonValue({ maxDepth: 1 }), { minLength: 1, maxLength: 4 }) }),
    fc.record({ const: fc.jsonValue({ maxDepth: 1 }) }),
    fc.record({ type: fc.constant("string"), pattern: fc.constantFrom("^[a-c]{1,3}$", "\\d+", "(", "a|b") }),
    fc.record({ type: fc.constant("string"), format: fc.constantFrom("date", "uuid", "of-our-own") }),
    fc.constantFrom<Schema>({ $ref: "#/$defs/one" }, { $ref: "#/$defs/none" }, { not: {} }, { type: "strange" }, {}),
  ),
  schema: fc.oneof(
    { maxDepth: 3, withCrossShrink: true },
    tie("leaf"),
    fc.record({
      type: fc.constant("object"),
      properties: fc.dictionary(fc.string({ maxLength: 6 }), tie("schema"), { maxKeys: 3 }),
      additionalProperties: fc.constant(false),
    }),
    fc.record({ type: fc.constant("array"), items: tie("schema"), maxItems: fc.nat(3) }),
    fc.record({ anyOf: fc.array(tie("schema"), { minLength: 1, maxLength: 3 }) }),
    fc.record({ oneOf: fc.array(tie("schema"), { minLength: 1, maxLength: 2 }) }),
  ),
}));

const parameters = fc
  .tuple(fc.dictionary(fc.constantFrom("a", "b", "é", "x y"), schema), fc.dictionary(fc.constant("one"), schema))
  .chain(([properties, $defs]) =>
    fc.record({
      type: fc.constant("object"),
      properties: fc.constant(properties),
      required: fc.subarray(Object.keys(properties)),
      additionalProperties: fc.constant(false),
      $defs: fc.constant($defs),
    }),
  );

interface Answer {
  readonly error?: { readonly type: string; readonly message: string };
  readonly choices?: readonly {
    readonly finish_reason: string;
    readonly message: { readonly tool_calls?: readonly { readonly function: { readonly arguments: string } }[] };
  }[];
}

test("requests with any schema are answered or refused, and calls are valid", { timeout: 3_600_000 }, async () => {
  const counts = { valid: 0, refused: 0, cut: 0 };
  await fc.assert(
    fc.asyncProperty(parameters, fc.boolean(), async (given, isFree) => {
      const tool = { type: "function", function: { name: "f", parameters: given, strict: isFree } };
      const messages = [{ role: "user", content: isFree ? "freely" : "go" }];
      const choice = isFree ? "auto" : "required";
      const body = { model: "made", messages, tools: [tool], tool_choice: choice, parallel_tool_calls: false };
      const answer = await postJson(`${server.url}/v1/chat/completions`, body);
      const { error, choices = [] } = answer.body as Answer;
      if (error) {
        expect({ status: answer.status, type: error.type }).toEqual({ status: 400, type: "invalid_request_error" });
        expect(error.message).not.toBe("");
        counts.refused++;
        return;
      }
      expect(answer.status).toBe(200);
      const [{ finish_reason: reason, message } = { finish_reason: "", message: {} }] = choices;
      if (reason === "length") {
        counts.cut++;
        return;
      }
      expect(reason).toBe("tool_calls");
      const args: unknown = JSON.parse(message.tool_calls?.[0]?.function.arguments ?? "");
      const validate = new Ajv2020({ strict: false, validateFormats: false, validateSchema: false }).compile(given);
      expect(validate(args), JSON.stringify({ given, args })).toBe(true);
      counts.valid++;
    }),
    { numRuns: NUM_RUNS },
  );
  expect(counts.valid).toBeGreaterThan(NUM_RUNS / 10);
  expect(counts.refused).toBeGreaterThan(NUM_RUNS / 20);
});
