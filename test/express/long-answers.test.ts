// Answers with many log-probabilities: kept as text, sent in pieces, and their bytes reserved.

import { join } from "node:path";
import type { Engine, EngineInfo } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { Admission, readMe, type Entrant } from "@readme-moe/express";
import express from "express";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { JsonList, jsonParts } from "../../packages/express/src/http/reply.ts";
import * as fc from "../support/fast-check.ts";
import { outcomeOf, startNode } from "../support/node-process.ts";
import { postJson } from "../support/post-json.ts";
import { chunksInTurns, scriptedEngine } from "../support/scripted-engine.ts";
import { listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { parseEvents } from "../support/sse.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

describe("a list of JSON", () => {
  const items = fc.array(fc.jsonValue(), { maxLength: 6 });

  test("is written as the items that were added, alone and within other values", () => {
    fc.assert(
      fc.property(fc.array(fc.array(items, { maxLength: 4 }), { maxLength: 4 }), fc.jsonValue(), (lists, beside) => {
        const made = lists.map((parts) => {
          const list = new JsonList<unknown>();
          for (const [index, part] of parts.entries()) {
            const other = new JsonList<unknown>();
            other.push(...part);
            if (index % 2 === 0) list.append(other);
            else list.push(...part);
          }
          return list;
        });
        const body = { beside, made, deep: { made, text: "[]" } };
        const plain = JSON.stringify({
          beside,
          made: lists.map((parts) => parts.flat()),
          deep: { made: lists.map((parts) => parts.flat()), text: "[]" },
        });
        expect(Buffer.concat(jsonParts(body)).toString()).toBe(plain);
        expect(JSON.stringify(body)).toBe(plain);
        for (const [index, list] of made.entries()) {
          expect(list.bytes).toBe(Buffer.byteLength(JSON.stringify(lists[index]?.flat())));
        }
      }),
    );
  });

  test("grows in few pieces", () => {
    const list = new JsonList<string>();
    const item = "x".repeat(100);
    for (let count = 0; count < 100_000; count++) list.push(item);
    expect(list.bytes).toBe(2 + 100_000 * 103 - 1);
    expect(list.parts().length).toBeLessThan(700);
  });
});

test("a server with 64 MB of memory sends answers whose objects would take more, and writes none at once", async () => {
  const program = join(import.meta.dirname, "..", "support", "programs", "long-answers.ts");
  const { code, stdout } = await outcomeOf(
    startNode([program, "12", "500"], { env: { NODE_OPTIONS: "--max-old-space-size=64" } }),
  );
  const paths = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/responses"];
  const expected = paths.map((path) => ({ path, status: 200, isWhole: true, isShort: true, reserved: 0 }));
  expect([
    code,
    stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as unknown),
  ]).toStrictEqual([0, expected]);
});

const opened = (): Admission => new Admission({ maxBytes: 1000, maxClientShare: 0.8 });

test.each([
  ["/v1/embeddings", { encoding_format: "float" }],
  ["/api/embed", {}],
])("embeddings of %s are written one at a time", async (path, more) => {
  const [numTexts, dimensions] = [64, 512];
  const values = Array.from({ length: numTexts }, (_, text) =>
    Float32Array.from({ length: dimensions }, (_item, index) => Math.fround(Math.sin(text + index))),
  );
  const embedding = { dimensions, prompts: {} } as EngineInfo["embedding"];
  const engine: Engine = {
    ...scriptedEngine({ ...chunksInTurns(), info: { task: "embed", ...(embedding && { embedding }) } }),
    embed: async () => ({ embeddings: values, usage: { promptTokens: numTexts, cachedTokens: 0, queuedMs: 0 } }),
  };
  await using server = await listen(express().use(readMe.api({ models: { vectors: engine }, ollama: true })));
  const { stringify } = JSON;
  let longest = 0;
  onTestFinished(() => void (JSON.stringify = stringify));
  const body = stringify({ model: "vectors", input: values.map(() => "x"), ...more });
  JSON.stringify = new Proxy(stringify, {
    apply(target, self, args) {
      const text: unknown = Reflect.apply(target, self, args);
      if (typeof text === "string") longest = Math.max(longest, text.length);
      return text;
    },
  });
  const headers = { "content-type": "application/json" };
  const response = await fetch(`${server.url}${path}`, { method: "POST", headers, body });
  const text = await response.text();
  const answer = JSON.parse(text) as {
    readonly data?: readonly { readonly embedding: readonly number[] }[];
    readonly embeddings?: readonly (readonly number[])[];
  };
  const got = answer.embeddings ?? answer.data?.map((one) => one.embedding);
  expect(got).toStrictEqual(values.map((one) => Array.from(one)));
  expect(longest * 10).toBeLessThan(text.length);
});

