// The AI SDK with its default providers: OpenAI's, which uses the Responses API, and Anthropic's.

import { createAnthropic, type AnthropicProvider } from "@ai-sdk/anthropic";
import { createOpenAI, type OpenAIProvider } from "@ai-sdk/openai";
import type { ReadMeEngine } from "@readme-moe/engine";
import { readMe } from "@readme-moe/express";
import { generateText, jsonSchema, Output, streamText, tool } from "ai";
import express from "express";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { complete } from "../support/complete.ts";
import { endlessAnswers } from "../support/endless-answers.ts";
import { listen, openClientsEngine, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
let engine: ReadMeEngine;
let logitBias: Record<string, number>;
let server: RunningServer;
let openai: OpenAIProvider;
let anthropic: AnthropicProvider;

beforeAll(async () => {
  engine = await openClientsEngine(folder, { config: { max_position_embeddings: 4096 } });
  const { onRequest, ...endless } = await endlessAnswers(engine);
  ({ logitBias } = endless);
  server = await listen(express().use(readMe({ models: { tiny: engine }, keys: { ann: "secret" }, onRequest })));
  openai = createOpenAI({ apiKey: "secret", baseURL: `${server.url}/v1` });
  anthropic = createAnthropic({ apiKey: "secret", baseURL: `${server.url}/v1` });
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await engine.dispose();
});

const schemaOfLight = {
  type: "object",
  properties: { on: { type: "boolean" } },
  required: ["on"],
  additionalProperties: false,
} as const;

/** Returns the engine's own answer. */
async function right(): Promise<string> {
  const prompt = { messages: [{ role: "user", content: "Hello there" }] };
  return (await complete(engine, { prompt, params: { maxTokens: 12, temperature: 0, logitBias } })).text;
}

describe.each([
  // OpenAI's tool results refer to items that the server keeps.
  ["OpenAI", () => openai("tiny"), { openai: { parallelToolCalls: false } }, "none"],
  ["Anthropic", () => anthropic("tiny"), { anthropic: { disableParallelToolUse: true } }, "auto"],
] as const)("the AI SDK's %s provider", (_name, model, providerOptions, laterChoice) => {
  test("generates and streams text", async () => {
    const settings = { model: model(), prompt: "Hello there", maxOutputTokens: 12, temperature: 0 } as const;
    const expected = await right();
    const whole = await generateText(settings);
    expect([whole.text, whole.finishReason]).toEqual([expected, "length"]);
    const streamed = streamText(settings);
    let text = "";
    for await (const part of streamed.textStream) text += part;
    expect(text).toBe(expected);
    expect((await streamed.usage).outputTokens).toBe(12);
  });

  test("calls tools in several steps", async () => {
    const calls: unknown[] = [];
    const { steps } = await generateText({
      model: model(),
      prompt: "Light, please",
      maxOutputTokens: 200,
      temperature: 0,
      providerOptions,
      tools: {
        light: tool({
          inputSchema: jsonSchema<{ readonly on: boolean }>(schemaOfLight),
          execute: async (input) => {
            calls.push(input);
            return "done";
          },
        }),
      },
      prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : laterChoice }),
      stopWhen: ({ steps: taken }) => taken.length === 2,
    });
    expect(calls[0]).toEqual({ on: expect.any(Boolean) as boolean });
    expect(steps).toHaveLength(2);
  });
});

test("the AI SDK's OpenAI provider gets objects under a schema", async () => {
  const schema = jsonSchema<{ readonly city: string }>({
    type: "object",
    properties: { city: { type: "string", enum: ["Rome", "Oslo"] } },
    required: ["city"],
    additionalProperties: false,
  });
  const { output } = await generateText({
    model: openai("tiny"),
    prompt: "A city",
    maxOutputTokens: 1000,
    output: Output.object({ schema }),
  });
  expect(["Rome", "Oslo"]).toContain(output.city);
});
