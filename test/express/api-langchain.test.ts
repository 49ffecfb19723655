// LangChain's classes for OpenAI, as they are: chats, streams, tools, answers under a schema, and embeddings.

import { AIMessage, HumanMessage, ToolMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";
import type { ReadMeEngine } from "@readme-moe/engine";
import { readMe } from "@readme-moe/express";
import express from "express";
import { afterAll, beforeAll, expect, test } from "vitest";
import { z } from "zod";
import { complete } from "../support/complete.ts";
import { EMBEDDING_MODEL, openPooling, poolingGolden } from "../support/pooling-models.ts";
import { largestDifference } from "../support/running-model.ts";
import { listen, openClientsEngine, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
let engine: ReadMeEngine;
let embedder: ReadMeEngine;
let server: RunningServer;

beforeAll(async () => {
  [engine, embedder] = await Promise.all([
    openClientsEngine(folder, { config: { max_position_embeddings: 4096 } }),
    openPooling(EMBEDDING_MODEL),
  ]);
  server = await listen(express().use(readMe({ models: { tiny: engine, embedder }, keys: { ann: "secret" } })));
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await engine.dispose();
  await embedder.dispose();
});

const connection = () => ({ apiKey: "secret", configuration: { baseURL: `${server.url}/v1` }, maxRetries: 0 });

function chat(maxTokens = 12): ChatOpenAI {
  return new ChatOpenAI({ model: "tiny", temperature: 0, maxTokens, ...connection() });
}

/** Returns the engine's own answer. */
async function right(): Promise<string> {
  const prompt = { messages: [{ role: "user", content: "Hello there" }] };
  return (await complete(engine, { prompt, params: { maxTokens: 12, temperature: 0 } })).text;
}

test("a chat has the engine's answer, whole and in pieces, with its usage", async () => {
  const expected = await right();
  const answer = await chat().invoke([new HumanMessage("Hello there")]);
  expect(answer.content).toBe(expected);
  expect(answer).toMatchObject({ usage_metadata: { output_tokens: 12 } });
  let text = "";
  for await (const piece of await chat().stream("Hello there")) text += piece.text;
  expect(text).toBe(expected);
});

test("several chats run together", async () => {
  const answers = await chat().batch(["Hello there", "Hello there", "Hello there"]);
  expect(new Set(answers.map(({ content }) => content))).toEqual(new Set([await right()]));
});

test("tools are called, and their results answered", async () => {
  const light = tool(async ({ on }: { readonly on: boolean }) => (on ? "on" : "off"), {
    name: "light",
    description: "Switches the light",
    schema: z.object({ on: z.boolean() }),
  });
  const asked = new HumanMessage("Light, please");
  const options = { tool_choice: "light", parallel_tool_calls: false } as const;
  const answer = await chat(200).bindTools([light], options).invoke([asked]);
  const [call, ...others] = answer.tool_calls ?? [];
  expect(others).toEqual([]);
  expect(call).toMatchObject({ name: "light", args: { on: expect.any(Boolean) as boolean } });
  const result = new ToolMessage({ content: await light.invoke({ on: true }), tool_call_id: call?.id ?? "" });
  const later = await chat().invoke([
    asked,
    new AIMessage({ content: "", tool_calls: answer.tool_calls ?? [] }),
    result,
  ]);
  expect(typeof later.content).toBe("string");
});

test("answers follow a schema", async () => {
  const schema = z.object({ city: z.enum(["Rome", "Oslo"]) });
  for (const method of ["jsonSchema", "functionCalling"] as const) {
    const { city } = await chat(200).withStructuredOutput(schema, { method }).invoke("A city");
    expect(["Rome", "Oslo"]).toContain(city);
  }
});

test("embeddings are those of sentence-transformers, of documents and of a query", async () => {
  const texts = poolingGolden.embeddings.filter(({ input, prompt }) => prompt === undefined && input !== "");
  const embeddings = new OpenAIEmbeddings({ model: "embedder", batchSize: 3, stripNewLines: false, ...connection() });
  const own = await embeddings.embedDocuments(texts.map(({ input }) => input));
  for (const [index, { embedding }] of texts.entries()) {
    expect(largestDifference(own[index] ?? [], embedding)).toBeLessThan(1e-5);
  }
  expect(await embeddings.embedQuery(texts[0]!.input)).toEqual(own[0]);
});

test("errors have the server's message", async () => {
  const asked = new ChatOpenAI({ model: "embedder", ...connection() }).invoke("Hello there");
  await expect(asked).rejects.toThrow("`tiny` generates text");
});
