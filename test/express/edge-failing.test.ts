// An engine that runs and fails its requests, over HTTP: health, events, restarts and recovery.

import { copyFile, stat, truncate } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeEmitter, type ReadMeEvents } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { readMe, ServedModels, type ReadMeOptions, type ServedModelsOptions } from "@readme-moe/express";
import express from "express";
import { describe, expect, onTestFinished, test } from "vitest";
import { onlyEntry } from "../support/cached-entry.ts";
import { scrape } from "../support/prometheus.ts";
import { listen, openTinyEngine } from "../support/served-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const BUDGET = { precision: "int8", expertCacheBytes: 26_880 } as const;
const TOLD = [
  "request:failed",
  "engine:failing",
  "engine:recovered",
  "engine:restarted",
  "engine:restart-failed",
  "engine:given-up",
] as const satisfies readonly (keyof ReadMeEvents)[];

interface Streamed {
  readonly engine: ReadMeEngine;
  /** File that experts are read from. */
  readonly file: string;
}

/** An engine with little memory for experts, in a process of its own. */
async function opened(): Promise<Streamed> {
  const folder = await temporaryFolder();
  const cacheFolder = join(folder, "cache");
  // Requests name their experts, so there is no router, and only one file.
  const options = { ...BUDGET, isolation: "process", cacheFolder, expert: 0 } as const;
  const engine = await openTinyEngine(folder, options, { hasRouter: false });
  onTestFinished(() => engine.dispose());
  return { engine, file: join(await onlyEntry(cacheFolder), "weights.bin") };
}

async function serve(
  engines: Readonly<Record<string, ReadMeEngine>>,
  options: ServedModelsOptions,
  more: ReadMeOptions = {},
) {
  const models = new ServedModels(engines, options);
  const told: { readonly event: string; readonly [field: string]: unknown }[] = [];
  for (const event of TOLD) models.events.on(event, (payload: object) => told.push({ event, ...payload }));
  const server = await listen(express().use(readMe({ ...more, models })));
  onTestFinished(() => server[Symbol.asyncDispose]());
  const statusOf = async (path: string, body?: object): Promise<number> => {
    const post = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
    const response = await fetch(`${server.url}/${path}`, body === undefined ? {} : post);
    await response.text();
    return response.status;
  };
  const ask = (expert: number, extra: object = {}): Promise<number> =>
    statusOf("v1/completions", {
      model: "a",
      prompt: "x",
      max_tokens: 3,
      ignore_eos: true,
      read_me: { expert },
      ...extra,
    });
  const probes = async (): Promise<readonly number[]> => [
    await statusOf("health"),
    await statusOf("readyz"),
    await statusOf("livez"),
  ];
  const names = (): readonly string[] => told.map(({ event }) => event);
  return { models, url: server.url, told, names, ask, probes, statusOf };
}

