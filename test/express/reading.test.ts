// Long prompts: what clients get while theirs is read, and which requests still wait. With an engine that reads as fast
// as a test says, and with a real one.

import Anthropic from "@anthropic-ai/sdk";
import type { AcceptedPrompt, GenerateChunk, GenerateRequest, PromptProgress } from "@readme-moe/core";
import { Admission, type AdmissionOptions, readMe } from "@readme-moe/express";
import express from "express";
import { Ollama } from "ollama";
import OpenAI from "openai";
import { describe, expect, onTestFinished, test } from "vitest";
import { Deferred } from "../support/deferred.ts";
import { manualTimers } from "../support/manual-timers.ts";
import { chunkOf, nextTurn, scriptedEngine, USAGE } from "../support/scripted-engine.ts";
import { ENDLESS, listen, openTinyEngine } from "../support/served-model.ts";
import { chunksOf, parseEvents } from "../support/sse.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const [KEEP_ALIVE_MS, SILENT_MS] = [1234, 25_000];
const PROMPT_TOKENS = 17_466;
const messages = [{ role: "user" as const, content: "Hello" }];

/** A request whose prompt is read as a test says. */
class SlowRequest {
  readonly begun = new Deferred();
  /** Opens for the answer, or for an error. */
  readonly read = new Deferred<Error | undefined>();
  #asked: GenerateRequest | undefined;

  begin(asked: GenerateRequest): void {
    this.#asked = asked;
    this.begun.resolve();
  }

  report(readTokens: number, more: Partial<PromptProgress> = {}): void {
    this.#asked?.onProgress?.({ promptTokens: PROMPT_TOKENS, cachedTokens: 0, readTokens, queuedMs: 7, ...more });
  }
}

