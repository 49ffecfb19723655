// Streams: their events, their ends, and clients that leave.

import { mkdir } from "node:fs/promises";
import type { ReadMeEngine } from "@readme-moe/engine";
import express from "express";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readMe } from "../support/border.ts";
import { complete, completeAll } from "../support/complete.ts";
import { manualTimers } from "../support/manual-timers.ts";
import { openSocket, postHead, postRaw } from "../support/raw-http.ts";
import { ENDLESS, ENDLESS_TOKENS, listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { chunksOf, httpChunks, parseEvents, type Chunk } from "../support/sse.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
const KEEP_ALIVE_MS = 1234;
let engine: ReadMeEngine;
let server: RunningServer;

beforeAll(async () => {
  // One sequence at a time makes a second request wait.
  engine = await openTinyEngine(folder, { maxNumSeqs: 1 }, ENDLESS);
  const app = express();
  app.use(readMe.api({ engine, keepAliveMs: KEEP_ALIVE_MS, timers }));
  server = await listen(app);
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await engine.dispose();
});

const timers = manualTimers();
const messages = [{ role: "user", content: "Hello there" }] as const;
const greedy = { temperature: 0, ignore_eos: true } as const;

async function stream(path: string, body: object, signal?: AbortSignal): Promise<globalThis.Response> {
  return fetch(`${server.url}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true }),
    ...(signal ? { signal } : {}),
  });
}

describe("a stream", () => {
  test("has headers that keep proxies from buffering it", async () => {
    const response = await stream("/v1/chat/completions", { messages, max_tokens: 1 });
    await response.text();
    expect(Object.fromEntries(response.headers)).toMatchObject({
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-cache, no-transform",
      "x-accel-buffering": "no",
      connection: "keep-alive",
      "openai-processing-ms": expect.stringMatching(/^\d+$/) as unknown,
    });
  });

  test("contains the role, the text in pieces, the finish reason, the usage and the end mark", async () => {
    const params = { temperature: 0, maxTokens: 6, ignoreEos: true };
    const { choices, usage } = await completeAll(engine, { prompt: { messages }, params });
    const request = { messages, max_tokens: 6, ...greedy, stream_options: { include_usage: true } };
    const chunks = chunksOf(await (await stream("/v1/chat/completions", request)).text());
    const first = chunks[0];
    expect(chunks.every((one) => one.id === first?.id && one.created === first.created)).toBe(true);
    expect(chunks.every((one) => one.object === "chat.completion.chunk")).toBe(true);
    const deltas = chunks.flatMap((one) => one.choices);
    expect(deltas[0]).toEqual({
      index: 0,
      delta: { role: "assistant", content: "" },
      logprobs: null,
      finish_reason: null,
    });
    expect(deltas.at(-1)).toEqual({ index: 0, delta: {}, logprobs: null, finish_reason: "length" });
    expect(deltas.map(({ delta }) => delta?.content ?? "").join("")).toBe(choices[0]?.text);
    expect(deltas.length).toBeGreaterThan(5);
    const [last, ...before] = chunks.toReversed();
    expect(before.every((one) => one.usage === null)).toBe(true);
    expect(last).toMatchObject({
      choices: [],
      usage: { prompt_tokens: usage?.promptTokens, completion_tokens: 6, total_tokens: (usage?.promptTokens ?? 0) + 6 },
    });
  });

  test("contains usage only on request", async () => {
    const chunks = chunksOf(await (await stream("/v1/chat/completions", { messages, max_tokens: 2 })).text());
    expect(chunks.some((one) => "usage" in one || one.choices.length === 0)).toBe(false);
  });

  test("sends the role with the first token, and the finish reason with the last, in one write each", async () => {
    const body = JSON.stringify({ messages, max_tokens: 4, ...greedy, stream: true });
    const writes = httpChunks(await postRaw(server.port, "/v1/chat/completions", body)).map(
      (written) => parseEvents(written).data,
    );
    const [first = [], ...others] = writes;
    expect(first).toHaveLength(2);
    expect(first.map((data) => (JSON.parse(data) as Chunk).choices[0]?.delta)).toEqual([
      { role: "assistant", content: "" },
      { content: expect.stringMatching(/./) as unknown },
    ]);
    const last = others.at(-2) ?? [];
    expect(last.map((data) => (JSON.parse(data) as Chunk).choices[0]?.finish_reason)).toEqual([null, "length"]);
    expect(others.at(-1)).toEqual(["[DONE]"]);
  });

  test("of completions numbers the choices of all prompts", async () => {
    const params = { n: 2, seed: 3, maxTokens: 4, ignoreEos: true };
    const expected = await Promise.all(["One", "Two"].map((prompt) => completeAll(engine, { prompt, params })));
    const request = { prompt: ["One", "Two"], n: 2, seed: 3, max_tokens: 4, ignore_eos: true };
    const chunks = chunksOf(await (await stream("/v1/completions", request)).text());
    const texts = ["", "", "", ""];
    for (const { index, text } of chunks.flatMap((one) => one.choices)) texts[index] += text ?? "";
    expect(texts).toEqual(expected.flatMap(({ choices }) => choices.map(({ text }) => text)));
    expect(chunks.every((one) => one.object === "text_completion")).toBe(true);
  });

  test("never splits a character, and contains no part of a stop string", async () => {
    // A bias makes the model generate emoji, which take several tokens each.
    const ids = Array.from(await engine.tokenize("🙂", { addSpecialTokens: false }));
    const logit_bias = Object.fromEntries(ids.map((id) => [id, 100]));
    const request = { prompt: "🙂🙂", max_tokens: 40, seed: 1, temperature: 1, logit_bias };
    const text = chunksOf(await (await stream("/v1/completions", request)).text())
      .flatMap((one) => one.choices)
      .map((choice) => choice.text);
    const { text: whole } = await complete(engine, {
      prompt: "🙂🙂",
      params: { maxTokens: 40, seed: 1, temperature: 1, logitBias: logit_bias },
    });
    expect(text.join("")).toBe(whole);
    const stop = whole.slice(Math.floor(whole.length / 2)).slice(0, 3);
    const stopped = await (await stream("/v1/completions", { ...request, stop })).text();
    const shown = chunksOf(stopped).flatMap((one) => one.choices.map((choice) => choice.text));
    expect(shown.join("")).toBe(whole.slice(0, whole.indexOf(stop)));
  });

  test("keeps the connection alive, whether it waits or is between two tokens", async () => {
    const controller = new AbortController();
    const busy = await stream(
      "/v1/completions",
      { prompt: "x", max_tokens: ENDLESS_TOKENS, ignore_eos: true },
      controller.signal,
    );
    // The engine is occupied, so the next request waits.
    const waiting = stream("/v1/completions", { prompt: "y", max_tokens: 1 });
    await new Promise((resolve) => engine.events.once("sequence:queued", resolve));
    const reader = busy.body?.pipeThrough(new TextDecoderStream()).getReader();
    await reader?.read();
    await expect.poll(() => timers.count(KEEP_ALIVE_MS)).toBe(2);
    timers.fire(KEEP_ALIVE_MS);
    let text = "";
    while (!text.includes(": ping\n\n")) text += (await reader?.read())?.value ?? expect.fail("The stream ended");
    controller.abort();
    await reader?.read().catch(() => undefined);
    const { comments, data } = parseEvents(await (await waiting).text());
    expect(comments).toEqual(["waiting"]);
    expect(data.at(-1)).toBe("[DONE]");
  });
});

describe("an engine that fails during a stream", () => {
  test("ends the stream with an error and without the end mark", async () => {
    const doomed = await openTinyEngine(await persistentFolderOf("doomed"), {}, ENDLESS);
    const app = express();
    app.use(readMe.api({ models: { doomed } }));
    await using other = await listen(app);
    const response = await fetch(`${other.url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ prompt: "x", max_tokens: ENDLESS_TOKENS, ignore_eos: true, stream: true }),
    });
    doomed.kill();
    const { data } = parseEvents(await response.text());
    expect(JSON.parse(data.at(-1) ?? "")).toEqual({
      error: { message: expect.any(String) as unknown, type: "server_error", param: null, code: "engine_failed" },
    });
    await doomed.dispose();
  });
});

