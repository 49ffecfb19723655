// `prediction` of chats, and the counts of drafts in answers: with the pocket model, and over scripted engines.

import { ReadMeEngine } from "@readme-moe/engine";
import type { GenerateRequest } from "@readme-moe/core";
import { readMe } from "@readme-moe/express";
import express from "express";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { LIMITS } from "../../packages/express/src/limits.ts";
import { chatAnswer, chatChunk } from "../../packages/express/src/api/answer-schemas.ts";
import { writeChattingPocket } from "../support/chatting-pocket.ts";
import { complete } from "../support/complete.ts";
import { postJson, type JsonAnswer } from "../support/post-json.ts";
import { chunkOf, chunksInTurns, serveScripted, USAGE } from "../support/scripted-engine.ts";
import { listen, type RunningServer } from "../support/served-model.ts";
import { chunksOf } from "../support/sse.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const CONTEXT_TOKENS = 1024;
const messages = [{ role: "user", content: "The ship was" }] as const;
const request = { messages, max_tokens: 24, temperature: 0, ignore_eos: true } as const;

let engine: ReadMeEngine;
let server: RunningServer;
let right: string;

beforeAll(async () => {
  const path = join(await persistentFolder(), "pocket");
  await writeChattingPocket(path);
  engine = await ReadMeEngine.open(path, { precision: "fp32", threads: 2, isolation: "thread" });
  server = await listen(express().use(readMe.api({ engine })));
  const params = { maxTokens: 24, temperature: 0, ignoreEos: true };
  right = (await complete(engine, { prompt: { messages }, params })).text;
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await engine.dispose();
});

const chat = (more: object): Promise<JsonAnswer> =>
  postJson(`${server.url}/v1/chat/completions`, { ...request, ...more });
const expecting = (content: unknown): object => ({ prediction: { type: "content", content } });

/** Returns the choices of an answer, without the random ids of calls. */
const contents = (answer: JsonAnswer): string => JSON.stringify(answer.body["choices"]).replaceAll(/call_\w+/g, "");
const chatUrl = (url: string): string => url.replace("/v1/completions", "/v1/chat/completions");

interface Answered {
  readonly choices: readonly { readonly message: { readonly content: string } }[];
  readonly usage: Usages;
}
interface Usages {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
  readonly completion_tokens_details?: Readonly<Record<string, number>>;
}

/** Expects counts that can be: no more tokens are accepted than the answer has. */
function expectDrafts({ completion_tokens: tokens, completion_tokens_details: details }: Usages): void {
  expect(Object.keys(details ?? {})).toEqual(["accepted_prediction_tokens", "rejected_prediction_tokens"]);
  const { accepted_prediction_tokens: accepted = -1, rejected_prediction_tokens: rejected = -1 } = details ?? {};
  expect([Number.isSafeInteger(accepted), Number.isSafeInteger(rejected)]).toEqual([true, true]);
  expect(accepted).toBeGreaterThanOrEqual(0);
  expect(accepted).toBeLessThan(tokens);
  expect(rejected).toBeGreaterThanOrEqual(0);
}

