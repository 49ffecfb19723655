// Tests on every route what its entry says: its documented answer, the shape of its errors, and whether its answer counts
// as a sign of the engine's health. A new route fails until it is asked here.

import { readFile } from "node:fs/promises";
import { ReadMeError } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { ApiError, openApiDocument, readMe, type RequestContext, ServedModels } from "@readme-moe/express";
import express from "express";
import { afterAll, beforeAll, expect, test } from "vitest";
import { isMedia, type RouteDescription, schemaOf } from "../../packages/express/src/http/routes.ts";
import { API_ROUTES, OPERATIONS_ROUTES } from "../../packages/express/src/routes.ts";
import { writeHead } from "../support/encoder-models.ts";
import { withFillInMarks } from "../support/fill-in-model.ts";
import { EMBEDDING_MODEL, openPooling, writeReranker } from "../support/pooling-models.ts";
import { listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
let engines: Readonly<Record<"chat" | "embedder" | "ranker" | "classifier", ReadMeEngine>>;
let models: ServedModels;
let server: RunningServer;

beforeAll(async () => {
  const [chat, embedder, ranker, classifier] = await Promise.all([
    openTinyEngine(folder, {}, await withFillInMarks()),
    openPooling(EMBEDDING_MODEL),
    openPooling(await writeReranker()),
    openPooling(await writeHead("bert", "classify")),
  ]);
  engines = { chat, embedder, ranker, classifier };
  models = new ServedModels(engines, { maxFailures: 2 });
  const options = {
    models,
    ollama: true,
    batches: { folder: await persistentFolder() },
    experts: { folder: await persistentFolder(), operatorKeys: ["boss"] },
  };
  server = await listen(express().use(readMe(options)));
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  for (const engine of Object.values(engines)) await engine.dispose();
});

const messages = [{ role: "user", content: "a" }];
const chat = { model: "chat", messages };
const ranking = { model: "ranker", query: "a", documents: ["a", "b"] };
const scoring = { model: "ranker", text_1: "a", text_2: ["a", "b"] };
const ollama = { model: "chat", stream: false, options: { num_predict: 2 } };

/** A body of each route that has one. */
const BODIES: Readonly<Record<string, object>> = {
  "/v1/chat/completions": { ...chat, max_tokens: 2 },
  "/v1/completions": { model: "chat", prompt: "a", max_tokens: 2 },
  "/v1/fim/completions": { model: "chat", prompt: "a", suffix: "b", max_tokens: 2 },
  "/infill": { model: "chat", input_prefix: "a", input_suffix: "b", n_predict: 2 },
  "/v1/responses": { model: "chat", input: "a", max_output_tokens: 16 },
  "/v1/messages": { ...chat, max_tokens: 2 },
  "/v1/embeddings": { model: "embedder", input: "a" },
  "/v1/rerank": ranking,
  "/v2/rerank": ranking,
  "/rerank": ranking,
  "/v1/score": scoring,
  "/score": scoring,
  "/embed": { model: "embedder", inputs: "a" },
  "/classify": { model: "classifier", input: "a" },
  "/predict": { model: "classifier", inputs: "a" },
  "/api/chat": { ...ollama, messages },
  "/api/generate": { ...ollama, prompt: "a" },
  "/api/embed": { model: "embedder", input: "a" },
  "/api/embeddings": { model: "embedder", prompt: "a" },
  "/v1/messages/count_tokens": chat,
  "/api/show": { model: "chat" },
  "/tokenize": { model: "chat", prompt: "a" },
  "/detokenize": { model: "chat", tokens: [1] },
  "/v1/batches": { input_file_id: "none", endpoint: "/v1/completions", completion_window: "24h" },
  "/v1/load_lora_adapter": { lora_name: "a", lora_path: "a" },
  "/v1/unload_lora_adapter": { lora_name: "a" },
};

/** Each route under each of its paths. */
const ROUTES = API_ROUTES.flatMap((route) =>
  [route.path, ...(route.aliases ?? [])].map((path) => ({ ...route, path, endpoint: route.path })),
);
const taking = ROUTES.filter(({ body }) => schemaOf(body));
const answering = taking.filter(({ cost }) => cost !== "none");

test("every route that takes a body is asked", () => {
  expect(Object.keys(BODIES).toSorted()).toStrictEqual(taking.map(({ path }) => path).toSorted());
});

test("every route has its place in the OpenAPI document and in the page about HTTP", async () => {
  const { paths, components } = openApiDocument({ hasBatches: true, hasOperators: true, hasOllama: true });
  const page = await readFile(new URL("../../docs/reference/express.md", import.meta.url), "utf8");
  const places = new Set<string>();
  for (const { method, path, body, answer, chunk } of [...ROUTES, ...OPERATIONS_ROUTES]) {
    const place = path.replace(/[:*](\w+)/, "{$1}");
    places.add(`${method} ${place}`);
    expect(paths[place]).toMatchObject({
      [method]: { responses: { "200": {} }, ...(body && { requestBody: { required: true } }) },
    });
    expect(page).toContain(`\`${method.toUpperCase()} ${path}\``);
    for (const named of [body, answer, chunk]) {
      if (named && !isMedia(named)) expect(components.schemas).toHaveProperty(Object.keys(named));
    }
  }
  const methods = ["get", "post", "delete"];
  const documented = Object.entries(paths).flatMap(([path, item]) =>
    Object.keys(item)
      .filter((key) => methods.includes(key))
      .map((method) => `${method} ${path}`),
  );
  expect(new Set(documented)).toStrictEqual(places);
});

/** Schemas of a route with their names. */
const namedOf = ({ body, answer, chunk }: RouteDescription) =>
  [body, answer, chunk].flatMap((named) => (named && !isMedia(named) ? Object.entries(named) : []));

test("one name in the document stands for one schema", () => {
  const names = new Map<string, unknown>();
  for (const [name, schema] of [...API_ROUTES, ...OPERATIONS_ROUTES].flatMap(namedOf)) {
    expect(names.get(name) ?? schema, name).toBe(schema);
    names.set(name, schema);
  }
});

function ask(path: string, body: unknown, headers: Readonly<Record<string, string>> = {}): Promise<Response> {
  return fetch(`${server.url}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: "Bearer boss", ...headers },
    body: JSON.stringify(body),
  });
}

const ERRORS = {
  openai: { error: { type: "invalid_request_error", param: null, code: "invalid_value" } },
  messages: { type: "error", error: { type: "invalid_request_error" } },
  ollama: { error: expect.any(String) },
} as const;

test.each(taking)("$path refuses a list in the shape of its API", async ({ path, api = "openai" }) => {
  const response = await ask(path, []);
  expect([response.status, await response.json()]).toMatchObject([400, ERRORS[api]]);
});

test("`onRequest` sees the requests of the routes that an engine answers, under their paths, and no others", async () => {
  const seen: RequestContext["endpoint"][] = [];
  const onRequest = (_body: object, { endpoint }: RequestContext): never => {
    seen.push(endpoint);
    throw new ApiError({ status: 418, type: "test", message: "Seen" });
  };
  await using hooked = await listen(express().use(readMe({ models, ollama: true, onRequest })));
  const asked = answering.filter(({ path }) => path !== "/api/show");
  for (const { path, cost, endpoint } of asked) {
    const headers = { "content-type": "application/json" };
    const response = await fetch(`${hooked.url}${path}`, {
      method: "POST",
      headers,
      body: JSON.stringify(BODIES[path]),
    });
    await response.text();
    expect([path, response.status, seen.splice(0)]).toStrictEqual(
      cost === "engine" ? [path, 418, [endpoint]] : [path, 200, []],
    );
  }
});

test.each(ROUTES.filter(({ method, path }) => method === "get" && !path.includes(":")))(
  "$path is read as it is documented",
  async ({ path, answer }) => {
    const response = await fetch(`${server.url}${path.replace("*id", "chat")}`);
    const body: unknown = await response.json();
    expect(response.status).toBe(200);
    expect(schemaOf(answer)?.safeParse(body)).not.toMatchObject({ success: false });
  },
);

test.each(answering)(
  "an answer of $path is as documented, and between two faults shows whether the engine works",
  async ({ path, cost, answer }) => {
    const body = BODIES[path] as { readonly model: string };
    const end = (error?: unknown): void => {
      const lease = models.lease(body.model, { request: {}, body: {} });
      lease.ended(error);
      lease.release();
    };
    const stateOf = (): unknown => models.states().find(({ name }) => name === body.model)?.state;
    end(new ReadMeError("ERR_RUNTIME", "A fault"));
    // Emitted once the outcome is known.
    const isOver = new Promise((resolve) => models.events.once("request:answered", resolve));
    const response = await ask(path, body);
    expect(schemaOf(answer)?.parse(await response.json())).toBeDefined();
    expect(response.status).toBe(200);
    await isOver;
    end(new ReadMeError("ERR_RUNTIME", "Another fault"));
    expect(stateOf()).toBe(cost === "engine" ? "ready" : "failing");
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