/** Serves an engine whose requests are slow, one after the other. */
async function serve(slow: readonly SlowRequest[], admission: AdmissionOptions = {}, accepted?: Promise<unknown>) {
  const timers = manualTimers();
  const waiting = [...slow];
  const engine = scriptedEngine({
    accept: async (): Promise<AcceptedPrompt> => {
      await accepted;
      return { promptTokens: PROMPT_TOKENS, experts: new Uint16Array() };
    },
    answer: (asked) => answerOf(asked, waiting.shift()),
  });
  const options = { engine, keepAliveMs: KEEP_ALIVE_MS, timers, ollama: true, admission: new Admission(admission) };
  const server = await listen(express().use(readMe.api(options)));
  onTestFinished(() => server[Symbol.asyncDispose]());
  const post = (path: string, body: object): Promise<Response> =>
    fetch(`${server.url}${path}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
  return { url: server.url, timers, post };
}

async function* answerOf(asked: GenerateRequest, slow: SlowRequest | undefined): AsyncGenerator<GenerateChunk, void> {
  slow?.begin(asked);
  const left = new Promise<Error>((resolve) => {
    asked.signal?.addEventListener("abort", () => resolve(new Error("left")), { once: true });
  });
  const error = await (slow ? Promise.race([slow.read.promise, left]) : undefined);
  if (error) throw error;
  yield chunkOf(0, "Good");
  await nextTurn();
  yield chunkOf(0, " day", { finishReason: "length", usage: { ...USAGE, promptTokens: PROMPT_TOKENS } });
}

/** Reads a body up to a text. */
function readerOf({ body }: Response): (end: string) => Promise<string> {
  const reader = body?.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  return async (end) => {
    while (!rest.includes(end)) {
      const { done, value } = (await reader?.read()) ?? { done: true, value: undefined };
      if (done) throw new Error(`Expected ${JSON.stringify(end)}, got ${JSON.stringify(rest)}`);
      rest += value;
    }
    const at = rest.indexOf(end) + end.length;
    const [text, after] = [rest.slice(0, at), rest.slice(at)];
    rest = after;
    return text;
  };
}

const stream = { prompt: "x", stream: true, max_tokens: 2 };

describe("a stream with a long prompt", () => {
  test("has its headers when the prompt begins to be read, and says how far it is", async () => {
    const slow = new SlowRequest();
    const { post, timers } = await serve([slow]);
    const asked = post("/v1/completions", stream);
    await slow.begun.promise;
    slow.report(0);
    const response = await asked;
    expect(response.status).toBe(200);
    const read = readerOf(response);
    expect(await read("\n\n")).toBe(": reading the prompt 0 of 17,466\n\n");
    slow.report(4096);
    expect(timers.fire(KEEP_ALIVE_MS)).toBe(1);
    expect(await read("\n\n")).toBe(": reading the prompt 4,096 of 17,466\n\n");
    slow.read.resolve(undefined);
    expect(await read("Good")).toMatch(/^data: \{[^\n]*Good$/);
    await read("[DONE]\n\n");
    expect(timers.count(KEEP_ALIVE_MS)).toBe(0);
  });

  test("says that it waits, with the first pause, until then", async () => {
    const slow = new SlowRequest();
    const { post, timers } = await serve([slow]);
    const asked = post("/v1/completions", stream);
    await slow.begun.promise;
    timers.fire(KEEP_ALIVE_MS);
    const read = readerOf(await asked);
    expect(await read("\n\n")).toBe(": waiting\n\n");
    slow.read.resolve(undefined);
    expect(parseEvents(await read("[DONE]\n\n")).comments).toEqual([]);
  });

  test("says so, too, while the engine has not accepted it", async () => {
    const accepted = new Deferred();
    const { post, timers } = await serve([new SlowRequest()], {}, accepted.promise);
    const asked = post("/v1/completions", stream);
    await timers.waiting(KEEP_ALIVE_MS);
    timers.fire(KEEP_ALIVE_MS);
    const response = await asked;
    expect(await readerOf(response)("\n\n")).toBe(": waiting\n\n");
    accepted.resolve();
  });

  test("has no early headers where little is left to read", async () => {
    const slow = new SlowRequest();
    const { post } = await serve([slow]);
    const asked = post("/v1/completions", stream);
    await slow.begun.promise;
    slow.report(PROMPT_TOKENS - 511);
    slow.read.resolve(undefined);
    const { comments, data } = parseEvents(await (await asked).text());
    expect([comments, data.at(-1)]).toEqual([[], "[DONE]"]);
  });

  test("reports progress in chunks of its own to those who ask for it", async () => {
    const slow = new SlowRequest();
    const { post } = await serve([slow]);
    const asked = post("/v1/chat/completions", {
      messages,
      stream: true,
      max_tokens: 2,
      read_me: { include: ["progress"] },
    });
    await slow.begun.promise;
    for (const readTokens of [3968, 8000]) slow.report(readTokens, { cachedTokens: 3968 });
    slow.read.resolve(undefined);
    const chunks = chunksOf(await (await asked).text()) as readonly (object & { choices: readonly unknown[] })[];
    const about = { cached_tokens: 3968, prompt_tokens: PROMPT_TOKENS, queue_ms: 7 };
    expect(chunks.slice(0, 2)).toMatchObject([
      { object: "chat.completion.chunk", choices: [], read_me: { progress: { ...about, read_tokens: 3968 } } },
      { choices: [], read_me: { progress: { ...about, read_tokens: 8000 } } },
    ]);
    expect(chunks.slice(2).every((chunk) => chunk.choices.length === 1 && !("read_me" in chunk))).toBe(true);
  });

  test("keeps the status of an error that comes before its prompt is read, and gets later ones as an event", async () => {
    const [refused, failed] = [new SlowRequest(), new SlowRequest()];
    const { post, timers } = await serve([refused, failed]);
    const first = post("/v1/completions", stream);
    await refused.begun.promise;
    refused.read.resolve(new RangeError("Expected `prompt` to be another one"));
    expect((await first).status).toBe(500);
    const second = post("/v1/completions", stream);
    await failed.begun.promise;
    failed.report(0);
    const response = await second;
    failed.read.resolve(new Error("broken"));
    const { data } = parseEvents(await response.text());
    expect([response.status, data.map((one) => (JSON.parse(one) as { error: { type: string } }).error.type)]).toEqual([
      200,
      ["server_error"],
    ]);
    expect(timers.count(KEEP_ALIVE_MS)).toBe(0);
  });
});

/** Serves one request that is kept open several times before its answer. */
async function keptOpen() {
  const slow = new SlowRequest();
  const { url, timers, post } = await serve([slow]);
  const keep = async (): Promise<void> => {
    await slow.begun.promise;
    for (let time = 0; time < 3; time++) {
      slow.report(1000 * time);
      timers.fire(KEEP_ALIVE_MS);
      // oxlint-disable-next-line no-await-in-loop -- one write after the other
      await nextTurn();
    }
    slow.read.resolve(undefined);
  };
  return { url, post, isOpen: keep() };
}

describe("clients read streams that are kept open:", () => {
  test("OpenAI's", async () => {
    const { url, isOpen } = await keptOpen();
    const openai = new OpenAI({ apiKey: "none", baseURL: `${url}/v1`, maxRetries: 0 });
    const runner = openai.chat.completions.stream({ model: "scripted", messages, max_tokens: 2 });
    expect(await runner.finalContent()).toBe("Good day");
    await isOpen;
  });

  test("Anthropic's, by pings", async () => {
    const { url, isOpen } = await keptOpen();
    const anthropic = new Anthropic({ apiKey: "none", baseURL: url, maxRetries: 0 });
    const runner = anthropic.messages.stream({ model: "scripted", messages, max_tokens: 2 });
    expect(await runner.finalText()).toBe("Good day");
    await isOpen;
    const raw = await keptOpen();
    const text = await (
      await raw.post("/v1/messages", { model: "scripted", messages, max_tokens: 2, stream: true })
    ).text();
    expect(text.startsWith('event: ping\ndata: {"type":"ping"}\n\n')).toBe(true);
    expect(text.split("event: ping\n").length).toBeGreaterThan(3);
  });

  test("Ollama's, by spaces before the next line", async () => {
    const { url, isOpen } = await keptOpen();
    const ollama = new Ollama({ host: url });
    let answer = "";
    const options = { num_predict: 2 };
    const parts = await ollama.chat({ model: "scripted", messages, options, stream: true });
    for await (const { message } of parts) answer += message.content;
    expect(answer).toBe("Good day");
    await isOpen;
    const raw = await keptOpen();
    const text = await (await raw.post("/api/chat", { model: "scripted", messages, options })).text();
    expect(text).toMatch(/^ {4}\{/);
    const lines = text.trimEnd().split("\n");
    expect(lines.map((line) => (JSON.parse(line) as { done: boolean }).done)).toEqual([false, false, true]);
  });
});

describe("a whole answer that takes long", () => {
  const whole = { prompt: "x", max_tokens: 2 };

  test("begins with spaces, and is JSON", async () => {
    const slow = new SlowRequest();
    const { post, timers } = await serve([slow]);
    const asked = post("/v1/completions", whole);
    await slow.begun.promise;
    slow.report(0);
    expect(timers.fire(SILENT_MS)).toBe(1);
    const response = await asked;
    expect([response.status, response.headers.get("content-type")]).toEqual([200, "application/json; charset=utf-8"]);
    expect(timers.fire(KEEP_ALIVE_MS)).toBe(1);
    slow.read.resolve(undefined);
    const text = await response.text();
    expect(text).toMatch(/^ {2}\{/);
    expect(JSON.parse(text)).toMatchObject({ choices: [{ text: "Good day" }] });
    expect(timers.count(KEEP_ALIVE_MS)).toBe(0);
  });

  test("is cut off by an error after that, and has a status before", async () => {
    const [late, early, quick] = [new SlowRequest(), new SlowRequest(), new SlowRequest()];
    const { post, timers } = await serve([late, early, quick]);
    const first = post("/v1/completions", whole);
    await late.begun.promise;
    late.report(0);
    timers.fire(SILENT_MS);
    const response = await first;
    late.read.resolve(new Error("broken"));
    await expect(response.text()).rejects.toThrow();
    const second = post("/v1/completions", whole);
    await early.begun.promise;
    early.report(0);
    early.read.resolve(new Error("broken"));
    expect((await second).status).toBe(500);
    expect([timers.count(SILENT_MS), timers.count(KEEP_ALIVE_MS)]).toEqual([0, 0]);
    const third = post("/v1/completions", whole);
    quick.read.resolve(undefined);
    expect((await third).headers.get("content-length")).toMatch(/^\d+$/);
  });
});

describe("the limit of the wait", () => {
  test("ends requests that the engine has not begun, and none whose prompt is being read", async () => {
    const [read, silent] = [new SlowRequest(), new SlowRequest()];
    const { post } = await serve([read, silent], { maxQueueMs: 40 });
    const first = post("/v1/completions", { prompt: "x", max_tokens: 2 });
    await read.begun.promise;
    read.report(0);
    // It comes later, and its wait ends later.
    const second = await post("/v1/completions", { prompt: "y", max_tokens: 2 });
    expect([second.status, await second.json()]).toMatchObject([408, { error: { code: "queue_timeout" } }]);
    read.read.resolve(undefined);
    expect((await first).status).toBe(200);
  });

  test("is an event of a stream that was told that it waits", async () => {
    const slow = new SlowRequest();
    const { post, timers } = await serve([slow], { maxQueueMs: 400 });
    const asked = post("/v1/completions", stream);
    await slow.begun.promise;
    timers.fire(KEEP_ALIVE_MS);
    const response = await asked;
    const { data } = parseEvents(await response.text());
    expect([response.status, JSON.parse(data[0] ?? "")]).toMatchObject([200, { error: { code: "queue_timeout" } }]);
  });

  test("ends none of eight users with prompts of 4,000 tokens, by default", async () => {
    const engine = await openTinyEngine(await persistentFolder(), {}, ENDLESS);
    onTestFinished(() => engine.dispose());
    const server = await listen(express().use(readMe({ engine })));
    onTestFinished(() => server[Symbol.asyncDispose]());
    const answers = await Promise.all(
      Array.from({ length: 8 }, async (_, user) => {
        const prompt = Array.from({ length: 4000 }, (_token, at) => 1 + ((at * (user + 3)) % 97));
        const response = await fetch(`${server.url}/v1/completions`, {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: JSON.stringify({ prompt, max_tokens: 2, ignore_eos: true, stream: true }),
        });
        return { status: response.status, ...parseEvents(await response.text()) };
      }),
    );
    for (const { status, data, comments } of answers) {
      expect([status, data.at(-1)]).toEqual([200, "[DONE]"]);
      expect(comments[0]).toBe("reading the prompt 0 of 4,000");
    }
  });
});
