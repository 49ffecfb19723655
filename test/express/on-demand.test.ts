// Models that are opened when they are asked for, over HTTP: two real engines in the memory of one. Clients wait, none is
// lost, and answers are those of each model alone.

import { join } from "node:path";
import { type Engine, ReadMeError } from "@readme-moe/core";
import { ReadMeEngine } from "@readme-moe/engine";
import {
  Admission,
  type EnginesByName,
  type ModelOpening,
  type OnDemandModel,
  readMe,
  type ReadMeOptions,
  ServedModels,
  type ServedModelsOptions,
} from "@readme-moe/express";
import express from "express";
import { Ollama } from "ollama";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { complete } from "../support/complete.ts";
import { Deferred } from "../support/deferred.ts";
import { postJson } from "../support/post-json.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { ENDLESS, ENDLESS_TOKENS, listen, openTinyEngine } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const OPTIONS = { precision: "fp32", isolation: "thread", threads: 1 } as const;
const REQUEST = { prompt: "one two", max_tokens: 5, ignore_eos: true, temperature: 0 };
const PARAMS = { maxTokens: 5, ignoreEos: true, temperature: 0 };

const paths: Record<string, string> = {};
const rightTexts: Record<string, string> = {};
/** Engines of the whole file, which are told apart from those on demand. */
const standing: Record<string, ReadMeEngine> = {};
beforeAll(async () => {
  const folder = await persistentFolder();
  for (const [seed, name] of ["a", "b"].entries()) {
    const engine = await openTinyEngine(join(folder, name), {}, { ...ENDLESS, seed: seed + 1 });
    standing[name] = engine;
    paths[name] = join(folder, name, "tiny");
    rightTexts[name] = (await complete(engine, { prompt: "one two", params: PARAMS })).text;
  }
  expect(rightTexts["a"]).not.toBe(rightTexts["b"]);
});
afterAll(() => Promise.all(Object.values(standing).map((engine) => engine.dispose())));

/** Engines that are opened on demand, and how they were opened and closed. */
class Openings {
  readonly engines = new Set<Engine>();
  readonly log: string[] = [];
  mostOpen = 0;
  #numOpen = 0;

  model(name: string, { before, ...more }: Partial<OnDemandModel> & { readonly before?: Before } = {}): OnDemandModel {
    const open = async (opening: ModelOpening): Promise<Engine> => {
      this.mostOpen = Math.max(this.mostOpen, ++this.#numOpen);
      try {
        await before?.(opening);
        const engine = await ReadMeEngine.open(paths[name] ?? "", { ...OPTIONS, ...opening });
        this.#watch(name, engine);
        return engine;
      } catch (error) {
        this.#numOpen--;
        throw error;
      }
    };
    return { open, bytes: 10, ...more };
  }

  #watch(name: string, engine: ReadMeEngine): void {
    this.log.push(`open ${name}`);
    this.engines.add(engine);
    const dispose = engine.dispose.bind(engine);
    engine.dispose = async () => {
      await dispose();
      if (!this.engines.delete(engine)) return;
      this.#numOpen--;
      this.log.push(`close ${name}`);
    };
  }
}

type Before = (opening: ModelOpening) => Promise<unknown>;

interface Serving {
  readonly url: string;
  readonly models: ServedModels;
  readonly complete: (model: string, more?: object) => ReturnType<typeof postJson>;
}

async function serve(
  sources: EnginesByName,
  options: ServedModelsOptions = {},
  more: Omit<ReadMeOptions, "models" | "engine"> = {},
): Promise<Serving> {
  const models = new ServedModels(sources, options);
  const server = await listen(express().use(readMe({ models, ollama: true, ...more })));
  onTestFinished(async () => {
    await models.drain({ deadlineMs: 0 });
    await server[Symbol.asyncDispose]();
  });
  const { url } = server;
  return { url, models, complete: (model, own) => postJson(`${url}/v1/completions`, { model, ...REQUEST, ...own }) };
}

