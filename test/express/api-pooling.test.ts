// Embeddings and rankings over HTTP: OpenAI's SDK as it is, the shapes of Cohere, Jina and vLLM, and refusals.

import express from "express";
import OpenAI, { BadRequestError } from "openai";
import { ReadMeEmitter } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { Admission, ApiError, type Entrant, readMe, type RoutedRequest, type Ticket } from "@readme-moe/express";
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { embeddingsAnswer, rerankAnswer, scoreAnswer } from "../../packages/express/src/api/answer-schemas.ts";
import { EMBEDDING_MODEL, openPooling, poolingGolden, writeReranker } from "../support/pooling-models.ts";
import { type JsonAnswer, postJson } from "../support/post-json.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { largestDifference } from "../support/running-model.ts";
import { listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const NUM_RUNS = Number(process.env["README_MOE_FUZZ_RUNS"] ?? 200);
const { embeddings, rankings } = poolingGolden;
const texts = embeddings.filter(({ prompt }) => prompt === undefined);
const input = texts.map((one) => one.input);

const folder = await persistentFolder();
let engines: Readonly<Record<"chat" | "embedder" | "ranker", ReadMeEngine>>;
let server: RunningServer;
let openai: OpenAI;

beforeAll(async () => {
  const [chat, embedder, ranker] = await Promise.all([
    openTinyEngine(folder),
    openPooling(EMBEDDING_MODEL),
    openPooling(await writeReranker()),
  ]);
  engines = { chat, embedder, ranker };
  const app = express();
  app.use(readMe({ models: engines, keys: { ann: "secret" } }));
  server = await listen(app);
  openai = new OpenAI({ apiKey: "secret", baseURL: `${server.url}/v1`, maxRetries: 0 });
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

const authorization = "Bearer secret";
const post = (path: string, body: unknown): Promise<JsonAnswer> =>
  postJson(`${server.url}${path}`, body, { authorization });

/** Returns the embedding of the first input, as numbers. */
async function floats(body: object): Promise<readonly number[]> {
  const answer = await post("/v1/embeddings", { model: "embedder", encoding_format: "float", ...body });
  const { data } = embeddingsAnswer.parse(answer.body);
  return data[0]?.embedding as number[];
}

describe("/v1/embeddings", () => {
  test("gives the OpenAI SDK the embeddings of sentence-transformers", async () => {
    // The SDK asks for base64 and decodes it.
    const answer = await openai.embeddings.create({ model: "embedder", input });
    expect(answer.data.map(({ index }) => index)).toEqual(input.map((_, index) => index));
    for (const [index, { embedding }] of texts.entries()) {
      expect(largestDifference(answer.data[index]!.embedding, embedding)).toBeLessThan(1e-5);
    }
    const promptTokens = texts.reduce((sum, { input_ids: ids }) => sum + ids.length, 0);
    expect(answer).toMatchObject({ object: "list", model: "embedder" });
    expect(answer.usage).toEqual({ prompt_tokens: promptTokens, total_tokens: promptTokens });
  });

  test("takes a text, token ids, and lists of either, with the same numbers in both formats", async () => {
    const [{ input: text, input_ids: ids }] = texts.slice(2) as [(typeof texts)[number]];
    const right = await floats({ input: text });
    for (const same of [[text], ids, [ids]]) expect(await floats({ input: same, user: "ann" })).toEqual(right);
    const { data } = await openai.embeddings.create({ model: "embedder", input: text });
    expect(Array.from(data[0]!.embedding)).toEqual(right);
    const cut = await floats({ input: text, dimensions: 5 });
    expect(cut.length).toBe(5);
    expect(Math.hypot(...cut)).toBeCloseTo(1, 6);
    const [query] = embeddings.filter(({ prompt }) => prompt === "query");
    const named = await floats({ input: query?.input, prompt_name: "query" });
    expect(largestDifference(named, query?.embedding ?? [])).toBeLessThan(1e-5);
    expect(await floats({ input: query?.input, instruction: "Find prose" })).not.toEqual(named);
  });

  test("refuses what it cannot do, by name", async () => {
    const refusals: readonly (readonly [object, string, string])[] = [
      [{ model: "chat", input: "a" }, "model", "`embedder` gives embeddings"],
      [{ model: "ranker", input: "a" }, "model", "scores documents"],
      [{ model: "embedder" }, "input", "missing"],
      [{ model: "embedder", input: [] }, "input", ""],
      [{ model: "embedder", input: ["a", 3] }, "input[1]", ""],
      [{ model: "embedder", input: [[1], [-1]] }, "input[1][0]", "token id"],
      [{ model: "embedder", input: [99_999] }, "input", "below"],
      [{ model: "embedder", input: "a", dimensions: 49 }, "dimensions", "48"],
      [{ model: "embedder", input: "a", encoding_format: "hex" }, "encoding_format", "base64"],
      [{ model: "embedder", input: "a", prompt_name: "constructor" }, "prompt_name", "query, document"],
      [{ model: "embedder", input: "a", stream: true }, "stream", "not supported"],
      [{ model: "embedder", input: Array.from({ length: 2049 }, () => "a") }, "input", ""],
      [{ model: "embedder", input: "word ".repeat(600) }, "input", "512"],
    ];
    for (const [body, param, part] of refusals) {
      const answer = await post("/v1/embeddings", body);
      expect(answer).toMatchObject({ status: 400, body: { error: { type: "invalid_request_error", param } } });
      expect(JSON.stringify(answer.body)).toContain(part);
    }
    await expect(openai.embeddings.create({ model: "chat", input: "a" })).rejects.toThrow(BadRequestError);
  });

  test("models that give embeddings or scores refuse to generate", async () => {
    const messages = [{ role: "user" as const, content: "a" }];
    for (const model of ["embedder", "ranker"]) {
      const asked = openai.chat.completions.create({ model, messages });
      await expect(asked).rejects.toThrow(/`chat` generates text/);
      expect(await post("/v1/completions", { model, prompt: "a" })).toMatchObject({ status: 400 });
      const answer = await post("/v1/messages", { model, messages, max_tokens: 3 });
      expect(answer).toMatchObject({ status: 400, body: { type: "error" } });
    }
  });

  test("ends when its client leaves, and counts for rate limits", async () => {
    const leaving = new AbortController();
    const many = Array.from({ length: 500 }, (_, index) => `${input.at(-1)} ${index}`);
    engines.embedder.events.once("batch:completed", () => leaving.abort());
    const left = openai.embeddings.create({ model: "embedder", input: many }, { signal: leaving.signal });
    await expect(left).rejects.toThrow();
    await expect.poll(async () => (await engines.embedder.stats()).kvUsedTokens).toBe(0);
    const app = express();
    app.use(readMe.api({ engine: engines.embedder, tokensPerMinute: 10 }));
    await using limited = await listen(app);
    expect(await postJson(`${limited.url}/v1/embeddings`, { input })).toMatchObject({ status: 200 });
    expect(await postJson(`${limited.url}/v1/embeddings`, { input: "a" })).toMatchObject({ status: 429 });
  });
});

describe("/embed", () => {
  test("answers with the numbers of /v1/embeddings alone, and cuts long texts where it may", async () => {
    const { data } = embeddingsAnswer.parse((await post("/v1/embeddings", { model: "embedder", input })).body);
    const vectors = data.map(({ embedding }) => embedding);
    expect((await post("/embed", { model: "embedder", inputs: input })).body).toEqual(vectors);
    expect((await post("/embed", { model: "embedder", inputs: input[0]! })).body).toEqual(vectors.slice(0, 1));
    const inputs = "a b ".repeat(engines.embedder.info.contextTokens);
    const refused = await post("/embed", { model: "embedder", inputs, truncate: false });
    expect(refused).toMatchObject({ status: 400, body: { error: { param: "inputs" } } });
    for (const truncate of [undefined, null, true]) {
      expect(await post("/embed", { model: "embedder", inputs, truncate })).toMatchObject({ status: 200 });
    }
    const many = await post("/embed", { model: "embedder", inputs: Array.from({ length: 2049 }, () => "a") });
    expect(many).toMatchObject({ status: 400, body: { error: { param: "inputs" } } });
  });

  test("gives vectors before they are normalised, and normalises those of every model", async () => {
    const raw = (await post("/embed", { model: "embedder", inputs: "a", normalize: false })).body[0] as number[];
    const [vector] = (await post("/embed", { model: "embedder", inputs: "a" })).body as unknown as [number[]];
    const length = Math.hypot(...raw);
    expect(Math.abs(length - 1)).toBeGreaterThan(0.01);
    expect(
      largestDifference(
        raw.map((value) => value / length),
        vector,
      ),
    ).toBeLessThan(1e-6);
    const own = await engines.embedder.embed({ inputs: ["a"], normalize: false });
    expect(raw).toEqual(Array.from(own.embeddings[0]!));
  });
});

describe("/v1/rerank", () => {
  test.each(["/v1/rerank", "/v2/rerank", "/rerank"])("%s ranks documents as transformers does", async (path) => {
    const [{ query, documents, scores }] = rankings.slice(0, 1) as [(typeof rankings)[number]];
    const answer = await post(path, { model: "ranker", query, documents });
    const { results, usage } = rerankAnswer.parse(answer.body);
    const order = scores.map((_, index) => index).toSorted((a, b) => scores[b]! - scores[a]!);
    expect(results.map(({ index }) => index)).toEqual(order);
    const own = results.map((one) => one.relevance_score);
    expect(
      largestDifference(
        own,
        order.map((index) => scores[index]!),
      ),
    ).toBeLessThan(1e-5);
    expect(usage.total_tokens).toBe(rankings[0]?.tokens.reduce((sum, count) => sum + count));
  });

  test("answers with the best documents and their texts", async () => {
    const [{ query, documents, scores }] = rankings.slice(0, 1) as [(typeof rankings)[number]];
    const parts = documents.map((text, index) => (index % 2 === 0 ? text : { text }));
    const asked = { model: "ranker", query, documents: parts, top_n: 2, return_documents: true };
    const { results } = rerankAnswer.parse((await post("/rerank", asked)).body);
    const best = scores.indexOf(Math.max(...scores));
    expect(results.length).toBe(2);
    expect(results[0]).toMatchObject({ index: best, document: { text: documents[best] } });
  });

  test.each(["/v1/score", "/score"])("%s scores texts in their order", async (path) => {
    const [{ query, documents, scores }] = rankings.slice(0, 1) as [(typeof rankings)[number]];
    const asked = { model: "ranker", text_1: query };
    const { data, usage } = scoreAnswer.parse((await post(path, { ...asked, text_2: documents })).body);
    expect(data.map(({ index }) => index)).toEqual(documents.map((_, index) => index));
    const own = data.map((one) => one.score);
    expect(largestDifference(own, scores)).toBeLessThan(1e-5);
    expect(usage.total_tokens).toBe(rankings[0]?.tokens.reduce((sum, count) => sum + count));
    const alone = scoreAnswer.parse((await post(path, { ...asked, text_2: documents[1] })).body);
    expect(alone.data).toEqual([{ index: 0, object: "score", score: own[1] }]);
    const refused = await post(path, { ...asked, text_2: [] });
    expect(refused).toMatchObject({ status: 400, body: { error: { param: "text_2" } } });
  });

  test("ranks texts in the shape of Text Embeddings Inference, by any path", async () => {
    const [{ query, documents, scores }] = rankings.slice(0, 1) as [(typeof rankings)[number]];
    type Ranks = readonly { readonly index: number; readonly score: number; readonly text?: string }[];
    const ranks = async (more: object): Promise<Ranks> =>
      // Its clients name no model: one of the three can do it.
      (await post("/rerank", { query, texts: documents, ...more })).body as unknown as Ranks;
    const plain = await ranks({ truncate: true });
    const order = scores.map((_, index) => index).toSorted((a, b) => scores[b]! - scores[a]!);
    expect(plain.map((one) => Object.keys(one))).toEqual(order.map(() => ["index", "score"]));
    expect(plain.map(({ index }) => index)).toEqual(order);
    for (const { index, score } of plain) expect(score).toBeCloseTo(scores[index]!, 5);
    expect((await ranks({ return_text: true })).map(({ text }) => text)).toEqual(
      order.map((index) => documents[index]),
    );
    for (const { index, score } of await ranks({ raw_scores: true })) {
      expect(1 / (1 + Math.exp(-score))).toBeCloseTo(scores[index]!, 5);
      expect(score).not.toBeCloseTo(scores[index]!, 5);
    }
    expect((await post("/v1/rerank", { query, texts: documents })).body).toEqual(plain);
  });

  test("refuses what it cannot do, by name", async () => {
    const refusals: readonly (readonly [object, string, string])[] = [
      [{ query: "a", texts: [] }, "texts", ""],
      [{ query: "a", texts: ["a", 3] }, "texts[1]", ""],
      [{ query: "a", texts: ["a"], truncation_direction: "Left" }, "truncation_direction", "right"],
      [{ texts: ["a"] }, "query", "missing"],
      [{ query: "a", texts: ["word ".repeat(2000)], truncate: false }, "texts", "leaves no room"],
      [{ model: "ranker", query: "a", texts: ["b"], documents: ["c"] }, "texts", "not supported"],
      [{ model: "embedder", query: "a", documents: ["b"] }, "model", "`ranker` scores documents"],
      [{ model: "ranker", documents: ["b"] }, "query", "missing"],
      [{ model: "ranker", query: "a", documents: [] }, "documents", ""],
      [{ model: "ranker", query: "a", documents: ["b", { text: 3 }] }, "documents[1].text", ""],
      [{ model: "ranker", query: "a", documents: ["b"], top_n: 0 }, "top_n", ""],
      [{ model: "ranker", query: "a", documents: ["b"], max_chunks_per_doc: 3 }, "max_chunks_per_doc", "not supported"],
    ];
    for (const [body, param, part] of refusals) {
      const answer = await post("/v1/rerank", body);
      expect(answer).toMatchObject({ status: 400, body: { error: { param } } });
      expect(JSON.stringify(answer.body)).toContain(part);
    }
  });
});

async function serve(options: Parameters<typeof readMe>[0]): Promise<RunningServer> {
  const own = await listen(express().use(readMe(options)));
  onTestFinished(() => own[Symbol.asyncDispose]());
  return own;
}

describe("what chats pass, too", () => {
  const rerank = { model: "ranker", query: "a ship", documents: ["far at sea", "on land", "at home"] };
  const embed = { model: "embedder", input: ["far at sea", "on land"] };

  test("`onRequest` sees and changes bodies, which are checked again", async () => {
    const seen: string[] = [];
    const { url } = await serve({
      models: engines,
      ollama: true,
      onRequest: (body, { endpoint }) => {
        seen.push(endpoint);
        const model = "query" in body ? "ranker" : "embedder";
        return "user" in body ? { ...body, model: 3 as never } : { ...body, model };
      },
    });
    const hidden = { model: "hidden" };
    expect(await postJson(`${url}/v1/embeddings`, { ...embed, ...hidden })).toMatchObject({ status: 200 });
    for (const path of ["/v1/rerank", "/v2/rerank", "/rerank"]) {
      expect(await postJson(url + path, { ...rerank, ...hidden })).toMatchObject({ status: 200 });
    }
    expect(await postJson(`${url}/api/embed`, { ...embed, ...hidden })).toMatchObject({ status: 200 });
    expect(await postJson(`${url}/api/embeddings`, { ...hidden, prompt: "a" })).toMatchObject({ status: 200 });
    expect(await postJson(`${url}/v1/embeddings`, { ...embed, user: "a" })).toMatchObject({ status: 400 });
    const ranked = ["/v1/rerank", "/v1/rerank", "/v1/rerank"];
    expect(seen).toEqual(["/v1/embeddings", ...ranked, "/api/embed", "/api/embeddings", "/v1/embeddings"]);
  });

  test("admission reserves what the texts can come to, learns what they are, and emits its events", async () => {
    const entered: Entrant[] = [];
    const steps: unknown[] = [];
    class Remembering extends Admission {
      override enter(entrant: Entrant): Ticket {
        entered.push(entrant);
        const ticket = super.enter(entrant);
        const correct = (tokens: number): void => {
          steps.push(tokens);
          ticket.correct(tokens);
        };
        return { ...ticket, correct };
      }
    }
    const events = new ReadMeEmitter();
    for (const name of ["request:admitted", "request:started", "request:released"] as const) {
      events.on(name, () => steps.push(name));
    }
    const { url } = await serve({ models: engines, admission: new Remembering({ events }) });
    const query = "a ship ".repeat(20);
    const answer = await postJson(`${url}/v1/rerank`, { ...rerank, query });
    const { total_tokens: total } = rerankAnswer.parse(answer.body).usage;
    const [{ maxPromptTokens = 0 }] = entered as [Entrant];
    // The query is part of each document's prompt.
    expect(maxPromptTokens).toBeGreaterThan(3 * query.length);
    // The place is released behind the answer's last byte.
    await expect.poll(() => steps.at(-1)).toBe("request:released");
    // The first document may be done before the tokens of the last one are known.
    const learnt = steps.filter((step) => typeof step === "number");
    expect(learnt).toEqual([expect.any(Number), expect.any(Number), total]);
    expect(steps.slice(0, 2)).toEqual(["request:admitted", learnt[0]]);
    expect(steps.filter((step) => typeof step === "string").slice(1)).toEqual(["request:started", "request:released"]);
    await postJson(`${url}/v1/embeddings`, embed);
    expect(entered[1]).toMatchObject({ maxPromptTokens: 17, choices: 1, model: "embedder" });
  });

  test("a policy sees their tokens, and refuses or orders them", async () => {
    const seen: RoutedRequest[] = [];
    const policy = (about: RoutedRequest): { readonly priority: number } => {
      seen.push(about);
      if (about.priority === 2) throw new ApiError({ status: 418, type: "policy", message: "no" });
      return { priority: -1 };
    };
    const { url } = await serve({ models: engines, admission: { policy }, maxPriority: 2 });
    // A prompt may fill the context, as nothing follows it.
    const full = Array.from({ length: 512 }, () => 5);
    for (const [path, body] of [
      ["/v1/embeddings", embed],
      ["/v1/rerank", rerank],
      ["/v1/embeddings", { ...embed, input: [texts[2]?.input_ids, full], read_me: { priority: 1 } }],
    ] as const) {
      const { status, body: answer } = await postJson(url + path, body);
      expect(status).toBe(200);
      const { usage } = answer as { readonly usage: { readonly total_tokens: number } };
      expect(seen.at(-1)).toMatchObject({ promptTokens: usage.total_tokens, maxCompletionTokens: 0 });
    }
    expect(seen.map(({ priority }) => priority)).toEqual([0, 0, 1]);
    const refused = await postJson(`${url}/v1/rerank`, { ...rerank, read_me: { priority: 2 } });
    expect(refused).toMatchObject({ status: 418 });
    const above = await postJson(`${url}/v1/rerank`, { ...rerank, read_me: { priority: 3 } });
    expect(above).toMatchObject({ status: 400, body: { error: { param: "read_me.priority" } } });
  });

  test("clients that leave pay for the texts that were accepted", async () => {
    const spent: number[] = [];
    const tokensPerMinute = {
      points: 1e6,
      get: async () => null,
      consume: async () => ({ consumedPoints: 0, msBeforeNext: 0 }),
      penalty: async (_: string, tokens: number) => void spent.push(tokens),
    };
    const { url } = await serve({ engine: engines.embedder, tokensPerMinute: tokensPerMinute as never });
    const leaving = new AbortController();
    engines.embedder.events.once("batch:completed", () => leaving.abort());
    const many = Array.from({ length: 500 }, (_, index) => `${input.at(-1)} ${index}`);
    const body = JSON.stringify({ input: many });
    const headers = { "content-type": "application/json" };
    const left = fetch(`${url}/v1/embeddings`, { method: "POST", headers, body, signal: leaving.signal });
    await expect(left).rejects.toThrow();
    await expect.poll(() => spent).toHaveLength(1);
    expect(spent[0]).toBeGreaterThan(0);
  });
});

test("damaged bodies get a refusal or an answer, and change no other answer", async () => {
  const good = [
    ["/v1/embeddings", { model: "embedder", input: ["a", "é\u0000"], dimensions: 3, encoding_format: "float" }],
    ["/v1/embeddings", { model: "embedder", input: [[1, 2], [3]], prompt_name: "query" }],
    ["/v1/rerank", { model: "ranker", query: "a", documents: ["b", { text: "c" }], top_n: 1, return_documents: true }],
    ["/v1/score", { model: "ranker", text_1: "a", text_2: ["b", "c"] }],
    ["/embed", { model: "embedder", inputs: ["a", "é"], truncate: true, dimensions: 3 }],
  ] as const;
  const random = seededRandom(Number(process.env["README_MOE_FUZZ_SEED"] ?? 1));
  for (let run = 0; run < NUM_RUNS; run++) {
    const [path, body] = good[randomInteger(random, good.length)]!;
    const bytes = Buffer.from(JSON.stringify(body));
    for (let change = 1 + randomInteger(random, 4); change > 0; change--) {
      bytes[randomInteger(random, bytes.length)] = randomInteger(random, 256);
    }
    const cut = run % 3 === 0 ? bytes.subarray(0, randomInteger(random, bytes.length)) : bytes;
    const headers = { "content-type": "application/json", authorization };
    const response = await fetch(`${server.url}${path}`, { method: "POST", headers, body: cut });
    const text = await response.text();
    expect([200, 400, 404], `run ${run}: ${text}`).toContain(response.status);
    expect(() => JSON.parse(text)).not.toThrow();
  }
  const { data } = await openai.embeddings.create({ model: "embedder", input: input[2]! });
  expect(largestDifference(data[0]!.embedding, texts[2]!.embedding)).toBeLessThan(1e-5);
});
