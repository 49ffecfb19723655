// Which engine answers while engines are replaced, fail, restart and are disposed, with real engines.

import { join } from "node:path";
import { ReadMeEmitter, type Engine, type GenerateChunk } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { ApiError, ServedModels, type Asking, type Lease } from "@readme-moe/express";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { complete } from "../support/complete.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { ENDLESS, ENDLESS_TOKENS, openTinyEngine } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const ABOUT = { request: { headers: {} }, body: {} } as unknown as Asking;
const LONG = { prompt: [5, 6, 7], params: { maxTokens: 200, ignoreEos: true, temperature: 0 } } as const;
const UNENDING = { ...LONG, params: { ...LONG.params, maxTokens: ENDLESS_TOKENS } } as const;
const SHORT = { prompt: [5, 6, 7], params: { maxTokens: 2, ignoreEos: true, temperature: 0 } } as const;

let folder: string;
let numOpened = 0;
/** Engines of tests that do not change them. */
let standing: readonly [ReadMeEngine, ReadMeEngine];
beforeAll(async () => {
  folder = await persistentFolder();
  standing = [await openTinyEngine(join(folder, "a")), await openTinyEngine(join(folder, "b"))];
});
afterAll(() => Promise.all(standing.map((engine) => engine.dispose())));

/** Opens an engine that is disposed when the test ends, if it was not before. */
async function opened(isolation: "thread" | "process" = "thread"): Promise<ReadMeEngine> {
  const engine = await openTinyEngine(join(folder, `${++numOpened}`), { isolation }, ENDLESS);
  onTestFinished(() => engine.dispose());
  return engine;
}

function refusal(ask: () => Lease): ApiError {
  try {
    ask().release();
  } catch (error) {
    if (error instanceof ApiError) return error;
    throw error;
  }
  throw new Error("Expected a refusal");
}

/** Whether an engine was disposed. */
async function isDisposed(engine: Engine): Promise<boolean> {
  return engine.stats().then(
    () => false,
    (error: { readonly code?: string }) => error.code === "ERR_DISPOSED",
  );
}

describe("names", () => {
  test("a request gets the model that it names by name or alias, or the only one if it names none", () => {
    const [a, b] = standing;
    const models = new ServedModels({ a, b }, { aliases: { "gpt-4": "b" } });
    expect(models.lease("a", ABOUT)).toMatchObject({ name: "a", engine: a });
    expect(models.lease("gpt-4", ABOUT)).toMatchObject({ name: "b", engine: b });
    expect(refusal(() => models.lease("c", ABOUT))).toMatchObject({
      status: 404,
      code: "model_not_found",
      param: "model",
    });
    expect(refusal(() => models.lease("__proto__", ABOUT)).status).toBe(404);
    expect(refusal(() => models.lease(undefined, ABOUT)).message).toContain("a, b");
    expect(new ServedModels({ a }).lease(undefined, ABOUT).name).toBe("a");
    expect(new ServedModels({ a, b }, { defaultModel: "b" }).lease(undefined, ABOUT).name).toBe("b");
    expect(models.list().map(({ name, aliases }) => [name, aliases])).toEqual([
      ["a", []],
      ["b", ["gpt-4"]],
    ]);
  });

  test("a function shares the traffic of one name between a dense and a refactored form", () => {
    const [dense, refactored] = standing;
    let count = 0;
    const share = (name: string | undefined): string | undefined =>
      name === "smol" ? (count++ % 10 < 3 ? "smol-dense" : "smol-moe") : undefined;
    const models = new ServedModels({ "smol-dense": dense, "smol-moe": refactored }, { share });
    const names = Array.from({ length: 20 }, () => models.lease("smol", ABOUT).name);
    expect(names.filter((name) => name === "smol-dense")).toHaveLength(6);
    expect(models.lease("smol-moe", ABOUT).engine).toBe(refactored);
  });

  test("a share that throws, or names no model, is answered with 500", () => {
    const [engine] = standing;
    const throws = new ServedModels(
      { engine },
      {
        share: () => {
          throw new TypeError("broken");
        },
      },
    );
    const misses = new ServedModels({ engine }, { share: () => "nobody" });
    for (const models of [throws, misses]) {
      const error = refusal(() => models.lease("engine", ABOUT));
      expect(error.status).toBe(500);
      expect(error.message).not.toMatch(/broken|nobody/);
    }
  });

  test.each([
    [{}, {}, "models"],
    [{ a: 1 }, { aliases: { b: "c" } }, "`c`"],
    [{ a: 1 }, { aliases: { a: "a" } }, "`a`"],
    [{ a: 1 }, { defaultModel: "b" }, "defaultModel"],
    [{ a: 1 }, { share: "a" }, "share"],
    [{ a: 1 }, { restart: { maxAttempts: 0 } }, "maxAttempts"],
    [{ a: 1 }, { alias: {} }, "aliases"],
  ])("wrong options are refused: %j %j", (models, options, name) => {
    expect(() => new ServedModels(models as never, options as never)).toThrow(name);
  });
});