describe("a prediction", () => {
  test.each<[string, () => unknown]>([
    ["is right", () => right],
    ["is right in several parts", () => [right.slice(0, 7), right.slice(7)].map((text) => ({ type: "text", text }))],
    ["begins right", () => `${right.slice(0, right.length / 2)} and something else`],
    ["is wrong", () => "0x1F 日本 🙂\u0000"],
    ["is empty", () => ""],
    ["has no parts", () => []],
    ["spells a control token", () => `${right}<|endoftext|>`],
    ["goes on for long", () => right.repeat(5)],
  ])("that %s changes no answer, and is counted apart from the prompt", async (_, content) => {
    const without = (await chat({})).body as unknown as Answered;
    expect(without.choices[0]?.message.content).toBe(right);
    const { status, body } = await chat(expecting(content()));
    expect(status).toBe(200);
    const { choices, usage } = chatAnswer.parse(body) as unknown as Answered;
    expect(choices[0]?.message.content).toBe(right);
    const { prompt_tokens, completion_tokens, total_tokens } = without.usage;
    expect(usage).toMatchObject({ prompt_tokens, completion_tokens, total_tokens });
    expectDrafts(usage);
  });

  test("of a stream is counted in its last chunk, which has the usage", async () => {
    const body = { ...request, ...expecting(right), stream: true, stream_options: { include_usage: true } };
    const response = await fetch(`${server.url}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    const chunks = chunksOf(await response.text());
    for (const chunk of chunks) chatChunk.parse(chunk);
    const text = chunks.map(({ choices }) => choices[0]?.delta?.content ?? "").join("");
    expect(text).toBe(right);
    const [last, ...before] = chunks.toReversed();
    expect(before.every(({ usage }) => usage === null)).toBe(true);
    expectDrafts(last?.usage as Usages);
  });

  test("is accepted beside every parameter, since it changes no answer", async () => {
    const schema = { type: "object", properties: { on: { type: "boolean" } }, required: ["on"] };
    const bound = { response_format: { type: "json_schema", json_schema: { name: "light", schema } } };
    const tool = { type: "function", function: { name: "light", parameters: schema } };
    const others = [
      { n: 3, seed: 1, temperature: 1 },
      { logprobs: true, top_logprobs: 3, presence_penalty: 1, frequency_penalty: 1 },
      { ...bound, ignore_eos: false },
      { tools: [tool], tool_choice: "required", ignore_eos: false },
    ];
    for (const more of others) {
      const [without, withIt] = [await chat(more), await chat({ ...more, ...expecting(right) })];
      expect(withIt.status).toBe(200);
      expect(contents(withIt)).toBe(contents(without));
    }
  });

  test.each<[string, unknown, string]>([
    ["a text alone", "text", "prediction"],
    ["a list", [{ type: "content", content: "x" }], "prediction"],
    ["an object without fields", {}, "prediction.type"],
    ["another type", { type: "text", content: "x" }, "prediction.type"],
    ["no content", { type: "content" }, "prediction.content"],
    ["null as content", { type: "content", content: null }, "prediction.content"],
    ["a number as content", { type: "content", content: 5 }, "prediction.content"],
    ["token ids as content", { type: "content", content: [5, 6] }, "prediction.content[0]"],
    ["an unknown field", { type: "content", content: "x", model: "y" }, "prediction.model"],
    ["a part without text", { type: "content", content: [{ type: "text" }] }, "prediction.content[0].text"],
    [
      "a part that is no text",
      { type: "content", content: [{ type: "image_url", image_url: { url: "data:" } }] },
      "prediction.content[0].type",
    ],
    [
      "very many parts",
      {
        type: "content",
        content: Array.from({ length: LIMITS.messageItems.value + 1 }, () => ({ type: "text", text: "" })),
      },
      "prediction.content",
    ],
    [
      "more tokens than the context has",
      { type: "content", content: " ship".repeat(CONTEXT_TOKENS + 1) },
      "prediction",
    ],
    ["far more text than that", { type: "content", content: "The ship was. ".repeat(100_000) }, "prediction"],
  ])("that is %s is refused by name", async (_, prediction, param) => {
    const { status, body } = await chat({ prediction });
    expect([status, body]).toMatchObject([400, { error: { param, type: "invalid_request_error" } }]);
    const { code, message } = (body as { error: { code: string; message: string } }).error;
    expect(["invalid_value", "unsupported_parameter", "missing_required_parameter"]).toContain(code);
    expect(message).toMatch(/prediction|Content parts of type 'image_url'/);
    // A stream is refused before it begins.
    expect(await chat({ prediction, stream: true })).toMatchObject({ status: 400, body });
    await expect.poll(() => engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0 });
  });

  test("may be as long as the context", async () => {
    const ids = await engine.tokenize(" ship".repeat(CONTEXT_TOKENS), { addSpecialTokens: false });
    expect(ids).toHaveLength(CONTEXT_TOKENS);
    expect(await chat(expecting(" ship".repeat(CONTEXT_TOKENS)))).toMatchObject({ status: 200 });
  });

  test("is no parameter of completions, as at OpenAI", async () => {
    const answer = await postJson(`${server.url}/v1/completions`, { prompt: "x", max_tokens: 1, ...expecting("y") });
    expect(answer).toMatchObject({
      status: 400,
      body: { error: { param: "prediction", code: "unsupported_parameter" } },
    });
  });
});

describe("over a scripted engine", () => {
  const end = { finishReason: "length", usage: { ...USAGE, acceptedDraftTokens: 2, rejectedDraftTokens: 5 } } as const;

  test("the parts of a prediction reach the engine as one text", async () => {
    const seen: (GenerateRequest["prediction"] | null)[] = [];
    const url = await serveScripted({
      async *answer({ prediction = null }) {
        seen.push(prediction);
        yield chunkOf(0, "a", { finishReason: "length", usage: USAGE });
      },
    });
    const parts = ["one", "", " two\n"].map((text) => ({ type: "text", text }));
    for (const more of [{}, { prediction: null }, expecting("one two"), expecting(parts)]) {
      expect(await postJson(chatUrl(url), { messages, ...more })).toMatchObject({ status: 200 });
    }
    expect(seen).toEqual([null, null, "one two", "one two\n"]);
  });

  test("drafts are in the usage and the timings of both APIs, also without a prediction", async () => {
    const url = await serveScripted(chunksInTurns(chunkOf(0, "a"), chunkOf(0, "b", end)));
    const timed = { read_me: { include: ["timings"] } };
    for (const [path, body] of [
      [url, { prompt: "x", ...timed }],
      [chatUrl(url), { messages, ...timed }],
    ] as const) {
      const answer = (await postJson(path, body)).body;
      expect(answer["usage"]).toEqual({
        prompt_tokens: 10,
        completion_tokens: 3,
        total_tokens: 13,
        prompt_tokens_details: { cached_tokens: 4 },
        completion_tokens_details: { accepted_prediction_tokens: 2, rejected_prediction_tokens: 5 },
      });
      expect(answer["timings"]).toMatchObject({ draft_n: 7, draft_n_accepted: 2 });
    }
  });

  test("drafts are summed over prompts", async () => {
    const url = await serveScripted({
      async *answer() {
        yield chunkOf(0, "a", end);
      },
    });
    const { body } = await postJson(url, { prompt: ["x", "y", "z"] });
    expect(body["usage"]).toMatchObject({
      completion_tokens_details: { accepted_prediction_tokens: 6, rejected_prediction_tokens: 15 },
    });
  });

  test("an answer without drafts has no numbers of them, unless its request has a prediction", async () => {
    const url = await serveScripted(chunksInTurns(chunkOf(0, "a", { finishReason: "length", usage: USAGE })));
    const timed = { read_me: { include: ["timings"] } };
    const { usage, timings } = (await postJson(chatUrl(url), { messages, ...timed })).body;
    expect(usage).not.toHaveProperty("completion_tokens_details");
    expect(timings).not.toHaveProperty("draft_n");
    const predicted = (await postJson(chatUrl(url), { messages, ...timed, ...expecting("x") })).body;
    const zero = { accepted_prediction_tokens: 0, rejected_prediction_tokens: 0 };
    expect(predicted["usage"]).toMatchObject({ completion_tokens_details: zero });
    expect(predicted["timings"]).not.toHaveProperty("draft_n");
  });

  test("the caller's other mistakes are not those of the prediction", async () => {
    const url = await serveScripted({
      answer: () => {
        throw new RangeError("Expected `prompt` to hold at least one token, got none");
      },
    });
    const { status, body } = await postJson(chatUrl(url), { messages, ...expecting("x") });
    expect([status, body]).toMatchObject([400, { error: { param: "messages" } }]);
  });
});
