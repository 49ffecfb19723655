// Labels over HTTP, in the shapes of vLLM and of Text Embeddings Inference: the engine's numbers, and refusals.

import { labelProbabilities } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { readMe, type RoutedRequest } from "@readme-moe/express";
import express from "express";
import { afterAll, beforeAll, expect, test } from "vitest";
import { classifyAnswer, teiPredictAnswer } from "../../packages/express/src/api/answer-schemas.ts";
import { writeEncoder, writeHead } from "../support/encoder-models.ts";
import { openPooling } from "../support/pooling-models.ts";
import { type JsonAnswer, postJson } from "../support/post-json.ts";
import { largestDifference } from "../support/running-model.ts";
import { listen, type RunningServer } from "../support/served-model.ts";

const LABELS = ["contradiction", "neutral", "entailment"];
const PAIR = ["dog runs", "green house"] as const;

let engines: Readonly<Record<"classifier" | "tagger" | "ranker", ReadMeEngine>>;
let server: RunningServer;
const seen: string[] = [];
const routed: RoutedRequest[] = [];

beforeAll(async () => {
  const [classifier, tagger, ranker] = await Promise.all([
    openPooling(await writeHead("bert", "classify")),
    openPooling(await writeHead("bert", "tag")),
    openPooling(await writeEncoder("bert-rank")),
  ]);
  engines = { classifier, tagger, ranker };
  const options = readMe({
    models: engines,
    keys: { ann: "secret" },
    admission: { policy: (about) => void routed.push(about) },
    onRequest: (body, { endpoint }) => {
      seen.push(endpoint);
      return "user" in body ? { ...body, model: "tagger" } : undefined;
    },
  });
  server = await listen(express().use(options));
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  for (const engine of Object.values(engines)) await engine.dispose();
});

const post = (path: string, body: object, authorization = "Bearer secret"): Promise<JsonAnswer> =>
  postJson(`${server.url}${path}`, { model: "classifier", ...body }, { authorization });

/** Computes probabilities without the server. */
async function probabilitiesOf(inputs: Parameters<ReadMeEngine["classify"]>[0]["inputs"]) {
  const { logits } = await engines.classifier.classify({ inputs });
  return logits.map((own) => labelProbabilities(own, { labels: LABELS, activation: "softmax" }));
}

test("/classify gives the labels of texts, token ids and pairs, in their order", async () => {
  const ids = Array.from(await engines.classifier.tokenize("dog"));
  for (const [input, inputs] of [
    ["dog runs", ["dog runs"]],
    [
      ["dog runs", "house"],
      ["dog runs", "house"],
    ],
    [ids, [ids]],
    [
      [ids, [2, 3]],
      [ids, [2, 3]],
    ],
    [
      [PAIR, "dog"],
      [PAIR, "dog"],
    ],
  ] as const) {
    const { data, usage, model } = classifyAnswer.parse((await post("/classify", { input })).body);
    const expected = await probabilitiesOf(inputs);
    expect(data).toHaveLength(expected.length);
    for (const [index, { label, probs, num_classes: numClasses }] of data.entries()) {
      expect(largestDifference(probs, expected[index]!)).toBe(0);
      expect(label).toBe(LABELS[probs.indexOf(Math.max(...probs))]);
      expect(numClasses).toBe(3);
    }
    expect(model).toBe("classifier");
    expect(usage.total_tokens).toBe(usage.prompt_tokens);
    expect(routed.at(-1)).toMatchObject({ promptTokens: usage.total_tokens, maxCompletionTokens: 0 });
  }
});

const predict = async (body: object) => teiPredictAnswer.parse((await post("/predict", body)).body);

const ranked = (values: Float32Array) =>
  LABELS.map((label, index) => ({ label, score: values[index]! })).toSorted((a, b) => b.score - a.score);

test("/predict ranks the labels of a text, of a pair, or of a list of them", async () => {
  const [text, pair] = await probabilitiesOf(["dog runs", PAIR]);
  expect(await predict({ inputs: "dog runs" })).toEqual(ranked(text!));
  expect(await predict({ inputs: ["dog runs"] })).toEqual(ranked(text!));
  expect(await predict({ inputs: PAIR })).toEqual(ranked(pair!));
  const all = [ranked(pair!), ranked(text!)];
  expect(await predict({ inputs: [PAIR, ["dog runs"]], truncate: true, raw_scores: false })).toEqual(all);
  const { logits } = await engines.classifier.classify({ inputs: [PAIR] });
  expect(await predict({ inputs: [PAIR], raw_scores: true })).toEqual([ranked(logits[0]!)]);
  const long = { inputs: "dog ".repeat(5000) };
  expect(await predict({ ...long, truncation_direction: "Right" })).toHaveLength(3);
  expect(await post("/predict", { ...long, truncate: false })).toMatchObject({
    status: 400,
    body: { error: { code: "context_length_exceeded", param: "inputs" } },
  });
});

test("keys, `onRequest` and wrong bodies are those of other routes", async () => {
  expect(await post("/classify", { input: "dog" }, "Bearer wrong")).toMatchObject({ status: 401 });
  seen.length = 0;
  expect(await post("/classify", { input: "dog", user: "a" })).toMatchObject({ status: 400 });
  await post("/predict", { inputs: "dog" });
  expect(seen).toEqual(["/classify", "/predict"]);
  const many = Array.from({ length: 2049 }, () => "a");
  const refusals: readonly (readonly [string, object, string, string])[] = [
    ["/classify", { model: "ranker", input: "a" }, "model", "`classifier`, `tagger` gives labels"],
    ["/classify", { model: "tagger", input: "a" }, "model", "labels of tokens"],
    ["/classify", {}, "input", "missing"],
    ["/classify", { input: [] }, "input", ""],
    ["/classify", { input: ["a", 3] }, "input[1]", ""],
    ["/classify", { input: [["a", "b", "c"]] }, "input[0]", ""],
    ["/classify", { input: [99_999] }, "input", "below"],
    ["/classify", { input: many }, "input", "2048"],
    ["/classify", { input: "a", activation: "none" }, "activation", "not supported"],
    ["/predict", { model: "tagger", inputs: "a" }, "model", "labels of tokens"],
    ["/predict", { inputs: ["a", "b", "c"] }, "inputs", ""],
    ["/predict", { inputs: [[]] }, "inputs[0]", ""],
    ["/predict", { inputs: many.map((text) => [text]) }, "inputs", "2048"],
    ["/predict", { inputs: "a", raw_scores: "yes" }, "raw_scores", ""],
  ];
  for (const [path, body, param, part] of refusals) {
    const answer = await post(path, body);
    expect(answer, `${path} ${param}`).toMatchObject({
      status: 400,
      body: { error: { type: "invalid_request_error" } },
    });
    expect((answer.body as { error: { param: string } }).error.param).toContain(param);
    expect(JSON.stringify(answer.body)).toContain(part);
  }
  const long = await post("/predict", { inputs: "dog ".repeat(5000) });
  expect(long).toMatchObject({ status: 200 });
});