describe("an engine whose experts cannot be read", () => {
  test("is not ready after several failures, still gets requests, and recovers with an answer", async () => {
    const { engine, file } = await opened();
    const { ask, probes, told, names, statusOf, url } = await serve({ a: engine }, {});
    expect(await ask(0)).toBe(200);
    await copyFile(file, `${file}.copy`);
    await truncate(file, 0);
    // A client's mistake or another route's answer does not count.
    expect([await ask(1), await ask(1, { max_tokens: -1 }), await statusOf("tokenize", { prompt: "x" })]).toEqual([
      500, 400, 200,
    ]);
    expect([await ask(1), ...(await probes())]).toEqual([500, 200, 200, 200]);
    // A stream that has begun reports the error in its last event; before that, its status does.
    expect([await ask(2, { stream: true }), ...(await probes())]).toEqual([500, 503, 503, 503]);
    expect(names()).toEqual(["request:failed", "request:failed", "request:failed", "engine:failing"]);
    expect(told.at(-1)).toMatchObject({ name: "a", failures: 3, isReopened: false });
    expect(told[0]).toMatchObject({ model: "a", status: 500, causes: [{ code: "ERR_FILE_UNREADABLE" }, {}] });
    const scraped = await scrape(url);
    expect(scraped.value("readme_request_failures_total", { code: "ERR_FILE_UNREADABLE" })).toBe(3);
    expect(scraped.value("readme_engine_state", { state: "failing" })).toBe(1);
    expect(scraped.value("readme_engine_up")).toBe(0);
    await copyFile(`${file}.copy`, file);
    expect([await ask(1), ...(await probes())]).toEqual([200, 200, 200, 200]);
    expect(names().at(-1)).toBe("engine:recovered");
  });

  test("is opened again once, under all its names, if `restart` is set", async () => {
    const { engine, file } = await opened();
    const { models, ask, probes, names } = await serve(
      { a: engine, b: engine },
      { restart: { firstDelayMs: 5 }, maxFailures: 2 },
    );
    const both = new Promise<void>((resolve) => {
      let left = 2;
      models.events.on("engine:restarted", () => --left === 0 && resolve());
    });
    expect(await ask(0)).toBe(200);
    await truncate(file, 0);
    expect([await ask(1), await ask(1)]).toEqual([500, 500]);
    await both;
    expect([await ask(1), await ask(2), ...(await probes())]).toEqual([200, 200, 200, 200, 200]);
    expect(names().filter((name) => name !== "request:failed")).toEqual([
      "engine:failing",
      "engine:restarted",
      "engine:restarted",
    ]);
  });

  test("is given up with an event if it fails again after each restart", async () => {
    const { engine, file } = await opened();
    const restart = { firstDelayMs: 1, maxAttempts: 2 };
    const { models, ask, probes, names } = await serve({ a: engine }, { restart, maxFailures: 1 });
    const happened = (event: "engine:restarted" | "engine:given-up"): Promise<void> =>
      new Promise((resolve) => models.events.once(event, () => resolve()));
    for (const next of ["engine:restarted", "engine:restarted", "engine:given-up"] as const) {
      await truncate(file, 0);
      const isOver = happened(next);
      expect(await ask(1)).toBe(500);
      await isOver;
    }
    expect([await ask(1), ...(await probes())]).toEqual([503, 503, 503, 503]);
    expect(names().filter((name) => name === "engine:failing")).toHaveLength(3);
    expect(models.states()).toEqual([{ name: "a", state: "failed", code: "ERR_FILE_UNREADABLE" }]);
  });

  test("does not count as failing while other requests are answered", async () => {
    const { engine, file } = await opened();
    const { ask, probes, names } = await serve({ a: engine }, { maxFailures: 2 });
    expect(await ask(0)).toBe(200);
    // Removes the last layer of the last expert.
    await truncate(file, (await stat(file)).size - 8960);
    for (let round = 0; round < 3; round++) expect([await ask(2), await ask(0)]).toEqual([500, 200]);
    expect(await probes()).toEqual([200, 200, 200]);
    expect(names()).not.toContain("engine:failing");
  });
});

const policy = (): never => {
  throw new Error("the policy is broken");
};

test("an error of the program's own function is reported and does not kill the engine", async () => {
  const { engine } = await opened();
  const { ask, probes, told } = await serve(
    { a: engine },
    { restart: true, maxFailures: 2 },
    { admission: { policy } },
  );
  expect([await ask(0), await ask(0), ...(await probes())]).toEqual([500, 500, 503, 503, 503]);
  expect(told.at(-1)).toMatchObject({ event: "engine:failing", isReopened: false });
  expect(told[0]).toMatchObject({ causes: [{ message: "the policy is broken" }] });
  expect((await engine.stats()).numRunning).toBe(0);
});

test("a model that cannot be opened is reported with the reason", async () => {
  const models = new ServedModels({ a: Promise.reject(new Error("no such file", { cause: new Error("ENOENT") })) });
  const givenUp = new Promise((resolve) => models.events.once("engine:given-up", resolve));
  expect(await givenUp).toMatchObject({
    name: "a",
    attempts: 0,
    causes: [{ message: "no such file" }, { message: "ENOENT" }],
  });
});

test("an engine that cannot be opened again is reported at every attempt and at the end", async () => {
  const { engine } = await opened();
  const restart = { firstDelayMs: 1, maxAttempts: 3, jitter: 0 };
  // Requests have another bus; engines are counted all the same.
  const { models, told, probes, statusOf, url } = await serve(
    { a: engine },
    { restart },
    { events: new ReadMeEmitter() },
  );
  const givenUp = new Promise((resolve) => models.events.once("engine:given-up", resolve));
  // Opening it fails from now on.
  await truncate(join(engine.info.path, "backbone.safetensors"), 100);
  engine.kill();
  await givenUp;
  expect(told).toMatchObject([
    { event: "engine:restart-failed", attempts: 1, retryInMs: 2, causes: [{ code: "ERR_FILE_CORRUPT" }] },
    { event: "engine:restart-failed", attempts: 2, retryInMs: 4 },
    { event: "engine:restart-failed", attempts: 3, retryInMs: undefined },
    { event: "engine:given-up", attempts: 3, causes: [{ code: "ERR_FILE_CORRUPT" }] },
  ]);
  expect(await probes()).toEqual([503, 503, 503]);
  expect(await statusOf("v1/models")).toBe(200);
  const scraped = await scrape(url);
  expect(scraped.value("readme_engine_restart_failures_total", { model_name: "a" })).toBe(3);
  expect(scraped.value("readme_engine_given_up_total", { model_name: "a" })).toBe(1);
});
