// Unmodified clients: the OpenAI SDK and the AI SDK from npm. `EXPRESS_MODEL=<folder>` replaces the tiny model.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import type { ReadMeEngine } from "@readme-moe/engine";
import { readMe } from "@readme-moe/express";
import { generateText, streamText } from "ai";
import express from "express";
import OpenAI, { APIError, APIUserAbortError, BadRequestError, InternalServerError, NotFoundError } from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { complete, completeAll } from "../support/complete.ts";
import {
  ENDLESS,
  ENDLESS_TOKENS,
  listen,
  openClientsEngine,
  openTinyEngine,
  type RunningServer,
} from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
let engine: ReadMeEngine;
let server: RunningServer;
let openai: OpenAI;

beforeAll(async () => {
  engine = await openClientsEngine(folder, ENDLESS);
  const app = express();
  app.use(readMe({ models: { tiny: engine }, keys: { ann: "secret" } }));
  server = await listen(app);
  openai = new OpenAI({ apiKey: "secret", baseURL: `${server.url}/v1`, maxRetries: 0 });
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await engine.dispose();
});

const messages = [{ role: "user" as const, content: "Hello there" }];

/** Returns the continuation of the chat by the engine itself. */
async function right(params: object): Promise<string> {
  return (await complete(engine, { prompt: { messages }, params })).text;
}

