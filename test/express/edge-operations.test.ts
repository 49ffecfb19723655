// Health, metrics and overload of the whole middleware, with a tiny engine and real connections.

import express from "express";
import { join } from "node:path";
import { type Engine, ReadMeEmitter } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { Admission, type ReadMeOptions, ServedModels } from "@readme-moe/express";
import { Registry } from "prom-client";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { Heartbeat } from "../../packages/express/src/edge/operations.ts";
import { readMe } from "../support/border.ts";
import { scrape, type Scrape } from "../support/prometheus.ts";
import { ENDLESS, ENDLESS_TOKENS, listen, openTinyEngine } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const NUM_CANCELLED = Number(process.env["README_MOE_CANCELLED"] ?? 500);
const MODEL = { model_name: "tiny" };

let folder: string;
let engine: ReadMeEngine;
let numOpened = 0;
beforeAll(async () => {
  folder = await persistentFolder();
  // In a process of its own, so that it does not share this thread's machine time by turns.
  engine = await openTinyEngine(join(folder, "tiny"), { isolation: "process", maxNumSeqs: 8 }, ENDLESS);
});
afterAll(() => engine.dispose());

interface Served {
  readonly url: string;
  readonly models: ServedModels;
  readonly admission: Admission;
  readonly post: (body?: object, signal?: AbortSignal) => Promise<Response>;
}

