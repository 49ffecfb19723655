// Answers of each route, compared with direct calls of the engine.

import type { ReadMeEngine } from "@readme-moe/engine";
import express from "express";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readMe } from "../support/border.ts";
import { completeAll } from "../support/complete.ts";
import { postJson, type JsonAnswer } from "../support/post-json.ts";
import { listen, openTinyEngine, TINY_CONTEXT_TOKENS, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
let engine: ReadMeEngine;
let server: RunningServer;

beforeAll(async () => {
  // Drafts have counts of their own in usage (prediction.test.ts).
  engine = await openTinyEngine(folder, { speculation: false });
  const app = express();
  app.use(readMe.api({ engine, maxBodyBytes: 65_536 }));
  server = await listen(app);
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await engine.dispose();
});

const post = (path: string, body: unknown): Promise<JsonAnswer> => postJson(`${server.url}${path}`, body);
const messages = [{ role: "user", content: "Hello there" }] as const;
const greedy = { temperature: 0, ignore_eos: true } as const;

describe("chat completions", () => {
  test("answer with the text, the finish reason and the usage", async () => {
    const { choices, usage } = await completeAll(engine, {
      prompt: { messages },
      params: { temperature: 0, maxTokens: 6, ignoreEos: true },
    });
    const { status, headers, body } = await post("/v1/chat/completions", { messages, max_tokens: 6, ...greedy });
    expect(status).toBe(200);
    expect(headers.get("content-type")).toBe("application/json; charset=utf-8");
    expect(headers.get("openai-processing-ms")).toMatch(/^\d+$/);
    expect(headers.get("x-request-id")).toMatch(/^[\w-]{36}$/);
    const promptTokens = usage?.promptTokens ?? -1;
    expect(body).toEqual({
      id: expect.stringMatching(/^chatcmpl-[\w-]{36}$/) as unknown,
      object: "chat.completion",
      created: expect.closeTo(Date.now() / 1000, -2) as unknown,
      model: "tiny",
      system_fingerprint: "readme-moe-fp32",
      choices: [
        {
          index: 0,
          message: { role: "assistant", content: choices[0]?.text, refusal: null },
          logprobs: null,
          finish_reason: "length",
        },
      ],
      usage: {
        prompt_tokens: promptTokens,
        completion_tokens: 6,
        total_tokens: promptTokens + 6,
        prompt_tokens_details: { cached_tokens: 0 },
      },
    });
  });

  test("echo the client's request id unless it could break a header", async () => {
    const body = { messages, max_tokens: 1 };
    const withId = async (id: string): Promise<string | null> => {
      const answer = await postJson(`${server.url}/v1/chat/completions`, body, { "x-request-id": id });
      return answer.headers.get("x-request-id");
    };
    expect(await withId("my-id.7")).toBe("my-id.7");
    expect(await withId("x".repeat(500))).toMatch(/^[\w-]{36}$/);
  });

  test("have the requested number of choices, equal for equal seeds", async () => {
    const params = { n: 3, seed: 5, temperature: 1, maxTokens: 5, ignoreEos: true };
    const { choices } = await completeAll(engine, { prompt: { messages }, params });
    const request = { messages, n: 3, seed: 5, temperature: 1, max_completion_tokens: 5, ignore_eos: true };
    const { body } = await post("/v1/chat/completions", request);
    expect(contents(body)).toEqual(choices.map(({ text }) => text));
    expect(new Set(contents(body)).size).toBe(3);
  });

  test("end before a stop string", async () => {
    const whole = contents((await post("/v1/chat/completions", { messages, max_tokens: 8, ...greedy })).body)[0] ?? "";
    const stop = whole.slice(3, 6);
    const { body } = await post("/v1/chat/completions", { messages, max_tokens: 8, ...greedy, stop: [stop] });
    expect(contents(body)).toEqual([whole.slice(0, whole.indexOf(stop))]);
    expect(body).toMatchObject({ choices: [{ finish_reason: "stop" }] });
  });

  test("contain log-probabilities with the bytes of each token", async () => {
    const params = { temperature: 0, maxTokens: 4, ignoreEos: true, logprobs: 3 };
    const { choices } = await completeAll(engine, { prompt: { messages }, params });
    const request = { messages, max_tokens: 4, ...greedy, logprobs: true, top_logprobs: 3 };
    const { body } = await post("/v1/chat/completions", request);
    expect(body).toMatchObject({
      choices: [
        {
          logprobs: {
            content: choices[0]?.tokens.map(({ logprob = 1, topLogprobs = [] }) => ({
              ...entry(topLogprobs[0]?.text ?? "", logprob),
              top_logprobs: topLogprobs.map((top) => entry(top.text, top.logprob)),
            })),
          },
        },
      ],
    });
    const bare = await post("/v1/chat/completions", { messages, max_tokens: 1, logprobs: true });
    expect(bare.body).toMatchObject({ choices: [{ logprobs: { content: [{ top_logprobs: [] }], refusal: null } }] });
  });

  test("accept text parts, and the developer role as system", async () => {
    const parts = [
      { role: "developer", content: "Be brief" },
      { role: "user", content: [{ type: "text", text: "Hello there" }] },
    ];
    const plain = [{ role: "system", content: "Be brief" }, ...messages];
    const [a, b] = await Promise.all(
      [parts, plain].map((given) => post("/v1/chat/completions", { messages: given, max_tokens: 4, ...greedy })),
    );
    expect(contents(a?.body)).toEqual(contents(b?.body));
  });

  test("contain routes and timings on request", async () => {
    const { experts } = await engine.route({ messages });
    const include = ["routes", "timings"];
    const { body } = await post("/v1/chat/completions", { messages, max_tokens: 3, ...greedy, read_me: { include } });
    const { tokens } = (
      await completeAll(engine, { prompt: { messages }, params: { temperature: 0, maxTokens: 3, ignoreEos: true } })
    ).choices[0] ?? { tokens: [] };
    expect(body).toMatchObject({
      choices: [{ read_me: { routes: tokens.map(({ expert }) => expert ?? null) } }],
      read_me: {
        experts: engine.info.experts,
        prompt_routes: [Array.from(experts)],
        timings: { queue_ms: expect.any(Number) as unknown, prefill_ms: expect.any(Number) as unknown },
      },
      timings: { prompt_n: experts.length, predicted_n: 3, cache_n: 0 },
    });
    const forced = { messages, max_tokens: 3, read_me: { expert: "domain-1", include: ["routes"] } };
    expect((await post("/v1/chat/completions", forced)).body).toMatchObject({
      choices: [{ read_me: { routes: [1, 1, null] } }],
      read_me: { prompt_routes: [Array.from(experts, () => 1)] },
    });
  });

  test("count cached tokens", async () => {
    const long = [{ role: "user", content: "word ".repeat(140) }];
    const request = { messages: long, max_tokens: 1, read_me: { include: ["timings"] } };
    await post("/v1/chat/completions", request);
    const { body } = await post("/v1/chat/completions", request);
    const { usage, timings } = body as unknown as Record<string, Record<string, number>>;
    expect(usage).toMatchObject({ prompt_tokens_details: { cached_tokens: 144 } });
    expect(timings?.["cache_n"]).toBe(144);
    expect(timings?.["prompt_n"]).toBe((usage?.["prompt_tokens"] ?? 0) - 144);
  });
});

describe("completions", () => {
  const kinds: readonly [string, (prompts: readonly string[]) => Promise<unknown>][] = [
    ["a text", async ([text]) => text],
    ["texts", async (prompts) => prompts],
    ["token ids", async ([text]) => Array.from(await engine.tokenize(text ?? ""))],
    [
      "lists of token ids",
      (prompts) => Promise.all(prompts.map(async (text) => Array.from(await engine.tokenize(text)))),
    ],
  ];
  test.each(kinds)("continue %s with numbered choices", async (_, promptOf) => {
    const prompt = await promptOf(["The ship", "Once upon"]);
    const prompts = Array.isArray(prompt) && typeof prompt[0] !== "number" ? ["The ship", "Once upon"] : ["The ship"];
    const { body } = await post("/v1/completions", { prompt, n: 2, seed: 9, max_tokens: 4, ignore_eos: true });
    const expected = await Promise.all(
      prompts.map((text) =>
        completeAll(engine, { prompt: text, params: { n: 2, seed: 9, maxTokens: 4, ignoreEos: true } }),
      ),
    );
    const continued = expected.flatMap(({ choices }) => choices.map(({ text }) => text));
    expect(body["choices"]).toEqual(
      continued.map((text, index) => ({ index, text, logprobs: null, finish_reason: "length" })),
    );
    const count = (pick: (usage: { promptTokens: number; completionTokens: number }) => number): number =>
      expected.reduce((sum, { usage }) => sum + (usage ? pick(usage) : 0), 0);
    expect(body).toMatchObject({
      object: "text_completion",
      usage: {
        prompt_tokens: count((one) => one.promptTokens),
        completion_tokens: count((one) => one.completionTokens),
      },
    });
  });

  test("have 16 tokens by default, and begin with the prompt on request", async () => {
    const { body } = await post("/v1/completions", { prompt: "The ship", echo: true, ...greedy });
    expect(body).toMatchObject({ usage: { completion_tokens: 16 } });
    const plain = await post("/v1/completions", { prompt: "The ship", ...greedy });
    expect(texts(body)).toEqual(texts(plain.body).map((text) => `The ship${text}`));
  });

  test("contain log-probabilities in the shape of completions", async () => {
    const params = { temperature: 0, maxTokens: 3, ignoreEos: true, logprobs: 2 };
    const { choices } = await completeAll(engine, { prompt: "The ship", params });
    const { body } = await post("/v1/completions", { prompt: "The ship", max_tokens: 3, ...greedy, logprobs: 2 });
    const tokens = choices[0]?.tokens ?? [];
    const pieces = tokens.map(({ topLogprobs = [] }) => topLogprobs[0]?.text ?? "");
    expect(body["choices"]).toMatchObject([
      {
        logprobs: {
          tokens: pieces,
          token_logprobs: tokens.map(({ logprob }) => logprob),
          top_logprobs: tokens.map(({ topLogprobs = [] }) =>
            Object.fromEntries(topLogprobs.map(({ text, logprob }) => [text, logprob])),
          ),
          text_offset: pieces.map((_, index) => pieces.slice(0, index).join("").length),
        },
      },
    ]);
  });

  test("accept the requests of benchmark programs", async () => {
    const request = {
      prompt: "The ship",
      max_tokens: 2,
      repetition_penalty: 1,
      logprobs: null,
      stream: false,
      top_k: -1,
    };
    expect(await post("/v1/completions", request)).toMatchObject({ status: 200 });
  });
});

describe("other routes", () => {
  test("list models with the fields that benchmark programs read", async () => {
    const model = {
      id: "tiny",
      object: "model",
      owned_by: "readme-moe",
      root: "tiny",
      max_model_len: TINY_CONTEXT_TOKENS,
    };
    const list = await (await fetch(`${server.url}/v1/models`)).json();
    expect(list).toMatchObject({ object: "list", data: [model] });
    expect(await (await fetch(`${server.url}/v1/models/tiny`)).json()).toMatchObject(model);
    const missing = await fetch(`${server.url}/v1/models/org/other`);
    expect(missing.status).toBe(404);
    expect(await missing.json()).toMatchObject({ error: { code: "model_not_found", param: "model" } });
  });

  test("tokenize texts and chats, and detokenize them", async () => {
    const ids = Array.from(await engine.tokenize("Hello there"));
    expect((await post("/tokenize", { prompt: "Hello there" })).body).toEqual({
      count: ids.length,
      max_model_len: TINY_CONTEXT_TOKENS,
      tokens: ids,
    });
    const { tokenIds } = await engine.route({ messages });
    expect((await post("/tokenize", { messages })).body).toMatchObject({ tokens: Array.from(tokenIds) });
    expect((await post("/detokenize", { tokens: ids })).body).toEqual({ prompt: "Hello there" });
  });

  test("refuse other methods", async () => {
    const answer = await fetch(`${server.url}/v1/chat/completions`);
    expect([answer.status, answer.headers.get("allow")]).toEqual([405, "POST"]);
    expect(await answer.json()).toMatchObject({ error: { type: "invalid_request_error", code: "method_not_allowed" } });
    const options = await fetch(`${server.url}/v1/models`, { method: "OPTIONS" });
    expect([options.status, options.headers.get("allow")]).toEqual([204, "GET, HEAD"]);
    expect((await fetch(`${server.url}/v1/models`, { method: "HEAD" })).status).toBe(200);
    expect((await fetch(`${server.url}/v1/models/%E0%A4`)).status).toBe(400);
    const nothing = await fetch(`${server.url}/v1/images`);
    expect([nothing.status, await nothing.json()]).toMatchObject([404, { error: { code: "unknown_url" } }]);
    // Paths outside the API are left to the app.
    expect(await (await fetch(`${server.url}/elsewhere`)).text()).toContain("Cannot GET /elsewhere");
  });

  test("accept only JSON up to the size limit", async () => {
    const url = `${server.url}/v1/completions`;
    const form = await fetch(url, { method: "POST", body: new URLSearchParams({ prompt: "x" }) });
    expect([form.status, await form.json()]).toMatchObject([415, { error: { code: "unsupported_media_type" } }]);
    expect((await fetch(url, { method: "POST" })).status).toBe(415);
    const empty = await fetch(url, { method: "POST", headers: { "content-type": "application/json" } });
    expect([empty.status, await empty.json()]).toMatchObject([400, { error: { type: "invalid_request_error" } }]);
    const large = await post("/v1/completions", { prompt: "x".repeat(70_000) });
    expect(large).toMatchObject({ status: 413, body: { error: { code: "request_too_large" } } });
    const zipped = await postJson(url, { prompt: "x" }, { "content-encoding": "zip" });
    expect(zipped.status).toBe(415);
  });
});

function entry(token: string, logprob: number): object {
  return { token, logprob, bytes: [...Buffer.from(token)] };
}

function contents(body: unknown): readonly string[] {
  const { choices } = body as { choices: readonly { message: { content: string } }[] };
  return choices.map(({ message }) => message.content);
}

function texts(body: unknown): readonly string[] {
  return (body as { choices: readonly { text: string }[] }).choices.map(({ text }) => text);
}
