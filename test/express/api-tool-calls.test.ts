// Calls that a model makes in a form without a grammar, in every API, whole and streamed, and what ends such an answer.

import { readMe } from "@readme-moe/express";
import express from "express";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { smallVocabulary } from "../support/bound-text.ts";
import { postJson } from "../support/post-json.ts";
import { acceptTen, chunkOf, nextTurn, scriptedEngine, USAGE } from "../support/scripted-engine.ts";
import { listen, type RunningServer } from "../support/served-model.ts";
import { parseEvents } from "../support/sse.ts";

const vocabulary = smallVocabulary();
const ARGUMENTS = { city: "Rome" };
const CALL = `\`\`\`json\n${JSON.stringify({ name: "weather", arguments: ARGUMENTS }, null, 2)}\n\`\`\``;
const REST = Array.from({ length: 200 }, (_, index) => ` word${index}`);
const run = { numChunks: 0, hasEnded: false };

/** Writes a call in a block of code, a few characters at a time, and then goes on for long. */
const engine = {
  ...scriptedEngine({
    async *answer({ prompt }) {
      [run.numChunks, run.hasEnded] = [0, false];
      const isAsked = JSON.stringify(prompt).includes("Weather?");
      const pieces = isAsked ? [...(CALL.match(/[^]{1,7}/g) ?? []), "\n\n"] : [];
      try {
        for (const piece of [...pieces, ...REST]) {
          await nextTurn();
          run.numChunks++;
          yield chunkOf(0, piece);
        }
        yield chunkOf(0, "", { finishReason: "stop", usage: USAGE });
      } finally {
        run.hasEnded = true;
      }
    },
    accept: acceptTen,
    info: { vocabSize: vocabulary.vocabSize },
  }),
  vocabulary: async () => vocabulary,
};

let server: RunningServer;
beforeAll(async () => {
  server = await listen(express().use(readMe.api({ models: { made: engine }, ollama: true })));
});
afterAll(() => server[Symbol.asyncDispose]());

const name = "weather";
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ type: "function", function: { name, parameters } }];
const messages = [{ role: "user", content: "Weather?" }];

/** Body of each API, and how it allows a single call. */
const APIS = {
  "/v1/chat/completions": { body: { messages, tools }, single: { parallel_tool_calls: false } },
  "/v1/responses": {
    body: { input: "Weather?", tools: [{ type: "function", name, parameters }], store: false },
    single: { parallel_tool_calls: false },
  },
  "/v1/messages": {
    body: { messages, max_tokens: 500, tools: [{ name, input_schema: parameters }] },
    single: { tool_choice: { type: "auto", disable_parallel_tool_use: true } },
  },
  "/api/chat": { body: { messages, tools, stream: false }, single: undefined },
} as const;

/** Finds the arguments of all calls in an answer, whatever its shape. */
function callsIn(value: unknown): readonly unknown[] {
  if (typeof value !== "object" || value === null) return [];
  const { name: called, arguments: args, input }: Readonly<Record<string, unknown>> = { ...value };
  const given = args ?? input;
  if (called !== name || given === undefined) return Object.values(value).flatMap(callsIn);
  return [typeof given === "string" ? JSON.parse(given) : given];
}

describe.each(Object.entries(APIS))("%s", (path, { body, single }) => {
  test("gives the calls of a block of code, and the text behind them", async () => {
    const { status, body: answer } = await postJson(server.url + path, { model: "made", ...body });
    expect(status).toBe(200);
    expect(callsIn(answer)).toEqual([ARGUMENTS]);
    expect(JSON.stringify(answer)).toContain("word199");
    expect(JSON.stringify(answer)).not.toContain("```");
  });

  test("streams the calls of a block of code", async () => {
    const init = { method: "POST", headers: { "content-type": "application/json" } };
    const sent = JSON.stringify({ model: "made", ...body, stream: true });
    const streamed = await (await fetch(server.url + path, { ...init, body: sent })).text();
    expect(streamed).toContain('"name":"weather"');
    expect(streamed).not.toContain("```");
    if (path !== "/api/chat") expect(parseEvents(streamed).data.length).toBeGreaterThan(200);
  });

  test.skipIf(single === undefined)("ends behind the only call where one is allowed (skipped for Ollama)", async () => {
    const { status, body: answer } = await postJson(server.url + path, { model: "made", ...body, ...single });
    expect(status).toBe(200);
    expect(callsIn(answer)).toEqual([ARGUMENTS]);
    expect(JSON.stringify(answer)).not.toContain("word");
    expect(run.numChunks).toBeLessThan(50);
    expect(run.hasEnded).toBe(true);
    expect(JSON.stringify(answer["usage"])).toMatch(/"(?:completion|output)_tokens":[1-9]/);
  });
});

test("an answer without a call is not cut where one call is allowed", async () => {
  const body = { model: "made", messages: [{ role: "user", content: "Hello" }], tools, parallel_tool_calls: false };
  const { body: answer } = await postJson(`${server.url}/v1/chat/completions`, body);
  expect(answer).toMatchObject({ choices: [{ finish_reason: "stop", message: { content: REST.join("") } }] });
});

test("strict tools that answers cannot be bound to are refused with the function and the keyword", async () => {
  const odd = { name: "odd", parameters: { type: "object", not: {} }, strict: true };
  const body = { model: "made", messages, tools: [...tools, { type: "function", function: odd }] };
  const { status, body: answer } = await postJson(`${server.url}/v1/chat/completions`, body);
  expect(status).toBe(400);
  expect(answer).toMatchObject({ error: { type: "invalid_request_error", param: "tools" } });
  expect(JSON.stringify(answer)).toMatch(/function 'odd'.*`not`/);
});

test("a server with `toolsStrict` refuses such tools whatever they say", async () => {
  const strict = readMe.api({ models: { made: engine }, toolsStrict: true });
  await using other = await listen(express().use(strict));
  const odd = { name: "odd", parameters: { type: "object", not: {} } };
  const body = { model: "made", messages, tools: [{ type: "function", function: odd }] };
  const { status } = await postJson(`${other.url}/v1/chat/completions`, body);
  expect(status).toBe(400);
  expect(() => readMe.api({ models: { made: engine }, toolsStrict: 1 as never })).toThrow("`toolsStrict`");
});
