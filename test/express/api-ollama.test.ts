// Ollama's client from npm: chats, completions, tools, schemas, embeddings, models, errors and aborts.

import { join } from "node:path";
import type { SamplingParams } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { readMe } from "@readme-moe/express";
import express from "express";
import { Ollama } from "ollama";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { complete } from "../support/complete.ts";
import { endlessAnswers } from "../support/endless-answers.ts";
import { exact } from "../support/exact-bodies.ts";
import { CALL, startExactServer, type ExactServer } from "../support/exact-server.ts";
import { LIGHT, LIGHT_PARAMETERS } from "../support/light-tool.ts";
import { EMBEDDING_MODEL, openPooling, poolingGolden } from "../support/pooling-models.ts";
import { postJson } from "../support/post-json.ts";
import { largestDifference } from "../support/running-model.ts";
import { ENDLESS, listen, openClientsEngine, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
let engine: ReadMeEngine;
let logitBias: Record<string, number>;
let embedder: ReadMeEngine;
let server: RunningServer;
let ollama: Ollama;

beforeAll(async () => {
  [engine, embedder] = await Promise.all([openClientsEngine(folder, ENDLESS), openPooling(EMBEDDING_MODEL)]);
  const { onRequest, ...endless } = await endlessAnswers(engine);
  ({ logitBias } = endless);
  server = await listen(express().use(readMe({ models: { tiny: engine, embedder }, ollama: true, onRequest })));
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
const params = (): SamplingParams => ({ temperature: 0, maxTokens: 12, logitBias });

describe("chats", () => {
  test("have the engine's answer, whole and in pieces", async () => {
    const right = await complete(engine, { prompt: { messages }, params: params() });
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
  const ofChat = await complete(engine, { prompt: { messages: chat }, params: params() });
  const answer = await ollama.generate({ model: "tiny", prompt: "Hello there", system: "Be brief", options });
  expect(answer).toMatchObject({ response: ofChat.text, done: true, done_reason: "length" });
  const ofText = await complete(engine, { prompt: "Hello there", params: params() });
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
  const one = await ollama.embeddings({ model: "embedder", prompt: input[2] ?? "" });
  expect(one.embedding).toEqual(embeddings[2]);
});

test("texts that are longer than the context lose their ends, unless the request forbids it", async () => {
  const input = "word ".repeat(600);
  const { contextTokens } = embedder.info;
  const { embeddings: cut, prompt_eval_count: tokens } = await ollama.embed({ model: "embedder", input });
  expect(tokens).toBe(contextTokens);
  const whole = await embedder.tokenize(input);
  const kept = [...whole.subarray(0, contextTokens - 1), whole.at(-1) ?? 0];
  const { embeddings: right } = await embedder.embed({ inputs: [kept] });
  expect(cut[0]).toEqual(Array.from(right[0] ?? []));
  await expect(ollama.embed({ model: "embedder", input, truncate: false })).rejects.toThrow(`${contextTokens}`);
});

test("requests without options have the model's sampling, else Ollama's", async () => {
  const seed = 3;
  const ours = { ...engine.info.samplingDefaults, maxTokens: 12, seed, logitBias };
  const sampled = await complete(engine, {
    prompt: { messages },
    params: { temperature: 0.8, topK: 40, topP: 0.9, ...ours },
  });
  const answer = await ollama.chat({ model: "tiny", messages, options: { num_predict: 12, seed } });
  expect(answer.message.content).toBe(sampled.text);
  const neutral = { temperature: 1, top_k: 0, top_p: 1, num_predict: 12, seed };
  const own = await ollama.chat({ model: "tiny", messages, options: neutral });
  const free = { temperature: 1, topK: 0, topP: 1, maxTokens: 12, seed, logitBias };
  expect(own.message.content).toBe((await complete(engine, { prompt: { messages }, params: free })).text);
  const { parameters } = await ollama.show({ model: "tiny" });
  const { temperature = 0.8 } = engine.info.samplingDefaults ?? {};
  expect(parameters).toMatch(new RegExp(`^num_ctx +${engine.info.contextTokens}\ntemperature +${temperature}\n`));
});

test("models are listed and described", async () => {
  // Open WebUI adds the tag to each name, and looks for the result in this list.
  const { models: listed } = await ollama.list();
  expect(listed.map(({ name, model }) => [name, model])).toEqual([
    ["tiny:latest", "tiny:latest"],
    ["embedder:latest", "embedder:latest"],
  ]);
  for (const { size, digest, modified_at: time } of listed) {
    expect(size).toBeGreaterThan(10_000);
    expect(digest).toMatch(/^[0-9a-f]{64}$/);
    expect(Date.parse(String(time))).toBeGreaterThan(0);
  }
  const running = (await ollama.ps()).models;
  expect(running).toMatchObject(listed);
  expect(running[1]).toMatchObject({ context_length: 512, size_vram: 0 });
  expect(Date.parse(String(running[0]?.expires_at))).toBeGreaterThan(Date.now());
  const { capabilities, model_info: info, details } = await ollama.show({ model: "embedder" });
  expect(capabilities).toEqual(["embedding"]);
  expect(details).toMatchObject({ family: "qwen3", quantization_level: "fp32" });
  expect(info).toMatchObject({ "general.architecture": "qwen3", "qwen3.context_length": 512 });
  expect((await ollama.show({ model: "tiny:latest" })).capabilities).toEqual(["completion", "tools"]);
  // Continue sends the older name of the field.
  expect(await postJson(`${server.url}/api/show`, { name: "tiny" })).toMatchObject({ status: 200 });
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
    ["chat", { model: "tiny", messages, options: { mirostat: 2 } }, 400, "options.mirostat"],
    ["embed", { model: "embedder", input: "a", dimensions: 0 }, 400, "dimensions"],
    ["embeddings", { model: "embedder", input: "a" }, 400, "prompt"],
    ["show", { model: "other" }, 404, "other"],
    ["show", {}, 400, "model"],
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

describe("bodies, field by field", () => {
  let exactServer: ExactServer;
  beforeAll(async () => {
    exactServer = await startExactServer(join(folder, "batches"));
  });
  afterAll(() => exactServer[Symbol.asyncDispose]());
  const { name, description } = LIGHT;
  const tools = [{ type: "function", function: { name, description, parameters: LIGHT_PARAMETERS } }];
  const head = { model: "scripted", created_at: "now" };
  const end = {
    done: true,
    done_reason: "stop",
    total_duration: "duration",
    load_duration: "duration",
    prompt_eval_count: 10,
    prompt_eval_duration: "duration",
    eval_count: 3,
    eval_duration: "duration",
  };
  const role = "assistant";
  const tool_calls = [{ id: "call_#1", function: { name, arguments: { on: true } } }];
  const asked = { model: "scripted", messages, tools };

  test("chats, whole and sent back, and streamed", async () => {
    const answer = await exactServer.whole("/api/chat", { ...asked, stream: false });
    const message = { role, content: "I do.", thinking: "Hm", tool_calls };
    expect(exact(answer)).toStrictEqual([{ ...head, message, ...end }]);
    const said = [...messages, (answer as { message: object }).message, { role: "tool", content: "done" }];
    expect((await exactServer.ask("/api/chat", { ...asked, stream: false, messages: said })).status).toBe(200);
    expect(await exactServer.streamed("/api/chat", asked)).toStrictEqual([
      { ...head, message: { role, content: "", thinking: "Hm" }, done: false },
      { ...head, message: { role, content: "I do." }, done: false },
      { ...head, message: { role, content: "", tool_calls }, done: false },
      { ...head, message: { role, content: "" }, ...end },
    ]);
    expect(exact(await exactServer.whole("/api/chat", { model: "scripted", messages: [] }))).toStrictEqual([
      { ...head, message: { role, content: "" }, done: true, done_reason: "load" },
    ]);
  });

  test("completions, whole and streamed", async () => {
    const prompt = { model: "scripted", prompt: "x" };
    const response = `I do.${CALL}`;
    expect(exact(await exactServer.whole("/api/generate", { ...prompt, stream: false }))).toStrictEqual([
      { ...head, response, thinking: "Hm", ...end },
    ]);
    expect(await exactServer.streamed("/api/generate", prompt)).toStrictEqual([
      { ...head, response: "", thinking: "Hm", done: false },
      { ...head, response, done: false },
      { ...head, response: "", ...end },
    ]);
  });

  test("embeddings and models", async () => {
    expect(exact(await exactServer.whole("/api/embed", { model: "embedder", input: ["a", "b"] }))).toStrictEqual([
      {
        model: "embedder",
        embeddings: [
          [0.5, 0],
          [0.5, -1],
        ],
        total_duration: "duration",
        load_duration: "duration",
        prompt_eval_count: 7,
      },
    ]);
    expect(await exactServer.whole("/api/embeddings", { model: "embedder", prompt: "a" })).toStrictEqual({
      embedding: [0.5, 0],
    });
    expect(await exactServer.whole("/api/version")).toStrictEqual({ version: "0.12.6" });
  });
});
