// Ollama's client from npm: chats, completions, tools, schemas, embeddings, models, errors and aborts.

import type { ReadMeEngine } from "@readme-moe/engine";
import { readMe } from "@readme-moe/express";
import express from "express";
import { Ollama } from "ollama";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { complete } from "../support/complete.ts";
import { EMBEDDING_MODEL, openPooling, poolingGolden } from "../support/pooling-models.ts";
import { postJson } from "../support/post-json.ts";
import { largestDifference } from "../support/running-model.ts";
import { listen, openClientsEngine, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
let engine: ReadMeEngine;
let embedder: ReadMeEngine;
let server: RunningServer;
let ollama: Ollama;

beforeAll(async () => {
  [engine, embedder] = await Promise.all([
    openClientsEngine(folder, { config: { max_position_embeddings: 4096 } }),
    openPooling(EMBEDDING_MODEL),
  ]);
  server = await listen(express().use(readMe({ models: { tiny: engine, embedder }, ollama: true })));
  ollama = new Ollama({ host: server.url });
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await engine.dispose();
  await embedder.dispose();
});
afterEach(async () => {
  for (const one of [engine, embedder]) {
    await expect.poll(async () => one.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
  }
});

const messages = [{ role: "user", content: "Hello there" }];
const options = { temperature: 0, num_predict: 12, num_ctx: 2048 };
const params = { temperature: 0, maxTokens: 12 };

describe("chats", () => {
  test("have the engine's answer, whole and in pieces", async () => {
    const right = await complete(engine, { prompt: { messages }, params });
    const whole = await ollama.chat({ model: "tiny", messages, options });
    expect(whole).toMatchObject({
      model: "tiny",
      message: { role: "assistant", content: right.text },
      done: true,
      done_reason: "length",
      eval_count: 12,
    });
    expect(whole.prompt_eval_count).toBeGreaterThan(2);
    expect(whole.total_duration).toBeGreaterThan(0);
    const pieces: string[] = [];
    const last: unknown[] = [];
    for await (const part of await ollama.chat({ model: "tiny:latest", messages, options, stream: true })) {
      pieces.push(part.message.content);
      if (part.done) last.push(part);
    }
    expect(pieces.join("")).toBe(right.text);
    expect(pieces.length).toBeGreaterThan(2);
    expect(last).toMatchObject([{ model: "tiny:latest", done_reason: "length", eval_count: 12 }]);
  });

  test("follow a schema, or any JSON", async () => {
    const format = { type: "object", properties: { city: { enum: ["Rome", "Oslo"] } }, required: ["city"] };
    const schema = await ollama.chat({ model: "tiny", messages, format, options: { num_predict: 100, seed: 1 } });
    expect(["Rome", "Oslo"]).toContain((JSON.parse(schema.message.content) as { readonly city: string }).city);
    const wrong = ollama.chat({ model: "tiny", messages, format: { type: "strange" } });
    await expect(wrong).rejects.toThrow("format");
  });

  test("take tools, calls and their results", async () => {
    const parameters = { type: "object", properties: { on: { type: "boolean" } }, required: ["on"] };
    const tools = [{ type: "function", function: { name: "light", description: "Switches the light", parameters } }];
    const call = { function: { name: "light", arguments: { on: true } } };
    const said = [
      ...messages,
      { role: "assistant", content: "", tool_calls: [call, call] },
      { role: "tool", content: "done", tool_name: "light" },
      { role: "tool", content: "done", tool_name: "light" },
    ];
    const answer = await ollama.chat({ model: "tiny", messages: said, tools, options });
    expect(answer.done).toBe(true);
    const astray = ollama.chat({ model: "tiny", messages: said.slice(2), tools, options });
    await expect(astray).rejects.toThrow("messages[0]");
  });

  test("without messages tell that the model is there", async () => {
    expect(await ollama.chat({ model: "tiny", messages: [] })).toMatchObject({ done: true, done_reason: "load" });
    await expect(ollama.chat({ model: "other", messages: [] })).rejects.toThrow("`tiny`");
  });
});

test("completions have the engine's answer, with the template and without", async () => {
  const chat = [{ role: "system", content: "Be brief" }, ...messages];
  const ofChat = await complete(engine, { prompt: { messages: chat }, params });
  const answer = await ollama.generate({ model: "tiny", prompt: "Hello there", system: "Be brief", options });
  expect(answer).toMatchObject({ response: ofChat.text, done: true, done_reason: "length" });
  const ofText = await complete(engine, { prompt: "Hello there", params });
  let text = "";
  const raw = { model: "tiny", prompt: "Hello there", raw: true, options, stream: true } as const;
  for await (const { response } of await ollama.generate(raw)) text += response;
  expect(text).toBe(ofText.text);
});

test("embeddings are those of sentence-transformers", async () => {
  const texts = poolingGolden.embeddings.filter(({ prompt }) => prompt === undefined);
  const input = texts.map((one) => one.input);
  const { embeddings, prompt_eval_count: tokens } = await ollama.embed({ model: "embedder", input });
  for (const [index, { embedding }] of texts.entries()) {
    expect(largestDifference(embeddings[index] ?? [], embedding)).toBeLessThan(1e-5);
  }
  expect(tokens).toBe(texts.reduce((sum, { input_ids: ids }) => sum + ids.length, 0));
  await expect(ollama.embed({ model: "tiny", input: "a" })).rejects.toThrow("`embedder` gives embeddings");
});

test("models are listed and described", async () => {
  expect((await ollama.list()).models.map(({ name }) => name)).toEqual(["tiny", "embedder"]);
  expect((await ollama.ps()).models).toHaveLength(2);
  const { capabilities, model_info: info, details } = await ollama.show({ model: "embedder" });
  expect(capabilities).toEqual(["embedding"]);
  expect(details).toMatchObject({ family: "qwen3", quantization_level: "fp32" });
  expect(info).toMatchObject({ "general.architecture": "qwen3", "qwen3.context_length": 512 });
  expect((await ollama.show({ model: "tiny" })).capabilities).toEqual(["completion", "tools"]);
  const version = (await (await fetch(`${server.url}/api/version`)).json()) as object;
  expect(version).toHaveProperty("version", expect.stringMatching(/^\d+\.\d+\.\d+$/));
});

test("errors are a text, with the names of this API", async () => {
  const refusals: readonly (readonly [string, object, number, string])[] = [
    ["chat", { model: "tiny", messages, options: { num_predict: 0 } }, 400, "options.num_predict"],
    ["chat", { model: "tiny", messages, options: { temperature: 9 } }, 400, "options.temperature"],
    ["chat", { model: "tiny", messages: [{ role: "user", content: "a", images: ["aGk="] }] }, 400, "images"],
    ["chat", { model: "embedder", messages }, 400, "`tiny` generates text"],
    ["chat", { messages }, 400, "model"],
    ["generate", { model: "other", prompt: "a" }, 404, "other"],
    ["embed", { model: "embedder", input: "a", truncate: true }, 400, "truncate"],
    ["show", { model: "other" }, 404, "other"],
  ];
  for (const [route, body, status, part] of refusals) {
    const answer = await postJson(`${server.url}/api/${route}`, body);
    expect(answer).toMatchObject({ status, body: { error: expect.stringContaining(part) as string } });
  }
});

test("an abort ends the work", async () => {
  const own = new Ollama({ host: server.url });
  const stream = await own.chat({ model: "tiny", messages, options: { num_predict: -1 }, stream: true });
  const reading = (async () => {
    for await (const part of stream) if (part.message.content !== "") own.abort();
  })();
  await expect(reading).rejects.toThrow();
});

test("the routes are there on request only", async () => {
  await using plain = await listen(express().use(readMe({ models: { tiny: engine } })));
  expect((await fetch(`${plain.url}/api/tags`)).status).toBe(404);
  expect(() => readMe({ engine, ollama: "yes" as unknown as boolean })).toThrow("`ollama`");
});
