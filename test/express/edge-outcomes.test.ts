// Tests on every route whether its answer counts as a sign of the engine's health. A new route fails until it is listed.

import { ReadMeError } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { readMe, ServedModels } from "@readme-moe/express";
import express from "express";
import { afterAll, beforeAll, expect, test } from "vitest";
import { allServices } from "../../packages/express/src/services.ts";
import { EMBEDDING_MODEL, openPooling, writeReranker } from "../support/pooling-models.ts";
import { listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
let engines: Readonly<Record<"chat" | "embedder" | "ranker", ReadMeEngine>>;
let models: ServedModels;
let server: RunningServer;
let paths: readonly string[];

beforeAll(async () => {
  const [chat, embedder, ranker] = await Promise.all([
    openTinyEngine(folder),
    openPooling(EMBEDDING_MODEL),
    openPooling(await writeReranker()),
  ]);
  engines = { chat, embedder, ranker };
  models = new ServedModels(engines, { maxFailures: 2 });
  const options = {
    models,
    ollama: true,
    batches: { folder: await persistentFolder() },
    experts: { folder: await persistentFolder(), operatorKeys: ["boss"] },
  };
  const { routes } = allServices("test", { ...options, batches: { folder: await persistentFolder() } }).table;
  paths = routes.filter(({ methods }) => methods.post).map(({ path }) => path);
  server = await listen(express().use(readMe(options)));
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  for (const engine of Object.values(engines)) await engine.dispose();
});

const messages = [{ role: "user", content: "a" }];
const chat = { model: "chat", messages };
const ranking = { model: "ranker", query: "a", documents: ["a", "b"] };
const ollama = { model: "chat", stream: false, options: { num_predict: 2 } };

/** A body of each route that an engine answers. */
const answered: Readonly<Record<string, object>> = {
  "/v1/chat/completions": { ...chat, max_tokens: 2 },
  "/v1/completions": { model: "chat", prompt: "a", max_tokens: 2 },
  "/v1/responses": { model: "chat", input: "a", max_output_tokens: 16 },
  "/v1/messages": { ...chat, max_tokens: 2 },
  "/v1/embeddings": { model: "embedder", input: "a" },
  "/v1/rerank": ranking,
  "/v2/rerank": ranking,
  "/rerank": ranking,
  "/api/chat": { ...ollama, messages },
  "/api/generate": { ...ollama, prompt: "a" },
  "/api/embed": { model: "embedder", input: "a" },
  "/api/embeddings": { model: "embedder", prompt: "a" },
};
/** A body of each other route. Its answer says nothing about an engine's steps. */
const others: Readonly<Record<string, object>> = {
  "/v1/messages/count_tokens": chat,
  "/api/show": { model: "chat" },
  "/tokenize": { model: "chat", prompt: "a" },
  "/detokenize": { model: "chat", tokens: [1] },
};
const WITHOUT_ENGINE = [
  "/v1/responses/:id/cancel",
  "/v1/files",
  "/v1/batches",
  "/v1/batches/:id/cancel",
  "/v1/load_lora_adapter",
  "/v1/unload_lora_adapter",
];

test("every route that takes a body is asked", () => {
  const asked = [...Object.keys(answered), ...Object.keys(others), ...WITHOUT_ENGINE];
  expect(new Set(paths)).toStrictEqual(new Set(asked));
});

const ANSWERS = { ...answered, ...others };

test.each(Object.entries(ANSWERS))(
  "an answer of %s between two faults shows whether the engine works",
  async (path, body) => {
    const { model } = body as { readonly model: string };
    const end = (error?: unknown): void => {
      const lease = models.lease(model, { request: {}, body: {} });
      lease.ended(error);
      lease.release();
    };
    const stateOf = (): unknown => models.states().find(({ name }) => name === model)?.state;
    end(new ReadMeError("ERR_RUNTIME", "A fault"));
    // Emitted once the outcome is known.
    const isOver = new Promise((resolve) => models.events.once("request:answered", resolve));
    const response = await fetch(`${server.url}${path}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    const text = await response.text();
    expect([response.status, text.length > 0]).toStrictEqual([200, true]);
    await isOver;
    end(new ReadMeError("ERR_RUNTIME", "Another fault"));
    expect(stateOf()).toBe(path in answered ? "ready" : "failing");
    end();
    expect(stateOf()).toBe("ready");
  },
);

test("an answer without work of the engine shows nothing", async () => {
  const lease = models.lease("chat", { request: {}, body: {} });
  lease.ended(new ReadMeError("ERR_RUNTIME", "A fault"));
  lease.release();
  const isOver = new Promise((resolve) => models.events.once("request:answered", resolve));
  // Ollama's way to load a model.
  const response = await fetch(`${server.url}/api/generate`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "chat" }),
  });
  expect([response.status, await response.json()]).toMatchObject([200, { done: true }]);
  await isOver;
  const second = models.lease("chat", { request: {}, body: {} });
  second.ended(new ReadMeError("ERR_RUNTIME", "Another fault"));
  second.release();
  expect(models.states()).toContainEqual({ name: "chat", state: "failing", code: "ERR_RUNTIME" });
});
