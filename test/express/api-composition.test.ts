// The middleware in an Express app: as one router, as two routers, and beside other routes.

import { Admission, readMe, ServedModels } from "@readme-moe/express";
import type { ReadMeEngine } from "@readme-moe/engine";
import express from "express";
import { afterAll, beforeAll, expect, test } from "vitest";
import { postJson } from "../support/post-json.ts";
import { ENDLESS, ENDLESS_TOKENS, listen, openTinyEngine } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
let engine: ReadMeEngine;

beforeAll(async () => {
  // One sequence at a time makes a second request wait.
  engine = await openTinyEngine(folder, { maxNumSeqs: 1 }, ENDLESS);
});
afterAll(() => engine.dispose());

const request = { prompt: "The ship", max_tokens: 3, ignore_eos: true };

test("`readMe` serves all routes at the root and below a path", async () => {
  const app = express();
  app.use(readMe({ engine }));
  app.use("/llm", readMe({ models: { other: engine } }));
  await using server = await listen(app);
  for (const [base, name] of [
    ["", "tiny"],
    ["/llm", "other"],
  ] as const) {
    const { status, body } = await postJson(`${server.url}${base}/v1/completions`, request);
    expect([status, body]).toMatchObject([200, { model: name, usage: { completion_tokens: 3 } }]);
    expect((await fetch(`${server.url}${base}/health`)).status).toBe(200);
    const metrics = await (await fetch(`${server.url}${base}/metrics`)).text();
    expect(metrics).toMatch(/generation_tokens_total.* [1-9]/);
  }
});

test("API and operations can be mounted separately over the same models", async () => {
  const models = new ServedModels({ tiny: engine });
  const admission = new Admission({ maxRequests: 7 });
  const [front, back] = [express(), express()];
  front.use(readMe.api({ models, admission }));
  back.use(readMe.operations({ models, admission, version: "1.2.3" }));
  await using outside = await listen(front);
  await using inside = await listen(back);
  expect((await postJson(`${outside.url}/v1/completions`, request)).status).toBe(200);
  expect((await fetch(`${outside.url}/metrics`)).status).toBe(404);
  expect(await (await fetch(`${inside.url}/health`)).json()).toMatchObject({ status: "ok", capacity: 7, active: 0 });
  expect(await (await fetch(`${inside.url}/version`)).json()).toEqual({ version: "1.2.3" });
});

test("routes and body parsers of the app work beside the middleware", async () => {
  const app = express();
  app.use(express.json());
  app.post("/mine", (asked, response) => void response.json({ got: asked.body as unknown }));
  app.use(readMe({ engine }));
  app.get("/after", (_, response) => void response.send("still here"));
  await using server = await listen(app);
  expect((await postJson(`${server.url}/mine`, { a: 1 })).body).toEqual({ got: { a: 1 } });
  expect(await (await fetch(`${server.url}/after`)).text()).toBe("still here");
  expect((await postJson(`${server.url}/v1/completions`, request)).status).toBe(200);
});

test("requests beyond the limits are refused early, and places become free again", async () => {
  const app = express();
  app.use(readMe({ engine, admission: { maxRequests: 1 } }));
  await using server = await listen(app);
  const stop = await occupy(server.url);
  const before = (await engine.stats()).promptTokens;
  const second = await postJson(`${server.url}/v1/completions`, { ...request, stream: true });
  expect([second.status, second.body]).toMatchObject([503, { error: { code: "server_overloaded" } }]);
  expect(second.headers.get("retry-after")).toMatch(/^[1-9]\d*$/);
  expect((await engine.stats()).promptTokens).toBe(before);
  await stop();
  for (let turn = 0; turn < 5; turn++) {
    expect((await postJson(`${server.url}/v1/completions`, request)).status).toBe(200);
  }
  const wrong = { ...request, prompt: [4095, 9999] };
  for (let turn = 0; turn < 5; turn++) {
    expect((await postJson(`${server.url}/v1/completions`, wrong)).status).toBe(400);
  }
  expect(await (await fetch(`${server.url}/health`)).json()).toMatchObject({ active: 0, queued: 0 });
});

test("a request that waits too long is refused, and the engine drops it", async () => {
  const app = express();
  app.use(readMe({ engine, admission: { maxQueueMs: 50 } }));
  await using server = await listen(app);
  const patient = express();
  patient.use(readMe({ engine }));
  await using other = await listen(patient);
  const stop = await occupy(other.url);
  const late = await postJson(`${server.url}/v1/completions`, request);
  expect([late.status, late.body]).toMatchObject([408, { error: { type: "timeout_error", code: "queue_timeout" } }]);
  await expect.poll(() => engine.stats()).toMatchObject({ numWaiting: 0, numRunning: 1 });
  await stop();
});

test("tokens of a key count towards its rate limit", async () => {
  const app = express();
  app.use(readMe({ engine, keys: { ann: "secret" }, tokensPerMinute: 5 }));
  await using server = await listen(app);
  const ask = (): ReturnType<typeof postJson> =>
    postJson(`${server.url}/v1/completions`, { ...request, max_tokens: 20 }, { authorization: "Bearer secret" });
  expect((await ask()).status).toBe(200);
  const second = await ask();
  expect([second.status, second.body]).toMatchObject([429, { error: { code: "rate_limit_exceeded" } }]);
});

async function health(url: string): Promise<unknown> {
  return (await fetch(`${url}/health`)).json();
}

/** Occupies the engine with one long answer. @returns a function that ends it and resolves when its place is free */
async function occupy(url: string): Promise<() => Promise<void>> {
  const controller = new AbortController();
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...request, max_tokens: ENDLESS_TOKENS, stream: true }),
    signal: controller.signal,
  });
  expect(response.status).toBe(200);
  return async () => {
    controller.abort();
    await expect.poll(() => health(url)).toMatchObject({ active: 0, queued: 0 });
  };
}

test("an engine is replaced under load without failed requests", async () => {
  const first = await openTinyEngine(`${folder}/first`);
  const second = await openTinyEngine(`${folder}/second`, {}, { seed: 2 });
  const models = new ServedModels({ tiny: first });
  const app = express();
  app.use(readMe({ models }));
  await using server = await listen(app);
  const ask = (tokens: number): ReturnType<typeof postJson> =>
    postJson(`${server.url}/v1/completions`, { ...request, max_tokens: tokens, temperature: 0 });
  const old = (await ask(3)).body["choices"];
  const started = new Promise((resolve) => first.events.once("token:generated", resolve));
  const under = ask(100);
  await started;
  const swapped = models.set("tiny", second);
  const next = await ask(3);
  expect([next.status, (await under).status]).toEqual([200, 200]);
  expect(next.body["choices"]).not.toEqual(old);
  await swapped;
  await models.drain();
  expect((await ask(3)).body).toMatchObject({ error: { code: "shutting_down" } });
});