describe("loading", () => {
  test("a loading model refuses requests and answers once it is open", async () => {
    const [engine] = standing;
    const { promise, resolve } = promised();
    const models = new ServedModels({ a: promise });
    expect(models.states()).toEqual([{ name: "a", state: "loading" }]);
    expect(refusal(() => models.lease("a", ABOUT))).toMatchObject({ status: 503, code: "model_loading" });
    expect(models.list()).toEqual([]);
    resolve(engine);
    await promise;
    await Promise.resolve();
    expect(models.states()).toEqual([{ name: "a", state: "ready" }]);
    models.lease("a", ABOUT).release();
  });

  test("a model that cannot be opened refuses requests", async () => {
    const models = new ServedModels({ a: Promise.reject(new Error("no such file")) });
    await new Promise(setImmediate);
    expect(models.states()).toEqual([{ name: "a", state: "failed" }]);
    expect(refusal(() => models.lease("a", ABOUT))).toMatchObject({ status: 503, code: "model_failed" });
  });

  test("an engine that opens after the server has shut down is disposed", async () => {
    const engine = await opened();
    const { promise, resolve } = promised();
    const models = new ServedModels({ a: promise });
    await models.drain();
    resolve(engine);
    await promise;
    expect(await isDisposed(engine)).toBe(true);
  });
});

describe("replacing engines", () => {
  test("requests keep the engine that they began with, which is disposed at their end", async () => {
    const [before, after] = [await opened(), standing[0]];
    const swapped: unknown[] = [];
    const models = new ServedModels({ a: before });
    models.events.on("model:swapped", (event) => swapped.push(event));
    const lease = models.lease("a", ABOUT);
    const running = complete(lease.engine, LONG);
    const isSet = models.set("a", after);
    expect(models.lease("a", ABOUT).engine).toBe(after);
    expect(swapped).toEqual([{ name: "a", path: after.info.path, previousPath: before.info.path }]);
    expect((await running).ids).toHaveLength(200);
    expect(await isDisposed(before)).toBe(false);
    lease.release();
    lease.release();
    await isSet;
    expect(await isDisposed(before)).toBe(true);
    expect(await isDisposed(after)).toBe(false);
  });

  test("a replaced engine ends requests that take longer than `drainMs`", async () => {
    const [before, after] = [await opened(), standing[0]];
    const models = new ServedModels({ a: before });
    const lease = models.lease("a", ABOUT);
    const stream = lease.engine.generate(UNENDING);
    await stream.next();
    await models.set("a", after, { drainMs: 0 });
    await expectReadMeError(drained(stream), "ERR_DISPOSED");
  });

  test("an engine that serves another name, or is the caller's, is not disposed", async () => {
    const [a, b, c] = [await opened(), ...standing];
    const models = new ServedModels({ one: a, two: a, three: b });
    await models.set("one", c);
    await models.set("three", c, { dispose: false });
    await models.set("three", c);
    expect([await isDisposed(a), await isDisposed(b)]).toEqual([false, false]);
    await models.set("two", b);
    expect(await isDisposed(a)).toBe(true);
    await models.set("four", b);
    expect(models.states().map(({ name }) => name)).toEqual(["one", "two", "three", "four"]);
  });

  test("a hundred replacements under load lose no request, and one engine answers each", async () => {
    // Two standby engines alternate, so that no replaced engine is disposed.
    const pair = standing;
    const models = new ServedModels({ a: pair[0] });
    const expected = (await complete(pair[0], SHORT)).ids;
    const load = { isOver: false };
    const answered = new Map<Engine, number>();
    const client = async (): Promise<void> => {
      while (!load.isOver) {
        const lease = models.lease("a", ABOUT);
        const { ids } = await complete(lease.engine, SHORT);
        lease.release();
        expect(ids).toEqual(expected);
        answered.set(lease.engine, (answered.get(lease.engine) ?? 0) + 1);
      }
    };
    const clients = Promise.all(Array.from({ length: 8 }, client));
    for (let i = 1; i <= 100; i++) await models.set("a", pair[i % 2] as Engine, { dispose: false });
    load.isOver = true;
    await clients;
    expect(models.numLeases).toBe(0);
    expect(answered.size).toBe(2);
  });
});

