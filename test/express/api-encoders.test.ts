// Published clients of embeddings and rankings, against one server with a decoder, an encoder and an encoder that ranks.

import { OpenAIEmbeddings } from "@langchain/openai";
import { CohereClient, CohereClientV2, CohereError } from "cohere-ai";
import type { ReadMeEngine } from "@readme-moe/engine";
import { readMe } from "@readme-moe/express";
import express from "express";
import { Ollama } from "ollama";
import OpenAI from "openai";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { WORDS, writeEmbedder, writeEncoder } from "../support/encoder-models.ts";
import { openPooling } from "../support/pooling-models.ts";
import { type JsonAnswer, postJson } from "../support/post-json.ts";
import { listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

let engines: Readonly<Record<"chat" | "minilm" | "ranker", ReadMeEngine>>;
let server: RunningServer;

beforeAll(async () => {
  const [chat, minilm, ranker] = await Promise.all([
    openTinyEngine(await persistentFolder()),
    openPooling(await writeEmbedder("bert", 64)),
    openPooling(await writeEncoder("bert-rank")),
  ]);
  engines = { chat, minilm, ranker };
  server = await listen(express().use(readMe({ models: engines, ollama: true, keys: { ann: "secret" } })));
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  for (const engine of Object.values(engines)) await engine.dispose();
});
afterEach(async () => {
  for (const engine of Object.values(engines)) {
    await expect.poll(() => engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
  }
});

const inputs = ["Walking dogs, green paper.", "", "house", "🦊 of a zoo", "runs ".repeat(300)];
const query = "dog house";
const documents = ["green house", "paper. walking dogs", "runs ".repeat(300), "dog house"];

/** Returns the vectors that the engine gives of each text alone. */
async function vectorsOf(texts: readonly (string | readonly number[])[]): Promise<number[][]> {
  const alone = texts.map((text) => engines.minilm.embed({ inputs: [text] }));
  return (await Promise.all(alone)).map(({ embeddings }) => Array.from(embeddings[0]!));
}

/** Returns documents with their scores, the best first. */
async function ranked(): Promise<{ index: number; score: number }[]> {
  const { scores } = await engines.ranker.rerank({ query, documents });
  return scores.map((score, index) => ({ index, score })).toSorted((a, b) => b.score - a.score);
}

const post = (path: string, body: unknown): Promise<JsonAnswer> =>
  postJson(`${server.url}${path}`, body, { authorization: "Bearer secret" });

const openai = (): OpenAI => new OpenAI({ apiKey: "secret", baseURL: `${server.url}/v1`, maxRetries: 0 });

describe("the OpenAI SDK", () => {
  test("has the engine's vectors, of texts and of token ids", async () => {
    const right = await vectorsOf(inputs);
    const { embeddings } = openai();
    // The SDK asks for base64 unless it is told otherwise, and decodes what it asked for by itself.
    for (const format of [{}, { encoding_format: "float" }] as const) {
      const { data } = await embeddings.create({ model: "minilm", input: inputs, ...format });
      expect(data.map(({ embedding }) => Array.from(embedding))).toEqual(right);
    }
    const [{ embedding }] = (await embeddings.create({ model: "minilm", input: "dog", encoding_format: "base64" }))
      .data as unknown as [{ embedding: string }];
    const bytes = new Uint8Array(Buffer.from(embedding, "base64"));
    expect([Array.from(new Float32Array(bytes.buffer))]).toEqual(await vectorsOf(["dog"]));
    const ids = [
      [2, 40, 3],
      [2, 3],
    ];
    const { data, usage } = await embeddings.create({ model: "minilm", input: ids });
    expect(data.map((one) => Array.from(one.embedding))).toEqual(await vectorsOf(ids));
    expect(usage).toEqual({ prompt_tokens: 5, total_tokens: 5 });
  });

  test("shortens vectors, and lists the encoder beside the decoder", async () => {
    const { data } = await openai().embeddings.create({ model: "minilm", input: "dog", dimensions: 8 });
    const [whole = []] = await vectorsOf(["dog"]);
    const length = Math.hypot(...whole.slice(0, 8));
    for (const [index, value] of data[0]!.embedding.entries()) expect(value).toBeCloseTo(whole[index]! / length, 6);
    expect((await openai().models.list()).data.map(({ id }) => id)).toEqual(["chat", "minilm", "ranker"]);
    const messages = [{ role: "user" as const, content: "a" }];
    const chat = await openai().chat.completions.create({ model: "chat", messages, max_tokens: 2 });
    expect(chat.object).toBe("chat.completion");
    await expect(openai().chat.completions.create({ model: "minilm", messages })).rejects.toThrow("`chat` generates");
  });

  test("has the answer to 2,048 texts in their order", async () => {
    const input = Array.from({ length: 2048 }, (_, index) => `${WORDS[index % 7]} ${index}`);
    const { data, usage } = await openai().embeddings.create({ model: "minilm", input });
    expect(data.map(({ index }) => index)).toEqual(input.map((_, index) => index));
    expect(usage.prompt_tokens).toBeGreaterThan(2048 * 4);
    for (const index of [0, 77, 1024, 2047]) {
      expect([Array.from(data[index]!.embedding)]).toEqual(await vectorsOf([input[index]!]));
    }
    const tooMany = openai().embeddings.create({ model: "minilm", input: [...input, "a"] });
    await expect(tooMany).rejects.toThrow("2048 items");
  });
});

test("LangChain has vectors of a query and of documents", async () => {
  const configuration = { baseURL: `${server.url}/v1` };
  const embeddings = new OpenAIEmbeddings({ model: "minilm", apiKey: "secret", batchSize: 2, configuration });
  expect(await embeddings.embedDocuments(inputs)).toEqual(await vectorsOf(inputs));
  expect([await embeddings.embedQuery("house")]).toEqual(await vectorsOf(["house"]));
});

test("Cohere's clients rank documents, by both versions of its API", async () => {
  const right = await ranked();
  const connection = { environment: server.url, token: "secret", maxRetries: 0 };
  const second = new CohereClientV2(connection);
  const { id, results } = await second.rerank({ model: "ranker", query, documents, topN: 3 });
  expect(id).toMatch(/^rerank-/);
  const expected = right.map(({ index, score }) => ({ index, relevanceScore: score }));
  expect(results).toEqual(expected.slice(0, 3));
  const first = new CohereClient(connection);
  const asked = { model: "ranker", query, documents: documents.map((text) => ({ text })), returnDocuments: true };
  const withTexts = expected.map((one) => ({ ...one, document: { text: documents[one.index] } }));
  expect((await first.rerank(asked)).results).toEqual(withTexts);
  const refused = await second.rerank({ model: "minilm", query, documents }).catch((error: unknown) => error);
  expect(refused).toBeInstanceOf(CohereError);
  expect(refused).toMatchObject({ statusCode: 400, message: expect.stringContaining("`ranker` scores") as string });
});

test("Ollama's client has vectors, and texts that are longer than the model's limit are cut or refused", async () => {
  const ollama = new Ollama({ host: server.url, headers: { authorization: "Bearer secret" } });
  const answer = await ollama.embed({ model: "minilm", input: inputs });
  expect(answer.embeddings).toEqual(await vectorsOf(inputs));
  const { usage } = await engines.minilm.embed({ inputs });
  expect(answer.prompt_eval_count).toBe(usage.promptTokens);
  expect((await ollama.embeddings({ model: "minilm", prompt: inputs.at(-1)! })).embedding).toEqual(
    answer.embeddings.at(-1),
  );
  const whole = ollama.embed({ model: "minilm", input: inputs, truncate: false });
  await expect(whole).rejects.toThrow("64");
  const { capabilities } = await ollama.show({ model: "minilm" });
  expect(capabilities).toEqual(["embedding"]);
});

/** Bodies of Open WebUI's retrieval, and what it reads from the answers. */
describe("Open WebUI", () => {
  test("has vectors by OpenAI's API and by Ollama's", async () => {
    const right = await vectorsOf(inputs);
    const answer = await post("/v1/embeddings", { input: inputs, model: "minilm" });
    expect((answer.body["data"] as { embedding: number[] }[]).map(({ embedding }) => embedding)).toEqual(right);
    for (const cuts of [{}, { truncate: true }]) {
      const ollama = await post("/api/embed", { input: inputs, model: "minilm", ...cuts });
      expect(ollama.body["embeddings"]).toEqual(right);
    }
  });

  test("has scores by its external reranker", async () => {
    const answer = await post("/v1/rerank", { model: "ranker", query, documents, top_n: documents.length });
    const results = answer.body["results"] as { index: number; relevance_score: number }[];
    const scores = results.toSorted((a, b) => a.index - b.index).map((one) => one.relevance_score);
    expect(scores).toEqual((await engines.ranker.rerank({ query, documents })).scores);
  });
});