const textOf = ({ body }: { readonly body: Readonly<Record<string, unknown>> }): string =>
  (body["choices"] as readonly { readonly text: string }[])[0]?.text ?? "";

async function getJson(url: string): Promise<{ readonly status: number; readonly body: Record<string, unknown> }> {
  const response = await fetch(url);
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

/** A stream that goes on until it is left. */
async function openStream(url: string, model: string): Promise<AbortController> {
  const leave = new AbortController();
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model, ...REQUEST, max_tokens: ENDLESS_TOKENS, stream: true }),
    signal: leave.signal,
  });
  await response.body?.getReader().read();
  return leave;
}

describe("two models in the memory of one", () => {
  test("are opened in turns while clients of both ask, who all get the answer of their model", async () => {
    const openings = new Openings();
    const { complete: ask } = await serve(
      { a: openings.model("a"), b: openings.model("b") },
      { memoryBytes: 15, aliases: { other: "b" } },
    );
    expect(openings.log).toEqual([]);
    const names = ["a", "b", "a", "other", "b", "a", "b", "b", "a", "a", "other", "b"];
    const answers = await Promise.all(names.map((name) => ask(name)));
    expect(answers.map(({ status }) => status)).toEqual(names.map(() => 200));
    expect(answers.map(textOf)).toEqual(names.map((name) => rightTexts[name === "a" ? "a" : "b"]));
    expect(openings.mostOpen).toBe(1);
    // One after the other, and back again.
    for (const name of ["a", "b", "a"]) expect(textOf(await ask(name))).toBe(rightTexts[name]);
    expect(openings.mostOpen).toBe(1);
    expect(openings.log.slice(0, 3)).toEqual(["open a", "close a", "open b"]);
    expect(openings.log.slice(-3)).toEqual(["open b", "close b", "open a"]);
  });

  test("a model that answers is not closed: the other's clients wait for the end of its answers", async () => {
    const openings = new Openings();
    const {
      url,
      complete: ask,
      models,
    } = await serve({ a: openings.model("a"), b: openings.model("b") }, { memoryBytes: 10 });
    const leave = await openStream(url, "a");
    let isAnswered = false;
    const waiting = ask("b").then((answer) => ((isAnswered = true), answer));
    // Others of the running model go on meanwhile.
    for (let round = 0; round < 5; round++) expect((await ask("a")).status).toBe(200);
    expect([isAnswered, openings.log, models.states().map(({ state }) => state)]).toEqual([
      false,
      ["open a"],
      ["ready", "closed"],
    ]);
    leave.abort();
    expect(textOf(await waiting)).toBe(rightTexts["b"]);
    expect(openings.log).toEqual(["open a", "close a", "open b"]);
  });

  test("both stay open where there is memory for both", async () => {
    const openings = new Openings();
    const { complete: ask } = await serve({ a: openings.model("a"), b: openings.model("b") }, { memoryBytes: 20 });
    for (const name of ["a", "b", "a", "b"]) expect(textOf(await ask(name))).toBe(rightTexts[name]);
    expect(openings.log).toEqual(["open a", "open b"]);
  });

  test("a client that leaves while it waits opens nothing, and others are served", async () => {
    const openings = new Openings();
    const { url, complete: ask } = await serve({ a: openings.model("a"), b: openings.model("b") }, { memoryBytes: 10 });
    const leave = await openStream(url, "a");
    const gone = new AbortController();
    const body = JSON.stringify({ model: "b", ...REQUEST });
    const headers = { "content-type": "application/json" };
    const left = fetch(`${url}/v1/completions`, { method: "POST", headers, body, signal: gone.signal });
    const admitted = ask("a");
    gone.abort();
    await expect(left).rejects.toThrow();
    expect((await admitted).status).toBe(200);
    leave.abort();
    expect((await ask("a")).status).toBe(200);
    expect(openings.log).toEqual(["open a"]);
  });

  test("no more requests wait than are admitted, and a server that stops refuses them", async () => {
    const openings = new Openings();
    const admission = new Admission({ maxRequests: 4 });
    const never = openings.model("a", { before: ({ signal }) => rejected(signal) });
    const { complete: ask, models } = await serve({ a: never }, {}, { admission });
    const asked = Array.from({ length: 8 }, () => ask("a"));
    const refused = await Promise.race(asked);
    // One client alone is refused by its share.
    expect([refused.status, refused.body]).toMatchObject([429, { error: { code: "rate_limit_exceeded" } }]);
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
    await expect.poll(() => models.states()[0]?.state).toBe("opening");
    expect(admission.stats.arriving.requests).toBeGreaterThan(0);
    expect(admission.stats.arriving.requests).toBeLessThanOrEqual(4);
    await models.drain({ deadlineMs: 0 });
    const codes = (await Promise.all(asked)).map(({ body }) => (body["error"] as { code: string }).code);
    expect(new Set(codes)).toEqual(new Set(["rate_limit_exceeded", "shutting_down"]));
    expect(openings.engines.size).toBe(0);
  });
});

