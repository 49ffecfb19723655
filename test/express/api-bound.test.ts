// Constrained answers, by HTTP and by unmodified clients: response formats and tool calls. `EXPRESS_MODEL=<folder>`
// replaces the tiny model.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { ReadMeError } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { readMe } from "@readme-moe/express";
import { generateText, jsonSchema, Output, tool } from "ai";
import { Ajv2020 } from "ajv/dist/2020.js";
import express from "express";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { chatApi } from "../../packages/express/src/api/chat.ts";
import { EngineGrammars } from "../../packages/express/src/api/request-scope.ts";
import { generateAll } from "../../packages/express/src/api/generation.ts";
import * as fc from "../support/fast-check.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { postJson } from "../support/post-json.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { listen, openClientsEngine, type RunningServer } from "../support/served-model.ts";
import { servedAs } from "../support/served-source.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
let engine: ReadMeEngine;
let server: RunningServer;
let openai: OpenAI;

beforeAll(async () => {
  engine = await openClientsEngine(folder, { config: { max_position_embeddings: 2048 } });
  const app = express();
  app.use(readMe.api({ models: { tiny: engine } }));
  server = await listen(app);
  openai = new OpenAI({ apiKey: "x", baseURL: `${server.url}/v1`, maxRetries: 0 });
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await engine.dispose();
});

const model = "tiny";
const messages = [{ role: "user" as const, content: "Where to?" }];
/** A schema of short answers only, so that a model with random weights finishes them. */
const schema = {
  type: "object",
  properties: { city: { enum: ["Rome", "Oslo"] }, nights: { type: "array", items: { type: "boolean" }, maxItems: 2 } },
  required: ["city", "nights"],
  additionalProperties: false,
};
const isValid = new Ajv2020({ strict: false }).compile(schema);
const travel = { type: "function" as const, function: { name: "travel", description: "Go there", parameters: schema } };

function expectAnswer(text: string | null | undefined): void {
  expect(isValid(JSON.parse(text ?? "")), text ?? "nothing").toBe(true);
}

