// Answers that the request has begun, in the APIs of OpenAI and Anthropic.

import Anthropic from "@anthropic-ai/sdk";
import type { ReadMeEngine } from "@readme-moe/engine";
import { readMe } from "@readme-moe/express";
import express from "express";
import { afterAll, beforeAll, expect, test } from "vitest";
import { complete } from "../support/complete.ts";
import { postJson } from "../support/post-json.ts";
import { listen, openClientsEngine, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
const few = { model: "tiny", max_tokens: 12, temperature: 0 } as const;
const hello = { role: "user", content: "Hello there" } as const;
const begun = [hello, { role: "assistant", content: "Well, I" }] as const;

let engine: ReadMeEngine;
let server: RunningServer;
/** Answer of the engine to the text that ends within the begun one. */
let expected: string;
let prompt: string;

beforeAll(async () => {
  engine = await openClientsEngine(folder, { config: { max_position_embeddings: 4096 } });
  const app = express();
  app.use(readMe({ models: { tiny: engine } }));
  server = await listen(app);
  prompt = await engine.applyTemplate(begun, { continueFinalMessage: true });
  expected = (await complete(engine, { prompt, params: { maxTokens: 12, temperature: 0 } })).text;
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await engine.dispose();
});

test("the prompt ends within the message", () => {
  expect(prompt.endsWith("Well, I")).toBe(true);
  expect(expected).not.toBe("");
});

test("Anthropic's SDK gets what follows a last message of the assistant, and its count of tokens", async () => {
  const anthropic = new Anthropic({ apiKey: "any", baseURL: server.url, maxRetries: 0 });
  const [, { content: text }] = begun;
  for (const content of [text, [{ type: "text" as const, text }]]) {
    const answer = await anthropic.messages.create({ ...few, messages: [hello, { role: "assistant", content }] });
    expect(answer.content).toEqual([{ type: "text", text: expected }]);
  }
  const counted = await anthropic.messages.countTokens({ model: "tiny", messages: [...begun] });
  expect(counted.input_tokens).toBe((await engine.tokenize(prompt)).length);
});

test("continue_final_message gets the same from chat completions", async () => {
  const { status, body } = await chat({ messages: begun, continue_final_message: true });
  expect(status).toBe(200);
  expect(body["choices"]).toMatchObject([{ message: { content: expected }, finish_reason: "length" }]);
});

test("add_generation_prompt: false leaves out the beginning of an answer", async () => {
  const text = await engine.applyTemplate([hello], { addGenerationPrompt: false });
  const { body } = await chat({ messages: [hello], add_generation_prompt: false });
  expect(body["usage"]).toMatchObject({ prompt_tokens: (await engine.tokenize(text)).length });
});

const schema = { type: "object" };
const format = { type: "json_schema", json_schema: { name: "a", schema } };
const tools = [{ type: "function", function: { name: "f", parameters: schema } }];
const calls = [{ id: "1", type: "function", function: { name: "f", arguments: "{}" } }];

test.each([
  ["after a question", { messages: [hello] }, "messages[0]"],
  ["of calls", { messages: [hello, { role: "assistant", content: "x", tool_calls: calls }] }, "messages[1]"],
  ["with another beginning", { messages: begun, add_generation_prompt: true }, "add_generation_prompt"],
  ["beside a format", { messages: begun, response_format: format }, "continue_final_message"],
  ["beside tools", { messages: begun, tools }, "continue_final_message"],
])("a continuation %s is refused", async (_, fields, param) => {
  const { status, body } = await chat({ ...fields, continue_final_message: true });
  expect(status).toBe(400);
  expect(body["error"]).toMatchObject({ type: "invalid_request_error", param });
});

test("Anthropic's shape names its own parameter", async () => {
  const fields = { messages: begun, output_config: { format: { type: "json_schema", schema } } };
  const { status, body } = await postJson(`${server.url}/v1/messages`, { ...few, ...fields });
  expect(status).toBe(400);
  expect(body["error"]).toMatchObject({ message: expect.stringContaining("messages") as string });
});

function chat(fields: object): ReturnType<typeof postJson> {
  return postJson(`${server.url}/v1/chat/completions`, { ...few, ...fields });
}
