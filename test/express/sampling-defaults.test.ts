// Sampling parameters of the model's files over HTTP, by vLLM's rule: a request's own value wins.

import { appendFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeEngine } from "@readme-moe/engine";
import { readMe } from "@readme-moe/express";
import express from "express";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CHAT_TEMPLATE } from "../support/chatting-pocket.ts";
import { postJson } from "../support/post-json.ts";
import { writeReadingModel } from "../support/reading-model.ts";
import { listen, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const RECOMMENDED = { do_sample: true, temperature: 0.4, top_k: 9, top_p: 0.8, max_new_tokens: 7 };
const EXPLICIT = { temperature: 0.4, top_k: 9, top_p: 0.8, max_tokens: 7 };
const messages = [{ role: "user", content: "Where to?" }];

let engine: ReadMeEngine;
/** Engine of the same model, whose files recommend nothing. */
let plain: ReadMeEngine;
let server: RunningServer;
beforeAll(async () => {
  const path = join(await persistentFolder(), "model");
  await writeReadingModel(path);
  await appendFile(join(path, "chat_template.jinja"), CHAT_TEMPLATE);
  await writeFile(join(path, "generation_config.json"), JSON.stringify({ eos_token_id: 0, ...RECOMMENDED }));
  const options = { precision: "fp32", isolation: "thread", threads: 1 } as const;
  engine = await ReadMeEngine.open(path, options);
  plain = await ReadMeEngine.open(path, { ...options, samplingDefaults: "none" });
  const app = express();
  app.use(readMe.api({ models: { tiny: engine, plain } }));
  server = await listen(app);
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await engine.dispose();
  await plain.dispose();
});

interface Answer {
  readonly choices: readonly [{ readonly text?: string; readonly message?: { readonly content: string } }];
  readonly usage: { readonly completion_tokens: number };
}

async function answerOf(path: string, body: object): Promise<Answer> {
  const { status, body: answer } = await postJson(`${server.url}${path}`, { model: "tiny", ignore_eos: true, ...body });
  expect(status).toBe(200);
  return answer as unknown as Answer;
}

describe.each([
  ["/v1/completions", { prompt: "one two" }],
  ["/v1/chat/completions", { messages }],
])("%s", (path, input) => {
  test("absent parameters are the model's", async () => {
    for (const seed of [1, 2, 3]) {
      const { choices, usage } = await answerOf(path, { ...input, seed });
      expect(choices).toEqual((await answerOf(path, { ...input, seed, ...EXPLICIT })).choices);
      expect(usage.completion_tokens).toBe(7);
    }
  });

  test("given ones win", async () => {
    const own = { temperature: 0, top_k: 0, top_p: 1, max_tokens: 11 };
    const { choices, usage } = await answerOf(path, { ...input, ...own });
    expect(usage.completion_tokens).toBe(11);
    const greedy = await answerOf(path, { ...input, temperature: 0, max_tokens: 11 });
    expect(choices).toEqual(greedy.choices);
  });

  test("a recommended limit does not stand in the way of `min_tokens`", async () => {
    const { usage } = await answerOf(path, { ...input, min_tokens: 12 });
    expect(usage.completion_tokens).toBe(12);
  });
});

/** Returns the choices of a chat with the model whose files recommend nothing. */
async function chatOf(more: object): Promise<unknown> {
  return (await answerOf("/v1/chat/completions", { model: "plain", messages, max_tokens: 9, ...more })).choices;
}

test("without a recommendation, chats without a temperature are drawn from fewer tokens", async () => {
  const fallbacks = { temperature: 0.7, top_k: 20, top_p: 0.8 };
  let different = 0;
  for (const seed of [1, 2, 3, 4]) {
    const pure = await chatOf({ seed, temperature: 1, top_k: 0, top_p: 1 });
    expect(await chatOf({ seed })).toEqual(await chatOf({ seed, ...fallbacks }));
    expect(await chatOf({ seed, top_k: 5 })).toEqual(await chatOf({ seed, ...fallbacks, top_k: 5 }));
    expect(await chatOf({ seed, temperature: 1 })).toEqual(pure);
    const prompt = { model: "plain", prompt: "one two", max_tokens: 9, seed };
    const { choices } = await answerOf("/v1/completions", prompt);
    expect(choices).toEqual((await answerOf("/v1/completions", { ...prompt, temperature: 1 })).choices);
    if (JSON.stringify(pure) !== JSON.stringify(await chatOf({ seed }))) different += 1;
  }
  expect(different).toBeGreaterThan(0);
});
