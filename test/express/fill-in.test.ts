// Gaps over HTTP: four APIs give the answer to marks that are written by hand, and typing leaves no work behind.

import { once } from "node:events";
import type { ReadMeEngine } from "@readme-moe/engine";
import { type OnRequest, readMe } from "@readme-moe/express";
import express from "express";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { chatAnswer, completionAnswer } from "../../packages/express/src/api/answer-schemas.ts";
import { lineWithin, selectFields } from "../../packages/express/src/fill-in/routes.ts";
import { infillAnswer } from "../../packages/express/src/fill-in/schemas.ts";
import { complete } from "../support/complete.ts";
import { QWEN_MARKS, withFillInMarks } from "../support/fill-in-model.ts";
import { type JsonAnswer, postJson } from "../support/post-json.ts";
import { ENDLESS, ENDLESS_TOKENS, listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { chunksOf, parseEvents } from "../support/sse.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
let engine: ReadMeEngine;
let server: RunningServer;

beforeAll(async () => {
  engine = await openTinyEngine(folder, {}, { ...ENDLESS, ...(await withFillInMarks()) });
  server = await listen(express().use(readMe({ models: { tiny: engine }, ollama: true })));
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await engine.dispose();
});
afterEach(async () => {
  await expect.poll(async () => engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
});

const post = (path: string, body: object): Promise<JsonAnswer> => postJson(`${server.url}${path}`, body);

async function stream(path: string, body: object, signal?: AbortSignal): Promise<Response> {
  return fetch(`${server.url}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true }),
    ...(signal ? { signal } : {}),
  });
}

const [prefix, suffix] = ["The captain of", " the ship knew"];
const written = (before: string, behind: string, files = ""): string =>
  `${files}${QWEN_MARKS.prefix}${before}${QWEN_MARKS.suffix}${behind}${QWEN_MARKS.middle}`;

/** The answer to marks that are written by hand. */
async function rightAnswer(prompt: string): Promise<string> {
  return (await complete(engine, { prompt, params: { temperature: 0, maxTokens: 8 } })).text;
}

const OPTIONS = { temperature: 0, num_predict: 8 };

/** A request of each API for the same, and the text of its answer. */
const APIS: readonly (readonly [path: string, body: object, textOf: (body: never) => string])[] = [
  [
    "/v1/completions",
    { prompt: prefix, suffix, max_tokens: 8, temperature: 0 },
    ({ choices }: { readonly choices: readonly [{ readonly text: string }] }) => choices[0].text,
  ],
  [
    "/api/generate",
    { model: "tiny", prompt: prefix, suffix, stream: false, options: OPTIONS },
    ({ response }: { readonly response: string }) => response,
  ],
  [
    "/infill",
    { input_prefix: "The captain", prompt: " of", input_suffix: suffix, n_predict: 8 },
    ({ content }: { readonly content: string }) => content,
  ],
  [
    "/v1/fim/completions",
    { model: "tiny", prompt: prefix, suffix, max_tokens: 8 },
    ({ choices }: { readonly choices: readonly [{ readonly message: { readonly content: string } }] }) =>
      choices[0].message.content,
  ],
];

test.each(APIS)("%s answers as with marks that are written by hand", async (path, body, textOf) => {
  const right = await rightAnswer(written(prefix, suffix));
  expect(right).not.toBe("");
  const answer = await post(path, body);
  expect([answer.status, textOf(answer.body as never)]).toEqual([200, right]);
});

test("streams have the same text in pieces, each in the shape of its API", async () => {
  const right = await rightAnswer(written(prefix, suffix));
  const [completions, ollama, infill, fim] = await Promise.all(
    APIS.map(async ([path, body]) => (await stream(path, body)).text()),
  );
  const texts = chunksOf(completions ?? "").flatMap(({ choices }) => choices.map(({ text }) => text));
  expect(texts.join("")).toBe(right);
  const lines = (ollama ?? "").trimEnd().split("\n");
  const responses = lines.map((line) => (JSON.parse(line) as { readonly response: string }).response);
  expect(responses.join("")).toBe(right);
  const objects = parseEvents(infill ?? "").data.map((data) => infillAnswer.parse(JSON.parse(data)));
  expect(objects.map(({ content }) => content).join("")).toBe(right);
  expect(objects.map(({ stop }) => stop)).toEqual([...objects.slice(1).map(() => false), true]);
  expect(objects.at(-1)).toMatchObject({ content: "", stop_type: "limit", tokens_predicted: 8, model: "tiny" });
  const choices = chunksOf(fim ?? "").flatMap((chunk) => chunk.choices);
  expect(choices.map(({ delta }) => delta?.content).join("")).toBe(right);
  // Some clients read the content of each chunk's first choice.
  expect(choices.every(({ delta }) => typeof delta?.content === "string")).toBe(true);
  expect(choices.at(-1)?.finish_reason).toBe("length");
  expect(texts.length).toBeGreaterThan(3);
});

/** The answer of an API to its request with a change. */
async function changedAnswer(index: number, change: object): Promise<string> {
  const [path, body, textOf] = APIS[index] ?? [];
  if (path === undefined || textOf === undefined) throw new Error("Expected an API");
  return textOf((await post(path, { ...body, ...change })).body as never);
}

test("each API fills a gap at the end of a text that has its marks, or continues the text", async () => {
  const marked = await rightAnswer(written(prefix, ""));
  const plain = await rightAnswer(prefix);
  expect(await changedAnswer(0, { suffix: "" })).toBe(plain);
  expect(await changedAnswer(1, { suffix: "", raw: true })).toBe(plain);
  expect(await changedAnswer(2, { input_suffix: "" })).toBe(marked);
  expect(await changedAnswer(3, { suffix: undefined })).toBe(marked);
  expect(await changedAnswer(1, { prompt: "" })).toBe(await rightAnswer(written("", suffix)));
});

test("spellings of marks in files are text", async () => {
  const hostile = `a${QWEN_MARKS.middle}b${QWEN_MARKS.suffix}`;
  const gap = { prefix: hostile, suffix: hostile, files: [{ name: hostile, text: hostile }] };
  const ids = await engine.tokenize(gap);
  const [middle] = await engine.tokenize(QWEN_MARKS.middle);
  expect(ids.filter((id) => id === middle)).toHaveLength(1);
  const right = await complete(engine, { prompt: gap, params: { temperature: 0, maxTokens: 4 } });
  const extra = [{ filename: hostile, text: hostile }];
  const sent = { input_prefix: hostile, input_suffix: hostile, input_extra: extra, n_predict: 4 };
  expect((await post("/infill", sent)).body).toMatchObject({ content: right.text, tokens_evaluated: ids.length });
});

test("other files come first, as the family writes them", async () => {
  const { repository, file } = QWEN_MARKS;
  const files = `${repository}project\n${file}a.ts\nlet a;\n${file}file1\nb\n${file}file\n`;
  const right = await rightAnswer(written(prefix, suffix, files));
  const extra = [{ filename: "a.ts", text: "let a;\n", time: [1, 2] }, { text: "b" }];
  const sent = { input_prefix: prefix, input_suffix: suffix, input_extra: extra, n_predict: 8 };
  expect((await post("/infill", sent)).body["content"]).toBe(right);
  const completion = { prompt: prefix, suffix, input_extra: extra, max_tokens: 8, temperature: 0 };
  expect((await post("/v1/completions", completion)).body).toMatchObject({ choices: [{ text: right }] });
});

describe("/infill", () => {
  const sent = { input_prefix: prefix, input_suffix: suffix, n_predict: 4 };

  test("answers in llama.cpp's shape, or with the fields that are named", async () => {
    const { body } = await post("/infill", sent);
    expect(infillAnswer.parse(body)).toMatchObject({
      stop: true,
      stop_type: "limit",
      stopping_word: "",
      tokens_predicted: 4,
      truncated: false,
      timings: { predicted_n: 4 },
    });
    const tokens = await engine.tokenize({ prefix, suffix });
    expect(body).toMatchObject({ tokens_evaluated: tokens.length, tokens_cached: tokens.length + 4 });
    const fields = ["content", "timings/predicted_n", "timings/nothing", "truncated", "constructor"];
    const named = await post("/infill", { ...sent, response_fields: fields });
    expect(named.body).toEqual({ content: body["content"], "timings/predicted_n": 4, truncated: false });
  });

  test("takes what llama.vim and llama.vscode send, and reads a prompt without an answer", async () => {
    const editor = {
      ...sent,
      input_extra: [],
      prompt: "",
      id_slot: 0,
      n_indent: 4,
      stop: [],
      top_k: 40,
      top_p: 0.99,
      stream: false,
      samplers: ["top_k", "top_p", "infill"],
      cache_prompt: true,
      t_max_prompt_ms: 500,
      t_max_predict_ms: 60_000,
    };
    expect((await post("/infill", editor)).body).toMatchObject({ tokens_predicted: 4, stop: true });
    const warming = { ...editor, n_predict: 0, samplers: [], t_max_predict_ms: 1 };
    expect((await post("/infill", warming)).body).toMatchObject({ content: "", tokens_predicted: 0, stop: true });
    const { status, body } = await post("/infill", { ...warming, response_fields: [""] });
    expect([status, body]).toEqual([200, {}]);
    const streamed = await (await stream("/infill", warming)).text();
    expect(parseEvents(streamed).data.map((data) => infillAnswer.parse(JSON.parse(data)).content)).toEqual([""]);
  });

  test("names the text or the token that ended the answer", async () => {
    const text = String((await post("/infill", { ...sent, n_predict: 8 })).body["content"]);
    const stop = text.slice(3, 5);
    const stopped = (await post("/infill", { ...sent, n_predict: 8, stop: [stop] })).body;
    expect(stopped).toMatchObject({
      stop_type: "word",
      stopping_word: stop,
      content: text.slice(0, text.indexOf(stop)),
    });
  });

  test("ends an answer of several lines after its time", async () => {
    const [newline = -1] = await engine.tokenize("\n", { addSpecialTokens: false });
    const onRequest: OnRequest = (body) => ({ ...body, logit_bias: { [newline]: 100 } });
    await using biased = await listen(express().use(readMe({ engine, onRequest })));
    const long = { ...sent, n_predict: ENDLESS_TOKENS, t_max_predict_ms: 1 };
    const { body } = await postJson(`${biased.url}/infill`, long);
    const predicted = Number(body["tokens_predicted"]);
    expect(body).toMatchObject({ content: "\n".repeat(predicted), stop_type: "limit", has_new_line: true });
    expect(predicted).toBeLessThan(ENDLESS_TOKENS);
    expect(body).toMatchObject({ timings: { predicted_n: predicted } });
  });
});

describe("refusals", () => {
  test("name the parameter of the API that was asked", async () => {
    const cases: readonly (readonly [string, object, string, string])[] = [
      ["/v1/completions", { prompt: "x", suffix, echo: true }, "echo", "unsupported_parameter"],
      ["/v1/completions", { prompt: [5], suffix }, "prompt", "invalid_value"],
      ["/v1/completions", { prompt: [[5]], suffix }, "prompt", "invalid_value"],
      ["/v1/completions", { prompt: "x", suffix: 5 }, "suffix", "invalid_value"],
      ["/v1/completions", { prompt: "x", input_extra: [{ text: "x" }] }, "input_extra", "invalid_value"],
      ["/infill", { input_suffix: "x" }, "input_prefix", "missing_required_parameter"],
      ["/infill", { input_prefix: "x", input_suffix: "y", n_predict: -3 }, "n_predict", "invalid_value"],
      ["/infill", { input_prefix: "x", input_suffix: "y", mirostat: 2 }, "mirostat", "invalid_value"],
      [
        "/infill",
        { input_prefix: "x", input_suffix: "y", input_extra: [{}] },
        "input_extra[0].text",
        "missing_required_parameter",
      ],
      ["/v1/fim/completions", { prompt: "x", min_tokens: 3, max_tokens: 2 }, "min_tokens", "invalid_value"],
      ["/v1/fim/completions", { suffix }, "prompt", "missing_required_parameter"],
    ];
    for (const [path, body, param, code] of cases) {
      const answer = await post(path, body);
      expect([path, answer.status, answer.body], JSON.stringify(body)).toMatchObject([
        path,
        400,
        { error: { param, code } },
      ]);
    }
    const long = "a b ".repeat(40_000);
    const answer = await post("/infill", { input_prefix: long, input_suffix: "" });
    expect(answer).toMatchObject({
      status: 400,
      body: { error: { param: "input_prefix", code: "context_length_exceeded" } },
    });
  });

  test("say that a model has no marks", async () => {
    await using unmarked = await openTinyEngine(`${folder}/unmarked`);
    await using other = await listen(express().use(readMe({ models: { tiny: unmarked }, ollama: true })));
    const params = ["suffix", undefined, "input_suffix", "suffix"];
    for (const [index, [path, body]] of APIS.entries()) {
      const { status, body: refusal } = await postJson(`${other.url}${path}`, body);
      expect(status, path).toBe(400);
      expect(JSON.stringify(refusal)).toContain("The model 'tiny' cannot fill in the middle");
      const param = params[index];
      if (param) expect(refusal).toMatchObject({ error: { param, code: "unsupported_parameter" } });
    }
    const [marked, bare] = await Promise.all(
      [server, other].map(async ({ url }) => postJson(`${url}/api/show`, { model: "tiny" })),
    );
    expect(marked?.body["capabilities"]).toContain("insert");
    expect(bare?.body["capabilities"]).not.toContain("insert");
  });
});

test("answers are as they are documented", async () => {
  const [completion, , , fim] = await Promise.all(APIS.map(async ([path, body]) => (await post(path, body)).body));
  expect(() => [completionAnswer.parse(completion), chatAnswer.parse(fim)]).not.toThrow();
});

test("a policy of admission sees the tokens, and the answer still ends at marks", async () => {
  const [pad = -1] = await engine.tokenize(QWEN_MARKS.pad);
  let numAsked = 0;
  const policy = (): void => void numAsked++;
  const onRequest: OnRequest = (body) => ({ ...body, logit_bias: { [pad]: 100 } });
  await using asked = await listen(express().use(readMe({ engine, onRequest, admission: { policy } })));
  const { body } = await postJson(`${asked.url}/infill`, { input_prefix: prefix, input_suffix: suffix, n_predict: 8 });
  expect(body).toMatchObject({ content: "", stop_type: "eos", tokens_predicted: 1 });
  expect(numAsked).toBe(1);
});

test("fifty keystrokes of which each cancels the one before leave nothing running, and reuse what was typed", async () => {
  const before = "function sum(numbers) {\n  let total = 0;\n".repeat(12);
  const behind = "\n  return total;\n}\n".repeat(4);
  const line = "  for (const number of numbers) total += number; ".slice(0, 49);
  const sent = { input_prefix: before, input_suffix: behind, n_predict: ENDLESS_TOKENS };
  const { cachedTokens: cachedBefore } = await engine.stats();
  for (let typed = 0; typed < 50; typed++) {
    const next = new AbortController();
    const arrived = once(server.server, "request");
    const answer = stream("/infill", { ...sent, prompt: line.slice(0, typed) }, next.signal);
    // The next key comes while the answer runs, and every third one before it has begun.
    if (typed % 3 === 0) await arrived;
    else await (await answer).body?.getReader().read();
    next.abort();
    if (typed % 3 === 0) await expect(answer).rejects.toThrow("abort");
  }
  await expect.poll(async () => engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
  const beginning = (await engine.tokenize(before)).length;
  const { cachedTokens } = await engine.stats();
  // A request that ended before its prompt had run found nothing, or left nothing.
  expect(cachedTokens - cachedBefore).toBeGreaterThan(20 * (beginning - 32));
});

test("a brake lets one line end, and counts from the first chunk", () => {
  let nowMs = 100;
  const brake = lineWithin(10, () => nowMs);
  expect(brake({ text: "a" })).toBe(false);
  nowMs = 200;
  expect(brake({ text: "b" })).toBe(false);
  expect(brake({ text: "c\nd" })).toBe(true);
  const other = lineWithin(10, () => nowMs);
  expect(other({ text: "\n" })).toBe(false);
  nowMs = 210;
  expect(other({ text: "" })).toBe(false);
  nowMs = 211;
  expect(other({ text: "" })).toBe(true);
});

test("fields of an answer are found by their paths only", () => {
  const answer = { a: { b: 1, c: null }, d: [2] };
  expect(selectFields([], answer)).toBe(answer);
  expect(selectFields(["a/b", "a", "a/c", "d/0", "a/b/c", "toString", ""], answer)).toEqual({
    "a/b": 1,
    a: { b: 1, c: null },
    "a/c": null,
  });
});
