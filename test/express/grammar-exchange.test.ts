// Grammars of an engine that is replaced by another one, over real HTTP.

import { join } from "node:path";
import type { ReadMeEngine } from "@readme-moe/engine";
import { readMe, ServedModels } from "@readme-moe/express";
import { Grammars } from "@readme-moe/grammar";
import express from "express";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { chunksOf } from "../support/sse.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

let engines: readonly [ReadMeEngine, ReadMeEngine];
let models: ServedModels;
let server: RunningServer;
/** Real grammars, in the order in which they were opened. */
let opened: Grammars[];

beforeAll(async () => {
  const folder = await persistentFolder();
  const tiny = { config: { max_position_embeddings: 2048 } };
  engines = [await openTinyEngine(join(folder, "a"), {}, tiny), await openTinyEngine(join(folder, "b"), {}, tiny)];
});
afterAll(() => Promise.all(engines.map((engine) => engine.dispose())));

beforeEach(async () => {
  opened = [];
  const open = Grammars.open.bind(Grammars);
  vi.spyOn(Grammars, "open").mockImplementation(async (...args) => {
    const grammars = await open(...args);
    opened.push(grammars);
    return grammars;
  });
  models = new ServedModels({ tiny: engines[0] });
  server = await listen(express().use(readMe.api({ models })));
});
afterEach(async () => {
  vi.restoreAllMocks();
  await server[Symbol.asyncDispose]();
  for (const grammars of opened) await grammars.dispose();
});

const NUM_COINS = 30;
const schema = { type: "array", items: { type: "boolean" }, minItems: NUM_COINS, maxItems: NUM_COINS };
const bound = {
  messages: [{ role: "user", content: "Heads or tails?" }],
  response_format: { type: "json_schema", json_schema: { name: "coins", schema } },
  max_tokens: 1000,
  temperature: 1,
  seed: 1,
};

function ask(more: object = {}, signal?: AbortSignal): Promise<Response> {
  const [method, headers] = ["POST", { "content-type": "application/json" }];
  const body = JSON.stringify({ ...bound, ...more });
  return fetch(`${server.url}/v1/chat/completions`, { method, headers, body, ...(signal ? { signal } : {}) });
}

const unbound = { response_format: { type: "text" }, max_tokens: 1 };

/** Returns the value of a whole answer or of a stream. */
async function coinsOf(response: Response): Promise<unknown> {
  const text = await response.text();
  expect(response.status, text).toBe(200);
  if (response.headers.get("content-type")?.startsWith("text/event-stream")) {
    return JSON.parse(
      chunksOf(text)
        .map(({ choices }) => choices[0]?.delta?.content ?? "")
        .join(""),
    );
  }
  const { choices } = JSON.parse(text) as { readonly choices: readonly { readonly message: { content: string } }[] };
  return JSON.parse(choices[0]?.message.content ?? "");
}

async function isEnded(grammars: Grammars | undefined): Promise<boolean> {
  if (!grammars) throw new Error("Expected grammars that were opened");
  return grammars.jsonObject().then(
    () => false,
    (error: { readonly code?: string }) => error.code === "ERR_DISPOSED",
  );
}

async function expectEnded(grammars: Grammars | undefined): Promise<void> {
  await expect.poll(() => isEnded(grammars)).toBe(true);
}

/** Asks for an answer, and replaces the engine as soon as the answer has begun. */
async function answerUnder(more: object = {}, signal?: AbortSignal): Promise<{ readonly answer: Promise<Response> }> {
  const [before, after] = engines;
  const begun = new Promise((resolve) => before.events.once("token:generated", resolve));
  const answer = ask(more, signal);
  await begun;
  void models.set("tiny", after, { dispose: false });
  return { answer };
}

test.each([{}, { stream: true }])(
  "an answer with %j stays constrained to its end, and then its engine's grammars are disposed",
  async (more) => {
    const { answer } = await answerUnder(more);
    // The end of this request must not dispose the grammars of the answer under way.
    expect((await ask(unbound)).status).toBe(200);
    expect(await coinsOf(await answer)).toHaveLength(NUM_COINS);
    await expectEnded(opened[0]);
    expect(await coinsOf(await ask(more))).toHaveLength(NUM_COINS);
    expect(opened).toHaveLength(2);
    expect(await isEnded(opened[1])).toBe(false);
  },
);

test("grammars are disposed when the client of their last answer leaves", async () => {
  const client = new AbortController();
  const { answer } = await answerUnder({ stream: true }, client.signal);
  client.abort();
  await expect(answer.then((response) => response.text())).rejects.toThrow("abort");
  await expectEnded(opened[0]);
});

test("refused requests release their grammars", async () => {
  const wrong = { type: "array", uniqueItems: true };
  const refused = [
    { min_tokens: 2 },
    { response_format: { type: "json_schema", json_schema: { name: "coins", schema: wrong } } },
    { chat_template_kwargs: { tools: -5 } },
  ];
  for (const more of refused) expect((await ask(more)).status, JSON.stringify(more)).toBe(400);
  const { answer } = await answerUnder();
  expect((await answer).status).toBe(200);
  await expectEnded(opened[0]);
});

test("unused grammars of a replaced engine are disposed by the next request, constrained or not", async () => {
  expect((await ask()).status).toBe(200);
  const [, after] = engines;
  await models.set("tiny", after, { dispose: false });
  expect((await ask(unbound)).status).toBe(200);
  await expectEnded(opened[0]);
  expect(opened).toHaveLength(1);
});

test("grammars of an engine that is still served under another name are kept", async () => {
  const [before, after] = engines;
  await models.set("other", before);
  expect((await ask({ model: "tiny" })).status).toBe(200);
  await models.set("tiny", after, { dispose: false });
  expect((await ask({ model: "tiny" })).status).toBe(200);
  expect(await isEnded(opened[0])).toBe(false);
  expect((await ask({ model: "other" })).status).toBe(200);
  expect(opened).toHaveLength(2);
  await models.set("other", after, { dispose: false });
  expect((await ask({ model: "other" })).status).toBe(200);
  await expectEnded(opened[0]);
});
