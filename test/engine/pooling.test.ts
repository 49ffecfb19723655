// Embeddings and scores: the numbers of sentence-transformers and transformers, the same bits in every batch, and the ends of requests.

import { readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { embeddingOf, type EmbedRequest, type Engine, type RerankRequest } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { encodeFloats, openModel, SafetensorsFile, type SafetensorsInput, writeSafetensors } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { writePoolingGguf } from "../support/gguf/convert-model.ts";
import {
  copyWith,
  cosine,
  EMBEDDING_MODEL,
  openPooling,
  poolingGolden,
  writeReranker,
} from "../support/pooling-models.ts";
import { seededRandom } from "../support/random.ts";
import { largestDifference } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const { embeddings, rankings } = poolingGolden;
const texts = embeddings.filter(({ prompt }) => prompt === undefined);
const inputs = texts.map(({ input }) => input);

/** Largest distance of a float32 embedding from sentence-transformers', in any dimension. */
const CLOSE = 1e-5;

let embedder: ReadMeEngine;
let reranker: ReadMeEngine;
let rerankerFolder: string;

beforeAll(async () => {
  rerankerFolder = await writeReranker();
  [embedder, reranker] = await Promise.all([openPooling(EMBEDDING_MODEL), openPooling(rerankerFolder)]);
});
afterAll(async () => {
  await embedder.dispose();
  await reranker.dispose();
});

async function expectIdle(engine: Engine): Promise<void> {
  await expect.poll(() => engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
}

describe("embeddings", () => {
  test("are those of sentence-transformers, in one request and one by one", async () => {
    expect(embedder.info).toMatchObject({ task: "embed", hasChatTemplate: false });
    expect(embedder.info.embedding).toMatchObject({ dimensions: 48, isNormalized: true });
    const { embeddings: together, usage } = await embedder.embed({ inputs });
    for (const [index, { input, input_ids: ids, embedding }] of texts.entries()) {
      expect(largestDifference(together[index]!, embedding)).toBeLessThan(CLOSE);
      const { embeddings: alone } = await embedder.embed({ inputs: [input] });
      expect(alone[0]).toEqual(together[index]);
      const { embeddings: ofIds } = await embedder.embed({ inputs: [ids] });
      expect(ofIds[0]).toEqual(together[index]);
    }
    expect(usage.promptTokens).toBe(texts.reduce((sum, { input_ids: ids }) => sum + ids.length, 0));
    await expectIdle(embedder);
  });

  test("have the model's prompts and instructions before them", async () => {
    const queries = embeddings.filter(({ prompt }) => prompt !== undefined);
    expect(queries.length).toBeGreaterThan(1);
    for (const { input, prompt, embedding } of queries) {
      const { embeddings: named } = await embedder.embed({ inputs: [input], promptName: prompt });
      expect(largestDifference(named[0]!, embedding)).toBeLessThan(CLOSE);
      const instruction = "Given a web search query, retrieve relevant passages that answer the query";
      const { embeddings: instructed } = await embedder.embed({ inputs: [input], instruction });
      expect(instructed[0]).toEqual(named[0]);
    }
  });

  test("can be cut, and have length 1 then", async () => {
    const { embeddings: whole } = await embedder.embed({ inputs });
    const { embeddings: cut } = await embedder.embed({ inputs, dimensions: 7 });
    for (const [index, values] of cut.entries()) {
      // The whole embedding was rounded before.
      expect(largestDifference(values, embeddingOf(whole[index]!, true, 7))).toBeLessThan(1e-6);
      expect(Math.hypot(...values)).toBeCloseTo(1, 6);
    }
  });

  test("have the same bits in every order, chunk size, number of threads and build", async () => {
    const { embeddings: right } = await embedder.embed({ inputs });
    const variants = [
      { chunkTokens: 64, maxNumSeqs: 2 },
      { threads: 2, maxNumBatchedSeqs: 1, prefixCacheBytes: 0 },
      { kernel: "wasm", kvCacheBytes: 600_000 },
    ] as const;
    const random = seededRandom(5);
    for (const options of variants) {
      const engine = await openPooling(EMBEDDING_MODEL, { precision: "int8", ...options });
      const plain = await openPooling(EMBEDDING_MODEL, { precision: "int8" });
      const { embeddings: expected } = await plain.embed({ inputs });
      const order = inputs.map((_, index) => index).toSorted(() => random() - 0.5);
      const { embeddings: mixed } = await engine.embed({ inputs: order.map((index) => inputs[index]!) });
      for (const [place, index] of order.entries()) {
        expect(mixed[place]).toEqual(expected[index]);
        // Random weights forgive little.
        expect(cosine(mixed[place]!, right[index]!)).toBeGreaterThan(0.95);
      }
      await expectIdle(engine);
      await engine.dispose();
      await plain.dispose();
    }
  });

  test("are the same from a GGUF file that says how it pools", async () => {
    const model = await openModel(EMBEDDING_MODEL);
    const path = join(await temporaryFolder(), "model.gguf");
    await writePoolingGguf(model, path, { "qwen3.pooling_type": 3 });
    const engine = await openPooling(path);
    const { embeddings: own } = await engine.embed({ inputs });
    for (const [index, { embedding }] of texts.entries()) {
      expect(largestDifference(own[index]!, embedding)).toBeLessThan(CLOSE);
    }
    await engine.dispose();
    await model.close();
  });

  test("use the whole context, and no more", async () => {
    const engine = await openPooling(EMBEDDING_MODEL, { contextTokens: 64 });
    const ids = Array.from({ length: 64 }, (_, index) => index + 3);
    expect((await engine.embed({ inputs: [ids] })).usage.promptTokens).toBe(64);
    await expect(engine.embed({ inputs: ["a", [...ids, 1]] })).rejects.toMatchObject({ code: "ERR_CONTEXT_LENGTH" });
    // Each place: its error comes before, with or after the ends of others.
    for (let at = 0; at < 24; at++) {
      const many = Array.from({ length: 24 }, (_, index) => (index === at ? [...ids, 1] : ids.slice(index % 5)));
      await expect(engine.embed({ inputs: many })).rejects.toMatchObject({ code: "ERR_CONTEXT_LENGTH" });
    }
    await expectIdle(engine);
    await engine.dispose();
  });

  test("end with the signal, and with the engine", async () => {
    const many = Array.from({ length: 200 }, (_, index) => `${inputs.at(-1)} ${index}`);
    const leaving = new AbortController();
    const left = embedder.embed({ inputs: many, signal: leaving.signal });
    embedder.events.once("batch:completed", () => leaving.abort(new Error("left")));
    await expect(left).rejects.toThrow("left");
    await expect(embedder.embed({ inputs: ["a"], signal: AbortSignal.abort(new Error("early")) })).rejects.toThrow(
      "early",
    );
    // The abort reaches the worker after the promise has rejected.
    await embedder.embed({ inputs: ["after"] });
    await expectIdle(embedder);
    const engine = await openPooling(EMBEDDING_MODEL);
    const lost = engine.embed({ inputs: many });
    const disposed = expect(lost).rejects.toMatchObject({ code: "ERR_DISPOSED" });
    await engine.dispose();
    await disposed;
  });

  test("refuse a caller's mistakes by name", async () => {
    const mistakes: readonly (readonly [unknown, string])[] = [
      [undefined, "a request { inputs"],
      [{ inputs: [] }, "`inputs`"],
      [{ inputs: ["a", 3] }, "`inputs[1]`"],
      [{ inputs: [[]] }, "`inputs[0]`"],
      [{ inputs: [[9999]] }, "9999"],
      [{ inputs: ["a"], dimensions: 49 }, "`dimensions`"],
      [{ inputs: ["a"], dimensions: 0 }, "`dimensions`"],
      [{ inputs: ["a"], promptName: "toString" }, "query, document"],
      [{ inputs: ["a"], promptName: "query", instruction: "b" }, "got both"],
      [{ inputs: ["a"], dimension: 3 }, "dimension"],
      [{ inputs: ["a"], priority: NaN }, "`priority`"],
    ];
    for (const [request, part] of mistakes) await expect(embedder.embed(request as EmbedRequest)).rejects.toThrow(part);
    expect(() => embedder.generate({ prompt: "a" })).toThrow("use `embed`");
    await expect(embedder.rerank({ query: "a", documents: ["b"] })).rejects.toThrow("use `embed`");
    await expectIdle(embedder);
  });
});

describe("scores", () => {
  test("are those of transformers", async () => {
    expect([reranker.info.task, reranker.info.embedding]).toEqual(["rerank", undefined]);
    for (const { query, instruction, documents, scores, tokens } of rankings) {
      const ranking = await reranker.rerank({
        query,
        documents,
        ...(instruction === undefined ? {} : { instruction }),
      });
      expect(largestDifference(ranking.scores, scores)).toBeLessThan(CLOSE);
      expect(ranking.usage.promptTokens).toBe(tokens.reduce((sum, count) => sum + count));
    }
    await expectIdle(reranker);
  });

  test("run what prompts have in common once", async () => {
    const [{ query, documents }] = rankings as unknown as [RerankRequest];
    const engine = await openPooling(rerankerFolder, { chunkTokens: 64, maxNumSeqs: 1 });
    const first = await engine.rerank({ query, documents });
    const { usage } = await engine.rerank({ query, documents });
    expect(first.usage.cachedTokens).toBeGreaterThan(0);
    expect(usage.cachedTokens).toBeGreaterThan(first.usage.cachedTokens);
    const salted = await engine.rerank({ query, documents, cacheSalt: "one" });
    expect(salted.usage.cachedTokens).toBe(first.usage.cachedTokens);
    const again = await engine.rerank({ query, documents, cacheSalt: "one" });
    expect(again.usage.cachedTokens).toBe(usage.cachedTokens);
    await expect(engine.rerank({ query, documents, cacheSalt: 1 as never })).rejects.toThrow("`cacheSalt`");
    await engine.dispose();
  });

  test("are the same from the other layouts of the same model", async () => {
    const [{ query, documents, scores }] = rankings.slice(0, 1) as [(typeof rankings)[number]];
    const [model, language] = await Promise.all([openModel(rerankerFolder), openModel(EMBEDDING_MODEL)]);
    const { store, name } = model.weights.head;
    const rowOf = (row: number) => store.readFloats(name, { from: row, to: row + 1 });
    const [yes, no] = await Promise.all([rowOf(0), rowOf(1)]);
    const ggufPath = join(await temporaryFolder(), "model.gguf");
    const labels = { "qwen3.pooling_type": 4, "qwen3.classifier.output_labels": ["no", "yes"] };
    await writePoolingGguf(language, ggufPath, labels, [no, yes]);
    const layouts = [ggufPath, await publishedLayout(), await classifierLayout(yes, no)];
    for (const path of layouts) {
      const engine = await openPooling(path);
      const ranking = await engine.rerank({ query, documents });
      expect(largestDifference(ranking.scores, scores)).toBeLessThan(CLOSE);
      await engine.dispose();
    }
    await Promise.all([model.close(), language.close()]);
  });

  test("refuse a caller's mistakes by name", async () => {
    const mistakes: readonly (readonly [unknown, string])[] = [
      [null, "a request { query"],
      [{ documents: ["a"] }, "`query`"],
      [{ query: "a", documents: "b" }, "`documents`"],
      [{ query: "a", documents: ["b", null] }, "`documents[1]`"],
      [{ query: "a", documents: ["b"], instruction: 3 }, "`instruction`"],
      [{ query: "a", documents: ["b"], topN: 3 }, "topN"],
    ];
    for (const [request, part] of mistakes) {
      await expect(reranker.rerank(request as RerankRequest)).rejects.toThrow(part);
    }
    await expect(reranker.embed({ inputs: ["a"] })).rejects.toThrow("use `rerank`");
  });
});

/** Makes the folder as Qwen first published it: nothing but the README says that it ranks. */
async function publishedLayout(): Promise<string> {
  const files = { "README.md": "# Qwen3-Reranker-0.6B\n", "chat_template.jinja": "{{ messages }}" };
  const folder = await copyWith(rerankerFolder, files);
  await rm(join(folder, "modules.json"));
  return folder;
}

/** Makes a classifier with one label, whose row is the difference of the two words'. */
async function classifierLayout(yes: Float32Array, no: Float32Array): Promise<string> {
  const folder = await publishedLayout();
  const config = JSON.parse(await readFile(join(folder, "config.json"), "utf8")) as object;
  const changed = { ...config, architectures: ["Qwen3ForSequenceClassification"], id2label: { 0: "LABEL_0" } };
  await writeFile(join(folder, "config.json"), JSON.stringify(changed));
  const path = join(folder, "model.safetensors");
  const store = await SafetensorsFile.open(path);
  const tensors = store.names.map((name): SafetensorsInput => {
    const { shape } = store.info(name);
    return { name, shape, type: "F32", bytes: async () => encodeFloats(await store.readFloats(name), "F32") };
  });
  const difference = yes.map((value, index) => value - no[index]!);
  const score = {
    name: "score.weight",
    shape: [1, yes.length],
    type: "F32" as const,
    bytes: async () => encodeFloats(difference, "F32"),
  };
  await writeSafetensors(`${path}.new`, [...tensors, score]);
  await store.close();
  await rename(`${path}.new`, path);
  return folder;
}