describe("a client that leaves", () => {
  const long = { prompt: "x", max_tokens: ENDLESS_TOKENS, ignore_eos: true } as const;
  const idle = { numRunning: 0, numWaiting: 0, kvUsedTokens: 0 } as const;
  test("during a stream frees the engine", async () => {
    const controller = new AbortController();
    const finished = aborted();
    const response = await stream("/v1/completions", long, controller.signal);
    await response.body?.getReader().read();
    controller.abort();
    await finished;
    expect(await engine.stats()).toMatchObject(idle);
  });

  test("before its whole answer is sent frees the engine", async () => {
    const socket = await openSocket(server.port);
    const body = JSON.stringify(long);
    const generated = new Promise((resolve) => engine.events.once("token:generated", resolve));
    const finished = aborted();
    socket.write(postHead("/v1/completions", body.length) + body);
    await generated;
    socket.destroy();
    await finished;
    expect(await engine.stats()).toMatchObject(idle);
  });

  test("in the queue is dropped without effect on other requests", async () => {
    const controller = new AbortController();
    const first = await stream("/v1/completions", { ...long, max_tokens: 300, seed: 1 });
    const queued = new Promise((resolve) => engine.events.once("sequence:queued", resolve));
    const second = stream("/v1/completions", long, controller.signal);
    await queued;
    const finished = aborted();
    controller.abort();
    await expect(second).rejects.toThrow(/abort/);
    await finished;
    const chunks = chunksOf(await first.text());
    expect(chunks.at(-1)?.choices[0]?.finish_reason).toBe("length");
    expect(await engine.stats()).toMatchObject(idle);
  });
});

/** Resolves when a request of the engine was aborted. */
function aborted(): Promise<void> {
  return new Promise((resolve) => {
    const onFinished = ({ reason }: { readonly reason: string }): void => {
      if (reason !== "abort") return;
      engine.events.off("sequence:finished", onFinished);
      resolve();
    };
    engine.events.on("sequence:finished", onFinished);
  });
}

async function persistentFolderOf(name: string): Promise<string> {
  await mkdir(`${folder}/${name}`, { recursive: true });
  return `${folder}/${name}`;
}