function rejected(signal: AbortSignal): Promise<never> {
  // oxlint-disable-next-line prefer-promise-reject-errors -- a signal's reason can be anything
  return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true }));
}

describe("what a server tells", () => {
  test("all names, whether open or not, with what is known of them", async () => {
    const openings = new Openings();
    const info = {
      task: "generate",
      contextTokens: 77,
      hasChatTemplate: true,
      modelType: "tiny",
    } as const;
    const { url, complete: ask } = await serve({ a: openings.model("a", { info }), b: openings.model("b") });
    const listed = (await getJson(`${url}/v1/models`)).body["data"] as readonly Record<string, unknown>[];
    expect(listed.map(({ id, max_model_len: length }) => [id, length])).toEqual([
      ["a", 77],
      ["b", undefined],
    ]);
    const shown = await postJson(`${url}/api/show`, { model: "a" });
    expect(shown.body).toMatchObject({
      capabilities: ["completion", "tools"],
      model_info: { "tiny.context_length": 77 },
    });
    expect(openings.log).toEqual([]);
    await ask("b");
    const again = (await getJson(`${url}/v1/models`)).body["data"] as readonly Record<string, unknown>[];
    expect(again[1]?.["max_model_len"]).toBe(standing["b"]?.info.contextTokens);
  });

  test("is healthy and ready while models are closed or opened for requests, with their progress", async () => {
    const openings = new Openings();
    const [begun, goOn] = [new Deferred(), new Deferred()];
    const before: Before = async ({ onProgress }) => {
      onProgress({ stage: "building", doneBytes: 40, ofBytes: 100 });
      begun.resolve();
      await goOn.promise;
    };
    const { url, complete: ask } = await serve({ a: openings.model("a", { before }) });
    expect((await getJson(`${url}/health`)).status).toBe(200);
    expect((await getJson(`${url}/readyz`)).body["models"]).toEqual([{ name: "a", state: "closed" }]);
    const answer = ask("a");
    await begun.promise;
    expect((await getJson(`${url}/health`)).status).toBe(200);
    expect((await getJson(`${url}/readyz`)).body["models"]).toEqual([
      { name: "a", state: "opening", progress: { stage: "building", done_bytes: 40, of_bytes: 100 } },
    ]);
    goOn.resolve();
    expect((await answer).status).toBe(200);
    expect((await getJson(`${url}/readyz`)).body["models"]).toEqual([{ name: "a", state: "ready" }]);
  });

  test("why a model could not be opened, without its path, and tries no more at once", async () => {
    const openings = new Openings();
    const bad = openings.model("a", {
      before: () => Promise.reject(new ReadMeError("ERR_FILE_NOT_FOUND", "/secret/place: has no config.json")),
    });
    const { url, complete: ask, models } = await serve({ a: bad, b: openings.model("b") });
    const failures: unknown[] = [];
    models.events.on("model:open-failed", ({ name, causes }) => failures.push([name, causes[0]?.code]));
    const [first, second] = await Promise.all([ask("a"), ask("a")]);
    for (const { status, body, headers } of [first, second, await ask("a")]) {
      expect([status, body]).toEqual([
        503,
        {
          error: {
            message: "The model `a` could not be opened: has no config.json.",
            type: "server_error",
            param: null,
            code: "model_failed",
          },
        },
      ]);
      expect(Number(headers.get("retry-after"))).toBeGreaterThan(0);
    }
    expect(failures).toEqual([["a", "ERR_FILE_NOT_FOUND"]]);
    expect((await ask("b")).status).toBe(200);
    const health = await getJson(`${url}/health`);
    expect([health.status, JSON.stringify(health.body)]).toEqual([503, expect.stringContaining("ERR_FILE_NOT_FOUND")]);
    expect(JSON.stringify(health.body)).not.toContain("secret");
    expect((await getJson(`${url}/livez`)).status).toBe(200);
  });

  test("an engine that fails is closed, and its memory is free for others", async () => {
    const openings = new Openings();
    const { complete: ask, models } = await serve(
      { a: openings.model("a"), b: openings.model("b") },
      { memoryBytes: 10 },
    );
    await ask("a");
    const [engine] = openings.engines as Set<ReadMeEngine>;
    const isClosed = new Promise((resolve) => models.events.on("model:closed", resolve));
    engine?.kill();
    expect(await isClosed).toEqual({ name: "a" });
    expect(textOf(await ask("b"))).toBe(rightTexts["b"]);
    expect((await ask("a")).body).toMatchObject({ error: { code: "model_failed" } });
  });
});