async function serve(options: ReadMeOptions = {}, models = new ServedModels({ tiny: engine })): Promise<Served> {
  const { events } = models;
  const limits = options.admission instanceof Admission ? {} : options.admission;
  const admission = new Admission({ events, ...limits });
  const server = await listen(express().use(readMe({ ...options, models, admission, events })));
  onTestFinished(() => server[Symbol.asyncDispose]());
  return {
    url: server.url,
    models,
    admission,
    post: (body = {}, signal) =>
      fetch(`${server.url}/v1/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ prompt: "hello", max_tokens: 4, ignore_eos: true, ...body }),
        ...(signal && { signal }),
      }),
  };
}

async function opened(): Promise<ReadMeEngine> {
  const other = await openTinyEngine(join(folder, `${++numOpened}`));
  onTestFinished(() => other.dispose());
  return other;
}

async function statusOf(url: string, path: string): Promise<readonly [number, string]> {
  const response = await fetch(`${url}/${path}`);
  return [response.status, await response.text()];
}

describe("health", () => {
  test("a working server is healthy, ready and alive, and reports its version", async () => {
    const { url } = await serve({ version: "1.2.3" });
    expect(await statusOf(url, "health")).toEqual([200, '{"status":"ok","active":0,"queued":0,"capacity":256}']);
    expect((await statusOf(url, "readyz"))[0]).toBe(200);
    expect((await statusOf(url, "livez"))[0]).toBe(200);
    expect(await statusOf(url, "version")).toEqual([200, '{"version":"1.2.3"}']);
  });

  test("a server is alive, but neither healthy nor ready, while its model loads", async () => {
    const loading = new Promise<Engine>(() => undefined);
    const { url, post } = await serve({}, new ServedModels({ tiny: loading }));
    const [status, text] = await statusOf(url, "health");
    expect(status).toBe(503);
    expect(JSON.parse(text)).toEqual({ error: { code: 503, message: "Loading model", type: "unavailable_error" } });
    expect((await statusOf(url, "readyz"))[0]).toBe(503);
    expect((await statusOf(url, "livez"))[0]).toBe(200);
    const refused = await post();
    expect([refused.status, refused.headers.get("x-should-retry")]).toEqual([503, "true"]);
  });

  test("a full server that refuses requests is healthy and ready", async () => {
    const { url, post, admission } = await serve({ admission: { maxRequests: 2 } });
    const client = new AbortController();
    const running = [1, 2].map(() => post({ max_tokens: ENDLESS_TOKENS, stream: true }, client.signal));
    await Promise.all(running);
    const refused = await post();
    expect(refused.status).toBe(503);
    expect(await refused.json()).toMatchObject({ error: { code: "server_overloaded" } });
    expect(refused.headers.get("retry-after")).toMatch(/^[1-9]\d*$/);
    expect(refused.headers.get("retry-after-ms")).toMatch(/^[1-9]\d*$/);
    expect(admission.stats.requests).toBe(2);
    expect((await statusOf(url, "health"))[1]).toBe('{"status":"ok","active":2,"queued":0,"capacity":2}');
    expect((await statusOf(url, "readyz"))[0]).toBe(200);
    const rejected = (await scrape(url)).value("readme_admission_rejected_total", { ...MODEL, reason: "requests" });
    expect(rejected).toBe(1);
    client.abort();
    await Promise.allSettled(running.map(async (one) => (await one).text()));
  });

  test("an engine that failed for good makes the server unhealthy and not alive", async () => {
    const failing = await opened();
    const { url, models } = await serve({}, new ServedModels({ tiny: failing, other: engine }));
    const failed = new Promise((resolve) => failing.events.on("engine:failed", resolve));
    failing.kill();
    await failed;
    expect((await statusOf(url, "health"))[0]).toBe(503);
    // The other model still answers requests.
    expect((await statusOf(url, "readyz"))[0]).toBe(200);
    expect((await statusOf(url, "livez"))[0]).toBe(503);
    const metrics = await scrape(url);
    expect(metrics.value("readme_engine_up", MODEL)).toBe(0);
    expect(metrics.value("readme_engine_up", { model_name: "other" })).toBe(1);
    expect(metrics.value("readme_num_requests_running", MODEL)).toBeUndefined();
    await models.set("tiny", engine);
    expect((await statusOf(url, "health"))[0]).toBe(200);
  });

  test("a restarting engine is not healthy, but the process is alive", async () => {
    const failing = await opened();
    const { url } = await serve(
      {},
      new ServedModels({ tiny: failing }, { restart: { firstDelayMs: 2 ** 31 - 1, maxDelayMs: 2 ** 31 - 1 } }),
    );
    const failed = new Promise((resolve) => failing.events.on("engine:failed", resolve));
    failing.kill();
    await failed;
    expect((await statusOf(url, "health"))[0]).toBe(503);
    expect((await statusOf(url, "livez"))[0]).toBe(200);
  });

  test("an engine counts as hung while an answer is overdue for `hungMs`", async () => {
    let answer: (() => void) | undefined;
    const stats = (): Promise<never> => new Promise((_, reject) => (answer = () => reject(new Error("late"))));
    const slow = { name: "slow", engine: { stats } as unknown as Engine };
    const events = new ReadMeEmitter();
    const told: unknown[] = [];
    events.on("engine:hung", (event) => told.push(event)).on("engine:recovered", (event) => told.push(event));
    const beat = new Heartbeat({ list: () => [slow] }, 1000, events);
    const hung = (nowMs: number): readonly string[] => beat.hungNames(nowMs);
    expect([hung(0), hung(999), hung(1000), hung(5000)]).toEqual([[], [], ["slow"], ["slow"]]);
    answer?.();
    await new Promise(setImmediate);
    expect([hung(6000), hung(6999), hung(7000)]).toEqual([[], [], ["slow"]]);
    expect(beat.overdue(7500)).toMatchObject([{ name: "slow", overdueMs: 1500 }]);
    // An engine that has failed has not recovered.
    expect(told).toEqual([
      { name: "slow", overdueMs: 1000 },
      { name: "slow", overdueMs: 1000 },
    ]);
  });

  test("a draining server is not ready, finishes running requests, and tells clients not to retry", async () => {
    const leaving = await opened();
    const { url, post, models } = await serve({}, new ServedModels({ tiny: leaving }));
    const running = await post({ max_tokens: 200, stream: true });
    const drain = models.drain();
    const [status, text] = await statusOf(url, "readyz");
    expect([status, text]).toEqual([503, expect.stringContaining("Shutting down")]);
    const refused = await post();
    expect([refused.status, refused.headers.get("x-should-retry")]).toEqual([503, "false"]);
    expect(await refused.json()).toMatchObject({ error: { code: "shutting_down" } });
    expect(await running.text()).toMatch(/data: \[DONE\]\n\n$/);
    expect(await drain).toBe(0);
  });
});

describe("metrics", () => {
  test("count the work under this package's names, and on request under vLLM's", async () => {
    const registry = new Registry();
    const { url, post } = await serve({ registry, vllmAliases: true });
    const prompt = "the quick brown fox";
    const answers = [];
    for (const max_tokens of [1, 3, 5]) answers.push(await (await post({ prompt, max_tokens })).json());
    const { usage } = answers[0] as { readonly usage: { readonly prompt_tokens: number } };
    expect((await post({ model: "nobody" })).status).toBe(404);
    const metrics = await finished(url, 3);
    for (const prefix of ["readme_", "vllm:"]) {
      const value = (name: string, labels: object = MODEL): number | undefined =>
        metrics.value(`${prefix}${name}`, { ...labels });
      expect(value("prompt_tokens_total")).toBe(3 * usage.prompt_tokens);
      expect(value("generation_tokens_total")).toBe(9);
      expect(value("request_success_total", { ...MODEL, finished_reason: "length" })).toBe(3);
      expect(value("time_to_first_token_seconds_count")).toBe(3);
      expect(value("e2e_request_latency_seconds_count")).toBe(3);
      expect(value("inter_token_latency_seconds_count")).toBe(6);
      expect(value("request_prefill_time_seconds_count")).toBe(3);
      expect(value("request_prompt_tokens_sum")).toBe(3 * usage.prompt_tokens);
      expect(value("request_generation_tokens_sum")).toBe(9);
      expect(value("request_generation_tokens_bucket", { ...MODEL, le: "2" })).toBe(1);
      expect(value("request_params_max_tokens_sum")).toBe(9);
      expect(value("request_params_n_sum")).toBe(3);
      const { draftedTokens, acceptedDraftTokens } = await engine.stats();
      expect(value("spec_decode_num_draft_tokens_total")).toBe(draftedTokens);
      expect(value("spec_decode_num_accepted_tokens_total")).toBe(acceptedDraftTokens);
      expect(value("num_requests_running")).toBe(0);
      expect(value("num_requests_waiting")).toBe(0);
      expect(value("kv_cache_usage_perc")).toBeLessThan(1);
      expect(value("cache_config_info")).toBe(1);
      expect(value("iteration_tokens_total_count")).toBeGreaterThanOrEqual(3);
    }
    const handler = "/v1/completions";
    expect(metrics.value("readme_http_requests_total", { handler, method: "POST", status: "200" })).toBe(3);
    expect(metrics.value("readme_http_requests_total", { handler, status: "404" })).toBe(1);
    expect(metrics.value("readme_step_prediction_error_seconds_count", MODEL)).toBeGreaterThanOrEqual(3);
    expect(metrics.value("readme_batch_unique_experts_count", MODEL)).toBeGreaterThanOrEqual(3);
    expect(metrics.value("readme_engine_up", MODEL)).toBe(1);
    const [first, whole] = ["time_to_first_token", "e2e_request_latency"].map((name) =>
      metrics.value(`readme_${name}_seconds_sum`, MODEL),
    );
    expect(first).toBeGreaterThan(0);
    expect(whole).toBeGreaterThan(first as number);
    // A caller's registry has no metrics of the process.
    expect(metrics.value("process_resident_memory_bytes")).toBeUndefined();
  });

  test("the default registry has the process's metrics and no vLLM names", async () => {
    const { url } = await serve();
    const metrics = await scrape(url);
    expect(metrics.value("process_resident_memory_bytes")).toBeGreaterThan(0);
    expect(metrics.samples.some(({ name }) => name === "nodejs_eventloop_lag_p99_seconds")).toBe(true);
    expect(metrics.samples.filter(({ name }) => name.includes(":"))).toEqual([]);
    const response = await fetch(`${url}/metrics`);
    expect(response.headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
  });

  test("an engine that is replaced and set again is counted once", async () => {
    const other = await opened();
    const models = new ServedModels({ tiny: engine });
    const { url, post } = await serve({}, models);
    for (const next of [other, engine, other, engine]) await models.set("tiny", next, { dispose: false });
    await (await post({ max_tokens: 4 })).text();
    expect((await finished(url, 1)).value("readme_generation_tokens_total", MODEL)).toBe(4);
  });

  test("streamed experts are counted as the engine counts them", async () => {
    const folderOf = join(folder, `${++numOpened}`);
    // Memory for one of two layers of all experts.
    const streamed = await openTinyEngine(folderOf, { precision: "int8", expertCacheBytes: 26_880 });
    onTestFinished(() => streamed.dispose());
    const { url, post } = await serve({}, new ServedModels({ tiny: streamed }));
    await (await post({ prompt: "one two three four five", max_tokens: 8 })).text();
    const metrics = await finished(url, 1);
    const { expertCache } = await streamed.stats();
    if (!expertCache) throw new Error("Expected an engine with an expert cache");
    const value = (name: string): number | undefined => metrics.value(`readme_expert_${name}`, MODEL);
    expect(expertCache.uses).toBeGreaterThan(0);
    expect(value("cache_hits_total")).toBe(expertCache.hits);
    expect(value("cache_misses_total")).toBe(expertCache.uses - expertCache.hits);
    expect(value("cache_evictions_total")).toBe(expertCache.evictions);
    expect(value("cache_bytes_loaded_total")).toBe(expertCache.bytesRead);
    expect(value("cache_budget_bytes")).toBe(expertCache.budgetBytes);
    expect(value("cache_resident_bytes")).toBe(expertCache.usedBytes);
    expect(value("prefetch_issued_total")).toBe(expertCache.loads);
    expect(value("prefetch_wasted_bytes_total")).toBe(expertCache.wastedBytes);
    expect(value("stall_seconds_total")).toBeCloseTo(expertCache.stallMs / 1000);
  });
});

test(
  `${NUM_CANCELLED} requests that queue and are cancelled leave every gauge at zero, and the server serves on`,
  async () => {
    const { url, post, models, admission } = await serve({ admission: { maxRequests: NUM_CANCELLED / 2 } });
    const outcomes = { refused: 0, cancelled: 0 };
    const atOnce = 100;
    for (let begun = 0; begun < NUM_CANCELLED; begun += atOnce) {
      const client = new AbortController();
      const admitted = new Promise<void>((resolve) => models.events.once("request:admitted", () => resolve()));
      const requests = Array.from({ length: Math.min(atOnce, NUM_CANCELLED - begun) }, async (_, index) => {
        try {
          // Clients disconnect while requests wait, begin and stream.
          const response = await post({ max_tokens: 200, stream: index % 2 === 0 }, client.signal);
          await response.text();
          if (response.status === 503) outcomes.refused++;
        } catch {
          outcomes.cancelled++;
        }
      });
      await admitted;
      client.abort();
      await Promise.all(requests);
    }
    expect(outcomes.cancelled).toBeGreaterThan(0);
    expect(outcomes.cancelled + outcomes.refused).toBe(NUM_CANCELLED);
    expect((await post()).status).toBe(200);
    const metrics = await scrapeUntil(url, (one) => one.value("readme_admission_requests") === 0);
    for (const name of ["admission_requests", "admission_waiting_requests", "admission_tokens", "admission_bytes"]) {
      expect(metrics.value(`readme_${name}`), name).toBe(0);
    }
    expect(metrics.value("readme_num_requests_running", MODEL)).toBe(0);
    expect(metrics.value("readme_num_requests_waiting", MODEL)).toBe(0);
    expect(admission.stats).toMatchObject({ requests: 0, waiting: 0, tokens: 0, bytes: 0 });
    expect(models.numLeases).toBe(0);
  },
  60_000 + 30 * NUM_CANCELLED,
);

/** Scrapes until `count` sequences have finished: the last events come after the last byte. */
function finished(url: string, count: number): Promise<Scrape> {
  return scrapeUntil(url, (metrics) => metrics.value("readme_request_prompt_tokens_count", MODEL) === count);
}

async function scrapeUntil(url: string, isRight: (metrics: Scrape) => boolean): Promise<Scrape> {
  for (;;) {
    const metrics = await scrape(url);
    if (isRight(metrics)) return metrics;
  }
}
