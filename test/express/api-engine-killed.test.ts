// An engine's process ends at any moment, and every client learns how its answer ended: a stream ends with a finish
// reason and `[DONE]`, or with an error.

import { once } from "node:events";
import { Agent, request, type IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import { join } from "node:path";
import { ReadMeError, type Engine } from "@readme-moe/core";
import type { EngineOptions, ReadMeEngine } from "@readme-moe/engine";
import { readMe, ServedModels } from "@readme-moe/express";
import express, { type RequestHandler } from "express";
import { beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { HANGING_TOKENS, writeHangingScheduler } from "../support/hanging-scheduler.ts";
import { manualTimers } from "../support/manual-timers.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { ENDLESS, ENDLESS_TOKENS, listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { parseEvents, type Chunk } from "../support/sse.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const KEEP_ALIVE_MS = 1234;
const SLOW_READER_MS = 4321;
const PATH = "/v1/completions";
const long = { prompt: "x", max_tokens: ENDLESS_TOKENS, ignore_eos: true, stream: true } as const;
const timers = manualTimers();
let folder: string;
let numOpened = 0;
beforeAll(async () => {
  folder = await persistentFolder();
});

async function open(more: EngineOptions = {}): Promise<ReadMeEngine> {
  const options = { isolation: "process", maxNumSeqs: 2, ...more } as const;
  const engine = await openTinyEngine(join(folder, `${++numOpened}`), options, ENDLESS);
  onTestFinished(() => engine.dispose());
  return engine;
}

async function serve(
  engine: Engine,
  before: RequestHandler = (_request, _response, next) => next(),
): Promise<{ readonly models: ServedModels; readonly server: RunningServer }> {
  const models = new ServedModels({ model: engine }, { restart: { firstDelayMs: 0, settledMs: 0 } });
  const api = readMe({
    models,
    keepAliveMs: KEEP_ALIVE_MS,
    slowReaderMs: SLOW_READER_MS,
    maxBufferedBytes: 1 << 28,
    timers,
  });
  const server = await listen(express().use(before, api));
  onTestFinished(() => server[Symbol.asyncDispose]());
  return { models, server };
}

/** Returns "done" or the error's code, and fails the test on any other answer. */
function endOf(status: number, body: string): string {
  if (status !== 200) return (JSON.parse(body) as { error: { code: string } }).error.code;
  const { data } = parseEvents(body);
  const reasons = data
    .filter((payload) => payload.startsWith('{"id"'))
    .flatMap((payload) => (JSON.parse(payload) as Chunk).choices.flatMap((choice) => choice.finish_reason ?? []));
  const last = data.at(-1) ?? "";
  if (last === "[DONE]") {
    expect(reasons).toEqual(["length"]);
    return "done";
  }
  expect(data).not.toContain("[DONE]");
  return (JSON.parse(last) as { error: { code: string } }).error.code;
}

/** Agent that reuses connections for later requests. */
function client(port: number): (body: object) => Promise<string> {
  const agent = new Agent({ keepAlive: true });
  onTestFinished(() => agent.destroy());
  return async (body) => {
    const text = JSON.stringify(body);
    const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(text) };
    const sent = request({ port, host: "127.0.0.1", path: PATH, method: "POST", agent, headers });
    sent.end(text);
    const [response] = (await once(sent, "response")) as [IncomingMessage];
    let received = "";
    for await (const piece of response.setEncoding("utf8")) received += piece as string;
    return endOf(response.statusCode ?? 0, received);
  };
}

/** Resolves after this many tokens. Several tokens arrive in one turn of the event loop. */
function tokens(engine: ReadMeEngine, count: number): Promise<void> {
  return new Promise((resolve) => {
    let left = count;
    const onToken = (): void => {
      if (--left > 0) return;
      engine.events.off("token:generated", onToken);
      resolve();
    };
    engine.events.on("token:generated", onToken);
    if (left === 0) onToken();
  });
}

function told(engine: ReadMeEngine, name: "sequence:queued" | "token:generated" | "engine:failed"): Promise<void> {
  return new Promise((resolve) => engine.events.once(name, () => resolve()));
}

describe("when an engine's process is killed", () => {
  test("every client learns how its answer ended, and its connection serves the next request", async () => {
    const engine = await open();
    const { models, server } = await serve(engine);
    const ask = client(server.port);
    const random = seededRandom(3);
    const ends = new Set<string>();
    for (const afterTokens of [0, 1 + randomInteger(random, 9), 60 + randomInteger(random, 40)]) {
      // Added before the requests, since a fast engine may answer all of them before one is seen in the queue.
      const isUnderWay = Promise.all([told(engine, "sequence:queued"), tokens(engine, afterTokens)]);
      // Some requests have ended by then, and some are queued.
      const asked = Array.from({ length: 8 }, (_, index) =>
        ask({ ...long, prompt: `${index}`, max_tokens: 1 + randomInteger(random, 60) }),
      );
      await isUnderWay;
      const restarted = new Promise((resolve) => models.events.once("engine:restarted", resolve));
      engine.kill();
      for (const end of await Promise.all(asked)) ends.add(end);
      await restarted;
      expect(await ask({ ...long, max_tokens: 3 })).toBe("done");
    }
    expect([...ends].filter((end) => end !== "model_loading").toSorted()).toEqual(["done", "engine_failed"]);
  });

  test("clients get an error before the first token, whether or not a keep-alive was due", async () => {
    const engine = await open();
    const { server } = await serve(engine);
    const ask = client(server.port);
    const running = [ask(long), ask(long)];
    await tokens(engine, 4);
    const waiting = ask({ ...long, prompt: "y" });
    await told(engine, "sequence:queued");
    timers.fire(KEEP_ALIVE_MS);
    engine.kill();
    expect(await Promise.all([...running, waiting])).toEqual(["engine_failed", "engine_failed", "engine_failed"]);
  });

  test("clients get an error after data that they have not read", async () => {
    const engine = await open();
    let connection: Socket | null = null;
    const { server } = await serve(engine, (_, response, next) => {
      ({ socket: connection } = response);
      // Stands for a reader that takes nothing.
      connection?.cork();
      next();
    });
    const asked = client(server.port)({ ...long, logprobs: 20 });
    await timers.waiting(SLOW_READER_MS);
    engine.kill();
    await told(engine, "engine:failed");
    (connection as Socket | null)?.uncork();
    expect(await asked).toBe("engine_failed");
  });

  test("clients get an error while a token's text is requested", async () => {
    const engine = await open();
    const failing: Engine = {
      info: engine.info,
      events: engine.events,
      generate: (asked) => engine.generate(asked),
      embed: (asked) => engine.embed(asked),
      rerank: (asked) => engine.rerank(asked),
      classify: (asked) => engine.classify(asked),
      tokenize: (text, options) => engine.tokenize(text, options),
      detokenize: async () => {
        throw new ReadMeError("ERR_ENGINE_FAILED", "The engine's worker is gone");
      },
      applyTemplate: (messages) => engine.applyTemplate(messages),
      vocabulary: () => engine.vocabulary(),
      route: (prompt, expert) => engine.route(prompt, expert),
      addExpert: (name, path) => engine.addExpert(name, path),
      removeExpert: (name) => engine.removeExpert(name),
      stats: () => engine.stats(),
      whenFailed: () => engine.whenFailed(),
      dispose: () => engine.dispose(),
      [Symbol.asyncDispose]: () => engine.dispose(),
    };
    const { server } = await serve(failing);
    // Only tokens that are not the most likely ones need a request for their text.
    const unlikely = { ...long, max_tokens: 50, logprobs: 0, temperature: 2, seed: 1 };
    expect(await client(server.port)(unlikely)).toBe("engine_failed");
  });

  test("only clients of the killed engine get an error while engines are swapped", async () => {
    const [before, after] = [await open(), await open()];
    const { models, server } = await serve(before);
    const ask = client(server.port);
    const old = [ask(long), ask(long), ask(long)];
    await tokens(before, 3);
    const exchanged = models.set("model", after);
    const young = [ask({ ...long, max_tokens: 40 }), ask({ ...long, max_tokens: 40 })];
    await tokens(after, 3);
    before.kill();
    expect(await Promise.all(old)).toEqual(["engine_failed", "engine_failed", "engine_failed"]);
    await exchanged;
    expect(await Promise.all(young)).toEqual(["done", "done"]);
  });
});

test("an engine that loops for ever is ended and opened again; its requests learn it, and the process stays alive", async () => {
  const scheduler = await writeHangingScheduler(folder, "for (;;)");
  const engine = await open({ scheduler, hungMs: 1000, speculation: false });
  const { models, server } = await serve(engine);
  const restarted = new Promise((resolve) => models.events.once("engine:restarted", resolve));
  const send = client(server.port);
  const short = { ...long, max_tokens: 2 };
  expect(await send(short)).toBe("done");
  const hanging = [send({ ...long, max_tokens: 2 * HANGING_TOKENS }), client(server.port)(long)];
  const lives: number[] = [];
  const over = new AbortController();
  const polled = (async () => {
    while (!over.signal.aborted) lives.push((await fetch(`${server.url}/livez`)).status);
  })();
  expect(await Promise.all(hanging)).toEqual(["engine_failed", "engine_failed"]);
  await restarted;
  expect((await fetch(`${server.url}/readyz`)).status).toBe(200);
  expect(await send(short)).toBe("done");
  over.abort();
  await polled;
  expect(new Set(lives)).toEqual(new Set([200]));
});