describe("failing", () => {
  test("a failed engine is opened again and answers again", async () => {
    const engine = await opened("process");
    const events = new ReadMeEmitter();
    const restarted = new Promise((resolve) => events.on("engine:restarted", resolve));
    const models = new ServedModels({ a: engine }, { restart: { firstDelayMs: 0 }, events });
    const failed = new Promise((resolve) => engine.events.on("engine:failed", resolve));
    const lease = models.lease("a", ABOUT);
    const stream = lease.engine.generate(UNENDING);
    await stream.next();
    engine.kill();
    await expectReadMeError(drained(stream), "ERR_ENGINE_FAILED");
    lease.release();
    await failed;
    expect(models.states()).toEqual([{ name: "a", state: "restarting", code: "ERR_ENGINE_FAILED" }]);
    expect(refusal(() => models.lease("a", ABOUT))).toMatchObject({ status: 503, code: "model_loading" });
    expect(await restarted).toEqual({ name: "a", attempts: 1 });
    const again = models.lease("a", ABOUT);
    expect((await complete(again.engine, SHORT)).ids).toHaveLength(2);
    again.release();
  });

  test("a failed engine without `restart` stays failed until another engine is set", async () => {
    const [engine, other] = [await opened(), standing[0]];
    const models = new ServedModels({ a: engine });
    const failed = new Promise((resolve) => engine.events.on("engine:failed", resolve));
    engine.kill();
    await failed;
    expect(models.states()).toEqual([{ name: "a", state: "failed", code: "ERR_ENGINE_FAILED" }]);
    expect(refusal(() => models.lease("a", ABOUT)).code).toBe("model_failed");
    await models.set("a", other);
    models.lease("a", ABOUT).release();
  });
});

describe("draining", () => {
  test("accepts no more requests, lets running ones end, and disposes the engines", async () => {
    const engine = await opened();
    const models = new ServedModels({ a: engine });
    const lease = models.lease("a", ABOUT);
    const running = complete(lease.engine, LONG);
    const drain = models.drain();
    expect(models.isDraining).toBe(true);
    const error = refusal(() => models.lease("a", ABOUT));
    expect(error).toMatchObject({ status: 503, code: "shutting_down" });
    expect(error.headers["x-should-retry"]).toBe("false");
    await expect(models.set("a", engine)).rejects.toThrow("shutting down");
    expect((await running).ids).toHaveLength(200);
    lease.release();
    expect(await drain).toBe(0);
    expect(await isDisposed(engine)).toBe(true);
    expect(models.drain()).toBe(drain);
  });

  test("ends requests at the deadline", async () => {
    const models = new ServedModels({ a: await opened() });
    const lease = models.lease("a", ABOUT);
    const stream = lease.engine.generate(UNENDING);
    await stream.next();
    expect(await models.drain({ deadlineMs: 0 })).toBe(1);
    await expectReadMeError(drained(stream), "ERR_DISPOSED");
    lease.release();
  });

  test("accepts requests during the notice", async () => {
    const models = new ServedModels({ a: await opened() });
    const drain = models.drain({ noticeMs: 50 });
    expect(models.isDraining).toBe(true);
    models.lease("a", ABOUT).release();
    await drain;
    expect(refusal(() => models.lease("a", ABOUT)).code).toBe("shutting_down");
  });
});

function promised(): { readonly promise: Promise<Engine>; readonly resolve: (engine: Engine) => void } {
  const settle: ((engine: Engine) => void)[] = [];
  const promise = new Promise<Engine>((resolve) => settle.push(resolve));
  return { promise, resolve: (engine) => settle[0]?.(engine) };
}

async function drained(stream: AsyncIterable<GenerateChunk>): Promise<void> {
  for await (const _ of stream);
}