describe("admission", () => {
  const { signal } = new AbortController();
  const entrant = (more: Partial<Entrant> = {}): Entrant => ({
    bytes: 100,
    maxCompletionTokens: 1,
    choices: 1,
    key: undefined,
    client: "ann",
    priority: 0,
    signal,
    ...more,
  });
  test("reserves the bytes of an answer, gives back what it does not take, and releases the rest", () => {
    const admission = opened();
    const ticket = admission.enter(entrant({ answerBytes: 500 }));
    expect(admission.stats.bytes).toBe(600);
    ticket.kept(200);
    expect(admission.stats.bytes).toBe(600);
    ticket.kept(550);
    expect(admission.stats.bytes).toBe(650);
    ticket.kept(300, true);
    expect(admission.stats.bytes).toBe(400);
    ticket.release();
    ticket.kept(10, true);
    expect(admission.stats).toMatchObject({ requests: 0, tokens: 0, bytes: 0 });
  });

  test("refuses a second answer that has no room beside the first", () => {
    const admission = opened();
    admission.enter(entrant({ answerBytes: 500 }));
    expect(() => admission.enter(entrant({ answerBytes: 200 }))).toThrow(expect.objectContaining({ status: 429 }));
    expect(() => admission.enter(entrant({ client: "bob", answerBytes: 400 }))).toThrow(
      expect.objectContaining({ status: 503 }),
    );
    admission.enter(entrant({ client: "bob", answerBytes: 250 }));
    expect(admission.stats.bytes).toBe(950);
  });

  test("leaves others their share, however large an answer may become", () => {
    const admission = opened();
    admission.enter(entrant({ answerBytes: 1_000_000 }));
    expect(admission.stats.bytes).toBe(800);
    admission.enter(entrant({ client: "bob" }));
    expect(admission.stats.bytes).toBe(900);
  });

  test("ends an answer that outgrows the limit of bytes", () => {
    const ticket = opened().enter(entrant({ answerBytes: 10 }));
    ticket.kept(900);
    expect(() => ticket.kept(901)).toThrow(expect.objectContaining({ status: 413, code: "answer_too_large" }));
  });
});