const open = async (): Promise<Engine> => standing["a"] as Engine;

describe("sources", () => {
  test("wrong ones, and those that no memory holds, are refused at once", () => {
    for (const [source, named] of [
      [{ open, bytes: -1 }, "bytes"],
      [{ open: 1, bytes: 1 }, "open"],
      [{ open, bytes: 1, byte: 1 }, "byte"],
      [{ open, bytes: 11 }, "memoryBytes"],
    ] as const) {
      expect(() => new ServedModels({ a: source as never }, { memoryBytes: 10 })).toThrow(named);
    }
    expect(() => new ServedModels({ a: { open, bytes: 1 } }, { keepAliveMs: -1 })).toThrow("keepAliveMs");
  });

  test("a function is called at once, tells its progress, and may give a model to open on demand", async () => {
    const openings = new Openings();
    const found = new Deferred<OnDemandModel>();
    const source = ({ onProgress }: ModelOpening): Promise<OnDemandModel> => {
      onProgress({ stage: "downloading", doneBytes: 1, ofBytes: 4 });
      return found.promise;
    };
    const { url, complete: ask } = await serve({ a: source });
    const early = await ask("a");
    expect([early.status, early.body]).toMatchObject([
      503,
      { error: { code: "model_loading", message: "The model `a` is loading: downloading, 25 %; try again later." } },
    ]);
    const { status, body } = await getJson(`${url}/health`);
    expect([status, body]).toEqual([
      503,
      {
        error: { code: 503, message: "Loading model", type: "unavailable_error" },
        loading: [{ name: "a", text: "downloading, 25 %", stage: "downloading", done_bytes: 1, of_bytes: 4 }],
      },
    ]);
    found.resolve(openings.model("a"));
    await expect.poll(async () => (await getJson(`${url}/health`)).status).toBe(200);
    expect(openings.log).toEqual([]);
    expect(textOf(await ask("a"))).toBe(rightTexts["a"]);
  });

  test("a model that opens at once waits for no request", async () => {
    const openings = new Openings();
    const { models } = await serve({ a: openings.model("a", { opensAtOnce: true }) });
    await expect.poll(() => models.states()).toEqual([{ name: "a", state: "ready" }]);
    // Without the middleware a lease is given or refused at once.
    models.lease("a", { request: {}, body: {} }).release();
  });

  test("an engine that is set takes over from one that is opened on demand, also for those who wait", async () => {
    const openings = new Openings();
    const never = openings.model("a", { before: ({ signal }) => rejected(signal) });
    const { complete: ask, models } = await serve({ a: never });
    const waiting = ask("a");
    await expect.poll(() => models.states()[0]?.state).toBe("opening");
    await models.set("a", standing["b"] as Engine, { dispose: false });
    expect(textOf(await waiting)).toBe(rightTexts["b"]);
    const other = await ReadMeEngine.open(paths["a"] ?? "", OPTIONS);
    void models.set("a", other, { dispose: false });
    expect(textOf(await ask("a"))).toBe(rightTexts["a"]);
  });
});