describe("the OpenAI SDK", () => {
  const model = "tiny";

  test("receives the engine's answer to a chat", async () => {
    const answer = await openai.chat.completions.create({ model, messages, max_tokens: 20, temperature: 0 });
    expect(answer.choices[0]?.message.content).toBe(await right({ maxTokens: 20, temperature: 0 }));
    // oxlint-disable-next-line no-underscore-dangle -- the SDK names it so
    expect(answer._request_id).toMatch(/^[\w-]{36}$/);
    expect(answer.usage?.prompt_tokens_details?.cached_tokens).toBe(0);
  });

  test("joins the pieces of a stream to the engine's answer", async () => {
    // An answer that ends at once would have no pieces.
    const bias = Object.fromEntries((await engine.vocabulary()).eosTokenIds.map((id) => [id, -100]));
    const request = { model, messages, max_tokens: 20, seed: 4, temperature: 1, logit_bias: bias } as const;
    const runner = openai.chat.completions.stream({ ...request, stream_options: { include_usage: true } });
    const pieces: string[] = [];
    runner.on("content", (piece) => pieces.push(piece));
    const whole = await runner.finalChatCompletion();
    expect(whole.choices[0]?.message.content).toBe(
      await right({ maxTokens: 20, seed: 4, temperature: 1, logitBias: bias }),
    );
    expect(pieces.join("")).toBe(whole.choices[0]?.message.content);
    expect(whole.usage?.completion_tokens).toBeGreaterThan(1);
  });

  test("sends a prediction, and receives the same answer with counts of drafts", async () => {
    const asked = { model, messages, max_tokens: 20, temperature: 0 } as const;
    const content = await right({ maxTokens: 20, temperature: 0 });
    for (const prediction of [content, [{ type: "text" as const, text: content }], "something else"]) {
      const answer = await openai.chat.completions.create({
        ...asked,
        prediction: { type: "content", content: prediction },
      });
      expect(answer.choices[0]?.message.content).toBe(content);
      const details = answer.usage?.completion_tokens_details;
      expect(details?.accepted_prediction_tokens).toBeGreaterThanOrEqual(0);
      expect(details?.rejected_prediction_tokens).toBeGreaterThanOrEqual(0);
    }
  });

  test("receives several choices with log-probabilities", async () => {
    const request = {
      model,
      messages,
      n: 3,
      seed: 4,
      temperature: 1,
      max_completion_tokens: 3,
      logprobs: true,
      top_logprobs: 2,
    } as const;
    const { choices } = await openai.chat.completions.create(request);
    const expected = await completeAll(engine, { prompt: { messages }, params: { n: 3, seed: 4, maxTokens: 3 } });
    expect(choices.map(({ message }) => message.content)).toEqual(expected.choices.map(({ text }) => text));
    for (const { logprobs } of choices)
      for (const one of logprobs?.content ?? []) expect(one.top_logprobs).toHaveLength(2);
  });

  test("receives answers that end at stop strings", async () => {
    const whole = await right({ maxTokens: 20, temperature: 0 });
    const stop = whole.slice(6, 10);
    const request = { model, messages, max_tokens: 20, temperature: 0, stop: [stop, "\n\n\n"] };
    const { choices } = await openai.chat.completions.create(request);
    expect(choices[0]).toMatchObject({
      message: { content: whole.slice(0, whole.indexOf(stop)) },
      finish_reason: "stop",
    });
  });

  test("receives the same completions whole and as a stream", async () => {
    const request = { model, prompt: ["The ship", "Once"], max_tokens: 6, temperature: 0, logprobs: 1 };
    const { choices } = await openai.completions.create(request);
    const streamed = ["", ""];
    for await (const chunk of await openai.completions.create({ ...request, stream: true })) {
      for (const { index, text } of chunk.choices) streamed[index] += text;
    }
    expect(streamed).toEqual(choices.map(({ text }) => text));
    expect(choices[0]?.logprobs?.tokens?.join("")).toBe(choices[0]?.text);
  });

  test("lists and shows models", async () => {
    const ids: string[] = [];
    for await (const { id } of openai.models.list()) ids.push(id);
    expect(ids).toEqual(["tiny"]);
    expect(await openai.models.retrieve("tiny")).toMatchObject({ id: "tiny", object: "model" });
    await expect(openai.models.retrieve("gpt")).rejects.toThrow(NotFoundError);
  });

  test("frees the engine when it aborts a request", async () => {
    const finished = new Promise<string>((resolve) =>
      engine.events.once("sequence:finished", ({ reason }) => resolve(reason)),
    );
    const request = { model, messages, max_tokens: ENDLESS_TOKENS, logit_bias: { 0: -100 } } as const;
    const stream = await openai.chat.completions.create({ ...request, stream: true });
    for await (const _ of stream) stream.controller.abort();
    expect(await finished).toBe("abort");
    expect(await engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
    const controller = new AbortController();
    const asked = openai.chat.completions.create(request, { signal: controller.signal });
    engine.events.once("token:generated", () => controller.abort());
    await expect(asked).rejects.toThrow(APIUserAbortError);
  });

  test("maps errors to its own classes", async () => {
    const wrong = openai.chat.completions.create({ model, messages, temperature: 9 });
    const error = await wrong.then(undefined, (reason: unknown) => reason);
    expect(error).toBeInstanceOf(BadRequestError);
    expect(error).toMatchObject({
      status: 400,
      param: "temperature",
      code: "invalid_value",
      type: "invalid_request_error",
    });
    await expect(openai.chat.completions.create({ model: "gpt", messages })).rejects.toThrow(NotFoundError);
    const stranger = new OpenAI({ apiKey: "wrong", baseURL: `${server.url}/v1`, maxRetries: 0 });
    await expect(stranger.models.list()).rejects.toMatchObject({ status: 401, code: "invalid_api_key" });
  });

  test("throws while it reads a stream whose engine fails", async () => {
    const doomed = await openTinyEngine(`${folder}/doomed`, {}, ENDLESS);
    const app = express();
    app.use(readMe({ models: { doomed } }));
    await using other = await listen(app);
    const client = new OpenAI({ apiKey: "x", baseURL: `${other.url}/v1`, maxRetries: 0 });
    const stream = await client.chat.completions.create({
      model: "doomed",
      messages,
      max_tokens: ENDLESS_TOKENS,
      stream: true,
      logit_bias: { 0: -100 },
    });
    doomed.kill();
    const reading = (async () => {
      for await (const _ of stream);
    })();
    await expect(reading).rejects.toThrow(APIError);
    const after = client.chat.completions.create({ model: "doomed", messages });
    await expect(after).rejects.toThrow(InternalServerError);
    await doomed.dispose();
  });
});

function provider(): ReturnType<typeof createOpenAICompatible> {
  return createOpenAICompatible({ name: "readme", baseURL: `${server.url}/v1`, apiKey: "secret", includeUsage: true });
}

describe("the AI SDK", () => {
  test("generates text with both APIs", async () => {
    const settings = { maxOutputTokens: 12, temperature: 0, maxRetries: 0 };
    const chat = await generateText({ model: provider().chatModel("tiny"), prompt: "Hello there", ...settings });
    expect(chat.text).toBe(await right({ maxTokens: 12, temperature: 0 }));
    expect(chat.usage.inputTokens).toBeGreaterThan(3);
    const plain = await generateText({ model: provider().completionModel("tiny"), prompt: "Hello", ...settings });
    expect(plain.text.length).toBeGreaterThan(0);
  });

  test("streams text", async () => {
    const { textStream, usage, finishReason } = streamText({
      model: provider().chatModel("tiny"),
      system: "Be brief",
      messages,
      maxOutputTokens: 12,
      temperature: 0,
      maxRetries: 0,
    });
    const pieces: string[] = [];
    for await (const piece of textStream) pieces.push(piece);
    const prompt = { messages: [{ role: "system", content: "Be brief" }, ...messages] };
    const { text, ids } = await complete(engine, { prompt, params: { maxTokens: 12, temperature: 0 } });
    expect(pieces.join("")).toBe(text);
    expect((await usage).outputTokens).toBe(ids.length);
    expect(await finishReason).toBe(ids.length === 12 ? "length" : "stop");
  });
});