describe("a response format", () => {
  const response_format = { type: "json_schema" as const, json_schema: { name: "trip", schema, strict: true } };

  test("does not turn an error of the prompt into one of the grammar", async () => {
    for (const chat_template_kwargs of [{ tools: -5 }, { documents: "x" }]) {
      const body = { model, messages, response_format, max_tokens: 5, chat_template_kwargs };
      const answer = await postJson(`${server.url}/v1/chat/completions`, body);
      const param = `chat_template_kwargs.${Object.keys(chat_template_kwargs)[0]}`;
      expect(answer).toMatchObject({ status: 400, body: { error: { code: "invalid_value", param } } });
      for (const path of ["/v1/messages/count_tokens", "/tokenize"]) {
        const counted = await postJson(server.url + path, { model, messages, chat_template_kwargs });
        expect({ path, status: counted.status }).toStrictEqual({ path, status: 400 });
      }
    }
  });

  test("constrains every choice, including random ones", async () => {
    const request = { model, messages, response_format, n: 4, temperature: 2, seed: 1, max_tokens: 300 };
    const { choices } = await openai.chat.completions.create(request);
    for (const { message, finish_reason } of choices) {
      expectAnswer(message.content);
      expect(finish_reason).toBe("stop");
    }
    expect(choices).toHaveLength(4);
  });

  test("constrains streams", async () => {
    const request = { model, messages, response_format, temperature: 1, seed: 2, max_tokens: 300 };
    const whole = await openai.chat.completions.stream(request).finalChatCompletion();
    expectAnswer(whole.choices[0]?.message.content);
  });

  test("may be any JSON object, which a limit may cut", async () => {
    const request = { model, messages, response_format: { type: "json_object" as const }, max_tokens: 40 };
    const { choices } = await openai.chat.completions.create(request);
    expect(choices[0]?.message.content).toMatch(/^\s*\{/);
  });
});

describe("a tool", () => {
  // Some models would call again and again.
  const single = { parallel_tool_calls: false } as const;
  const request = { model, messages, tools: [travel], temperature: 1, seed: 3, max_tokens: 400, ...single };

  test("that is required is called, in whole answers and in streams", async () => {
    const { choices } = await openai.chat.completions.create({ ...request, tool_choice: "required" });
    const streamed = openai.chat.completions.stream({ ...request, tool_choice: "required" });
    for (const choice of [choices[0], (await streamed.finalChatCompletion()).choices[0]]) {
      expect(choice?.finish_reason).toBe("tool_calls");
      const [call] = choice?.message.tool_calls ?? [];
      if (call?.type !== "function") throw new Error(`Expected a call, got ${JSON.stringify(choice)}`);
      expect(call.function.name).toBe("travel");
      expect(call.id).toMatch(/^call_\w+$/);
      expectAnswer(call.function.arguments);
    }
  });

  test("returns results that reach the prompt", async () => {
    const call = {
      id: "call_1",
      type: "function" as const,
      function: { name: "travel", arguments: '{"city":"Rome","nights":[]}' },
    };
    const turns = [
      ...messages,
      { role: "assistant" as const, content: null, tool_calls: [call] },
      { role: "tool" as const, tool_call_id: "call_1", content: "Arrived in Rome" },
    ];
    const { choices, usage } = await openai.chat.completions.create({
      ...request,
      messages: turns,
      max_tokens: 3,
      tool_choice: "none",
    });
    expect(choices[0]?.message.role).toBe("assistant");
    const { body } = await postJson(`${server.url}/tokenize`, { messages: turns });
    const { prompt } = (await postJson(`${server.url}/detokenize`, { tokens: body["tokens"] })).body;
    expect(prompt).toContain("Arrived in Rome");
    expect(usage?.prompt_tokens).toBeGreaterThanOrEqual(Number(body["count"]));
  });
});

test("the AI SDK receives objects and tool calls", async () => {
  const provider = createOpenAICompatible({
    name: "readme",
    baseURL: `${server.url}/v1`,
    supportsStructuredOutputs: true,
  });
  const settings = {
    model: provider.chatModel("tiny"),
    prompt: "Where to?",
    maxRetries: 0,
    maxOutputTokens: 400,
    seed: 5,
  };
  const { output } = await generateText({
    ...settings,
    output: Output.object({ schema: jsonSchema(schema as never) }),
  });
  expect(isValid(output)).toBe(true);
  const { toolCalls, finishReason } = await generateText({
    ...settings,
    tools: { travel: tool({ description: "Go there", inputSchema: jsonSchema(schema as never) }) },
    toolChoice: { type: "tool", toolName: "travel" },
  });
  expect(finishReason).toBe("tool-calls");
  expect(toolCalls[0]?.toolName).toBe("travel");
  expect(isValid(toolCalls[0]?.input)).toBe(true);
});

const bound = { response_format: { type: "json_object" } } as const;
const refused: Readonly<Record<string, readonly [body: object, param: string]>> = {
  "a schema that is not supported": [
    { response_format: { type: "json_schema", json_schema: { name: "x", schema: { type: "object", not: {} } } } },
    "response_format.json_schema.schema",
  ],
  "a format together with tools": [{ ...bound, tools: [travel] }, "response_format"],
  "`ignore_eos` with a format": [{ ...bound, ignore_eos: true }, "ignore_eos"],
  "`min_tokens` with a format": [{ ...bound, min_tokens: 2 }, "min_tokens"],
  "a tool choice without tools": [{ tool_choice: "required" }, "tool_choice"],
  "two tools with the same name": [{ tools: [travel, travel] }, "tools"],
  "an unknown format": [{ response_format: { type: "yaml" } }, "response_format.type"],
  "an invalid function name": [
    { tools: [{ type: "function", function: { name: "go there" } }] },
    "tools[0].function.name",
  ],
};

test.each(Object.entries(refused))("%s is refused by name", async (_, [more, param]) => {
  const answer = await postJson(`${server.url}/v1/chat/completions`, { messages, max_tokens: 3, ...more });
  expect([answer.status, answer.body]).toMatchObject([400, { error: { type: "invalid_request_error", param } }]);
});

/** Grammars that compile, and in which an answer comes to a place where it cannot go on. */
const endless: Readonly<Record<string, object>> = {
  grammar: { grammar: "root ::= []" },
  guided_grammar: { guided_grammar: 'root ::= "a"{2147483648}' },
  "structured_outputs.grammar": { structured_outputs: { grammar: 'root ::= "a" []' } },
  "grammar that begins with itself": { grammar: 'root ::= root "a"' },
  "grammar of two rules": { grammar: "root ::= b\nb ::= root" },
};

test.each(Object.entries(endless))("%s without an end is refused by name, whole and streamed", async (named, more) => {
  const [param] = named.split(" ");
  const body = { messages, max_tokens: 12, ...more };
  const { status, body: answer } = await postJson(`${server.url}/v1/chat/completions`, body);
  expect([status, answer]).toMatchObject([
    400,
    { error: { type: "invalid_request_error", code: "invalid_value", param } },
  ]);
  const events = await (
    await fetch(`${server.url}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...body, stream: true }),
    })
  ).text();
  expect(events).toContain(`"param":"${param}"`);
  expect(events).not.toContain("server_error");
});

test("no grammar that a client writes is an error of the server", async () => {
  const symbol = fc.constantFrom(
    '"a"',
    '""',
    '"\\xff"',
    '"é"',
    "[]",
    "[^]",
    "[a-z]",
    "[^\\x00-\\x7f]",
    "root",
    "b",
    "c",
    "( b )",
  );
  const repeated = fc.constantFrom("", "", "*", "+", "?", "{0}", "{2}", "{0,2}", "{3,}", "{", "|");
  const rule = fc.array(fc.tuple(symbol, repeated), { maxLength: 4 }).map((parts) => parts.flat().join(" "));
  const texts = fc.record({ root: rule, b: rule, c: rule });
  const grammars = fc
    .sample(texts, RUNS_LONG_TESTS ? 12 : 6)
    .map(({ root, b, c }) => `root ::= ${root}\nb ::= ${b}\nc ::= ${c}`);
  for (const grammar of [...grammars, "root ::= TagDispatch()", "root", "\0", "%", "start: A\nA: /a/"]) {
    const { status, body } = await postJson(`${server.url}/v1/completions`, { prompt: "a", max_tokens: 4, grammar });
    const { param } = (body["error"] ?? {}) as { readonly param?: unknown };
    expect([grammar, status, param]).toStrictEqual([
      grammar,
      status === 200 ? 200 : 400,
      status === 200 ? undefined : "grammar",
    ]);
  }
});

test.each([
  ["has failed", new ReadMeError("ERR_GRAMMAR_FAILED", "its thread ended"), { status: 503, code: "grammar_failed" }],
  [
    "takes too long",
    new RangeError("Expected the grammar to match a token within 5 ms"),
    { status: 400, code: "invalid_value", param: "grammar" },
  ],
])("a grammar that %s is reported as such, and the engine keeps working", async (_, failure, expected) => {
  const processLogits = (): never => {
    throw failure;
  };
  const settings = chatApi.settings({ messages, max_tokens: 3 }, servedAs(model, engine));
  const input = { prompts: [{ messages }], newProcessor: () => processLogits, constrainedBy: "grammar", priority: 0 };
  const { signal } = new AbortController();
  const owner = { client: "a", cacheSalt: undefined, traceparent: undefined, signal };
  const hooks = { isFollowed: false, onAccepted: () => undefined, onProgress: () => undefined };
  const first = generateAll({ engine, settings, input, ...owner, ...hooks }).next();
  await expect(first).rejects.toMatchObject({ ...expected, cause: failure });
  const answer = await postJson(`${server.url}/v1/chat/completions`, { messages, max_tokens: 1 });
  expect(answer.status).toBe(200);
});

test("grammars are disposed when their engine is no longer served and no request uses them", async () => {
  const served = [{ name: "tiny", engine, createdMs: 0, aliases: [], experts: [] }];
  const all = new EngineGrammars({ list: () => served });
  const [first, second] = [all.use(engine), all.use(engine)];
  const grammars = await first.grammars();
  expect(await second.grammars()).toBe(grammars);
  served.length = 0;
  first.release();
  await grammars.jsonObject();
  second.release();
  await new Promise((resolve) => setImmediate(resolve));
  await expectReadMeError(grammars.jsonObject(), "ERR_DISPOSED");
});