describe("over HTTP", () => {
  let engine: ReadMeEngine;
  let server: RunningServer;
  const admission = new Admission({ maxBytes: 100_000 });

  beforeAll(async () => {
    engine = await openTinyEngine(await persistentFolder());
    server = await listen(express().use(readMe.api({ engine, admission })));
  });
  afterAll(async () => {
    await server[Symbol.asyncDispose]();
    await engine.dispose();
  });

  const messages = [{ role: "user", content: "Hello" }];
  const greedy = { temperature: 0, ignore_eos: true };
  const chat = { messages, n: 2, max_tokens: 12, logprobs: true, top_logprobs: 3, ...greedy };
  const completion = { prompt: ["Hello", "x"], n: 2, max_tokens: 12, logprobs: 3, ...greedy };
  const eventsOf = async (path: string, body: object): Promise<readonly unknown[]> => {
    const response = await fetch(`${server.url}${path}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...body, stream: true }),
    });
    return parseEvents(await response.text()).data.map((data) =>
      data === "[DONE]" ? data : (JSON.parse(data) as unknown),
    );
  };
  interface Chunk {
    readonly index: number;
    readonly logprobs: Readonly<Record<string, readonly unknown[] | null>> | null;
  }
  /** Joins the log-probabilities of a stream's chunks. */
  const streamed = async (path: string, body: object): Promise<readonly object[]> => {
    const joined: Record<string, unknown[]>[] = [];
    for (const data of await eventsOf(path, body)) {
      if (data === "[DONE]") continue;
      for (const { index, logprobs } of (data as { readonly choices: readonly Chunk[] }).choices) {
        const own = (joined[index] ??= {});
        for (const [name, list] of Object.entries(logprobs ?? {})) if (list) (own[name] ??= []).push(...list);
      }
    }
    return joined;
  };

  test("whole answers have the log-probabilities of the chunks of a stream", async () => {
    const whole = await postJson(`${server.url}/v1/chat/completions`, chat);
    const parts = await streamed("/v1/chat/completions", chat);
    const choices = whole.body["choices"] as readonly Chunk[];
    expect(choices.map(({ logprobs }) => logprobs)).toStrictEqual(parts.map((one) => ({ ...one, refusal: null })));
    expect(choices[1]?.logprobs?.["content"]).toHaveLength(12);
    const completions = await postJson(`${server.url}/v1/completions`, completion);
    const pieces = await streamed("/v1/completions", completion);
    const all = completions.body["choices"] as readonly Chunk[];
    expect(all.map(({ logprobs }) => logprobs)).toStrictEqual(pieces);
    expect(all).toHaveLength(4);
    expect(admission.stats).toMatchObject({ requests: 0, bytes: 0 });
  });

  test("a response has the log-probabilities of its deltas, whole, streamed and kept", async () => {
    const body = { input: "Hello", max_output_tokens: 16, top_logprobs: 3, temperature: 0 };
    const events = (await eventsOf("/v1/responses", body)) as readonly {
      readonly type: string;
      readonly [field: string]: unknown;
    }[];
    const deltas = events.filter(({ type }) => type === "response.output_text.delta");
    const logprobs = deltas.flatMap((delta) => delta["logprobs"] as readonly unknown[]);
    const [done] = events.filter(({ type }) => type === "response.output_text.done");
    expect(done?.["logprobs"]).toStrictEqual(logprobs);
    const last = events.at(-1)?.["response"] as { readonly id: string; readonly output: readonly unknown[] };
    expect(last.output).toMatchObject([{ content: [{ type: "output_text", logprobs }] }]);
    const kept = (await (await fetch(`${server.url}/v1/responses/${last.id}`)).json()) as object;
    expect(kept).toStrictEqual(last);
    const whole = await postJson(`${server.url}/v1/responses`, body);
    expect(whole.body["output"]).toMatchObject([{ content: [{ type: "output_text", logprobs }] }]);
    expect(logprobs.length).toBeGreaterThan(3);
  });

  test.each([
    ["/v1/chat/completions", { ...chat, n: 128, max_tokens: 20 }, "top_logprobs"],
    ["/v1/completions", { ...completion, n: 64, max_tokens: 20 }, "logprobs"],
    ["/v1/responses", { input: "Hello", max_output_tokens: 250, top_logprobs: 20 }, "top_logprobs"],
  ])("log-probabilities of %s that the server has no room for are refused by name", async (path, body, param) => {
    const { status, body: answer } = await postJson(`${server.url}${path}`, body);
    expect([status, answer]).toMatchObject([400, { error: { code: "invalid_value", param } }]);
  });

  test("a request that names no limit is answered as far as there is room", async () => {
    // Seven choices of 16 tokens, which take less than the estimate.
    const { prompt, ...unnamed } = { prompt: "Hello", n: 7, logprobs: 20, temperature: 0, ignore_eos: true };
    const short = await postJson(`${server.url}/v1/completions`, { prompt, ...unnamed });
    expect([short.status, (short.body["choices"] as readonly unknown[]).length]).toStrictEqual([200, 7]);
    const long = { messages, logprobs: true, top_logprobs: 20, temperature: 0, ignore_eos: true };
    const { status, body } = await postJson(`${server.url}/v1/chat/completions`, long);
    expect([status, body]).toMatchObject([413, { error: { code: "answer_too_large" } }]);
    expect(admission.stats).toMatchObject({ requests: 0, bytes: 0 });
  });

  test("a stream of chunks keeps nothing, and is answered", async () => {
    const events = await eventsOf("/v1/chat/completions", { ...chat, n: 128, max_tokens: 20 });
    expect(events.at(-1)).toBe("[DONE]");
  });
});