describe("`keep_alive` of Ollama's API", () => {
  const idle = { temperature: 0, num_predict: 3 };

  test("says how long a model stays open, and lists tell until when", async () => {
    const openings = new Openings();
    const { url, models } = await serve({ a: openings.model("a"), b: openings.model("b") }, { keepAliveMs: 60_000 });
    const ollama = new Ollama({ host: url });
    const leftOf = async (): Promise<readonly (readonly [string, number])[]> =>
      (await ollama.ps()).models.map(
        ({ name, expires_at: at }) => [name, Date.parse(String(at)) - Date.now()] as const,
      );
    expect(await leftOf()).toEqual([]);
    expect((await ollama.list()).models.map(({ name }) => name)).toEqual(["a:latest", "b:latest"]);
    // Opens it, as clients do before a chat.
    expect(await ollama.generate({ model: "a", prompt: "" })).toMatchObject({ done: true, done_reason: "load" });
    expect(openings.log).toEqual(["open a"]);
    const [[name, leftMs] = ["", 0]] = await leftOf();
    expect(name).toBe("a:latest");
    expect(leftMs).toBeLessThanOrEqual(60_000);
    expect(leftMs).toBeGreaterThan(0);
    await ollama.generate({ model: "a", prompt: "one", raw: true, options: idle, keep_alive: "1h30m" });
    const [[, longMs] = ["", 0]] = await leftOf();
    expect(longMs).toBeGreaterThan(60_000);
    expect(longMs).toBeLessThanOrEqual(90 * 60_000);
    await ollama.generate({ model: "a", prompt: "one", raw: true, options: idle, keep_alive: -1 });
    expect((await ollama.ps()).models[0]?.expires_at).toBe("2318-01-01T00:00:00Z");
    // Unloads after the answer.
    const closed = new Promise((resolve) => models.events.on("model:closed", resolve));
    const last = await ollama.generate({ model: "a", prompt: "one", raw: true, options: idle, keep_alive: 0 });
    expect(last.done_reason).toBe("length");
    expect(await closed).toEqual({ name: "a" });
    expect(await leftOf()).toEqual([]);
    expect(await ollama.generate({ model: "b", prompt: "", keep_alive: 0 })).toMatchObject({ done_reason: "unload" });
    expect(openings.log).toEqual(["open a", "close a"]);
  });

  test("is refused where it is no duration, and unloads nothing that is open from the start", async () => {
    const { url } = await serve({ a: standing["a"] as Engine });
    const wrong = await postJson(`${url}/api/generate`, { model: "a", prompt: "one", keep_alive: "soon" });
    expect([wrong.status, JSON.stringify(wrong.body)]).toEqual([400, expect.stringContaining("keep_alive")]);
    const kept = await postJson(`${url}/api/generate`, { model: "a", prompt: "", keep_alive: 0 });
    expect(kept.body).toMatchObject({ done_reason: "load" });
    await standing["a"]?.stats();
  });
});

test("an engine that is closed on demand gives its calls the error of one that was disposed", async () => {
  const openings = new Openings();
  const { complete: ask, models } = await serve({ a: openings.model("a") }, { keepAliveMs: 0 });
  const closed = new Promise((resolve) => models.events.on("model:closed", resolve));
  const found = new Promise<Engine>((resolve) => models.watch((_, engine) => resolve(engine)));
  expect((await ask("a")).status).toBe(200);
  await closed;
  await expectReadMeError((await found).stats(), "ERR_DISPOSED");
});
