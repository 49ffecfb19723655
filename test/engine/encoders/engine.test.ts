// Encoders in an engine: equal bits in every batch, texts that are cut, pairs with segments, and real weights.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { embeddingOf, relevanceOf } from "@readme-moe/core";
import type { KvSlot } from "@readme-moe/kernel";
import { openModel } from "@readme-moe/model";
import { expect, test } from "vitest";
import { Classifier } from "../../../packages/engine/src/classifier.ts";
import { loadFolderText, loadTokenizer } from "../../../packages/model/src/text/load-text.ts";
import { realEncoder } from "../../../tools/models/real-models.ts";
import { MODULES, WORDS, writeEmbedder, writeEncoder } from "../../support/encoder-models.ts";
import { fixture, golden } from "../../support/fixtures.ts";
import { writeEncoderGguf } from "../../support/gguf/convert-encoder.ts";
import { madeTokenizer, type Metadata, writeModelGguf } from "../../support/gguf/convert-model.ts";
import { kvFor } from "../../support/greedy.ts";
import { cosine, openPooling } from "../../support/pooling-models.ts";
import { seededRandom } from "../../support/random.ts";
import { largestDifference, runningModel } from "../../support/running-model.ts";
import { persistentFolder } from "../../support/temporary-folder.ts";

/** Metadata of a GGUF file whose embeddings are means. */
const POOLING: Metadata = new Map([["gemma-embedding.pooling_type", { type: "uint32", value: 1 }]]);

/** Makes a text of known words. */
function randomText(random: () => number, numWords: number): string {
  return Array.from({ length: numWords }, () => WORDS[Math.floor(random() * WORDS.length)]).join(" ");
}

/** Runs one text without an engine. @returns the mean of its states, or the first one */
async function stateOf(folder: string, tokenIds: ArrayLike<number>, isAveraged: boolean): Promise<Float32Array> {
  await using running = await runningModel(folder);
  const kv = kvFor(running.runner, tokenIds.length);
  const slot = kv.admit(tokenIds.length) as KvSlot;
  const logitsOf = isAveraged ? Array.from({ length: tokenIds.length }, (_, row) => row) : [0];
  const experts = new Uint16Array(tokenIds.length);
  const [result] = await running.runner.forward(kv, [
    { slot, tokenIds, experts, logitsOf, wantsFullLogits: true, isAveraged },
  ]);
  return result!.fullLogits.slice();
}

test("a text alone waits for two steps of another call, not for all of its texts", async () => {
  const random = seededRandom(6);
  const inputs = Array.from({ length: 200 }, () => randomText(random, 150));
  const engine = await openPooling(await writeEmbedder("bert"), { threads: 1 });
  let [numDone, numBefore] = [0, 0];
  try {
    let begin!: () => void;
    const isUnderWay = new Promise<void>((resolve) => (begin = resolve));
    const onProgress = ({ isDone }: { isDone: boolean }): void => {
      if (isDone && ++numDone === 20) begin();
    };
    const long = engine.embed({ inputs, onProgress });
    await isUnderWay;
    numBefore = numDone;
    await engine.embed({ inputs: ["dog"] });
    // Texts of 600 characters: seven are with the engine, others may follow while an answer is on its way.
    expect(numDone - numBefore).toBeLessThan(24);
    expect((await long).embeddings).toHaveLength(200);
  } finally {
    await engine.dispose();
  }
});

test("embeddings are means of states, with the same bits alone and among others, in any order", async () => {
  const random = seededRandom(5);
  const inputs = Array.from({ length: 60 }, () => randomText(random, Math.floor(random() ** 2 * 140)));
  const folder = await writeEmbedder("bert");
  const engine = await openPooling(folder, { threads: 2 });
  try {
    expect(engine.info).toMatchObject({ task: "embed", contextTokens: 160, embedding: { dimensions: 64 } });
    const { embeddings } = await engine.embed({ inputs });
    const model = await openModel(folder);
    const { tokenizer } = await model.loadText();
    await model.close();
    for (const [index, input] of inputs.entries()) {
      const ids = tokenizer.encode(input, { maxTokens: 160, cuts: true });
      expect(embeddings[index]).toEqual(embeddingOf(await stateOf(folder, ids, true), true));
    }
    const order = Array.from(inputs.keys()).toSorted((a, b) => ((a * 37) % 60) - ((b * 37) % 60));
    const clients = order.map((index) => engine.embed({ inputs: [inputs[index]!, "dog"], client: `${index % 7}` }));
    for (const [place, result] of (await Promise.all(clients)).entries()) {
      expect(result.embeddings[0]).toEqual(embeddings[order[place]!]);
    }
    await expect.poll(() => engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
  } finally {
    await engine.dispose();
  }
});

test("texts are cut where their model's files say, and ids are not", async () => {
  const engine = await openPooling(await writeEmbedder("xlm-roberta", 16));
  try {
    const long = "dog ".repeat(5000);
    const [cut, first] = (await engine.embed({ inputs: [long, "dog ".repeat(14)] })).embeddings;
    expect(cut).toEqual(first);
    const { usage } = await engine.embed({ inputs: [long] });
    expect(usage.promptTokens).toBe(16);
    const tooLong = engine.embed({ inputs: [new Int32Array(engine.info.contextTokens + 1).fill(7)] });
    await expect(tooLong).rejects.toMatchObject({ code: "ERR_CONTEXT_LENGTH" });
    const uncut = engine.embed({ inputs: ["dog", long], truncate: false });
    await expect(uncut).rejects.toMatchObject({ code: "ERR_CONTEXT_LENGTH" });
    const fits = await engine.embed({ inputs: ["dog ".repeat(14)], truncate: false });
    expect(fits.embeddings[0]).toEqual(first);
    const wrong = engine.embed({ inputs: ["dog"], truncate: 1 as never });
    await expect(wrong).rejects.toThrow("Expected `truncate` to be true or false");
  } finally {
    await engine.dispose();
  }
});

test("Nomic's own names of a config's fields mean the same", async () => {
  const own = {
    hidden_size: "n_embd",
    num_attention_heads: "n_head",
    num_hidden_layers: "n_layer",
    intermediate_size: "n_inner",
    layer_norm_eps: "layer_norm_epsilon",
  } as const;
  const {
    rope_parameters: rope,
    hidden_act: _,
    ...plain
  } = JSON.parse(await readFile(fixture("encoders/nomic-bert/config.json"), "utf8")) as Record<string, unknown>;
  const { rope_theta: theta } = rope as { rope_theta: number };
  const renamed = Object.entries(plain).map(([name, value]) => [own[name as keyof typeof own] ?? name, value] as const);
  const published = { activation_function: "swiglu", prenorm: false, rotary_emb_base: theta, rotary_emb_fraction: 1 };
  const config = { ...Object.fromEntries(renamed), ...published, qkv_proj_bias: false };
  const ids = [2, 40, 90, 3];
  const state = await stateOf(await writeEncoder("nomic-bert", { "config.json": config }), ids, true);
  expect(state).toEqual(await stateOf(await writeEncoder("nomic-bert"), ids, true));
});

test("embeddings are normalised, or not, as the request says", async () => {
  const inputs = ["green house"];
  const files = { "modules.json": MODULES.slice(0, 2), "1_Pooling/config.json": { pooling_mode_mean_tokens: true } };
  const engines = [
    await openPooling(await writeEncoder("bert", files)),
    await openPooling(await writeEmbedder("bert")),
  ];
  try {
    const [plain, normalized] = await Promise.all(engines.map((engine) => engine.embed({ inputs })));
    expect(embeddingOf(plain!.embeddings[0]!, true)).toEqual(normalized!.embeddings[0]);
    for (const engine of engines) {
      expect((await engine.embed({ inputs, normalize: false })).embeddings).toEqual(plain!.embeddings);
      expect((await engine.embed({ inputs, normalize: true })).embeddings).toEqual(normalized!.embeddings);
    }
  } finally {
    for (const engine of engines) await engine.dispose();
  }
});

test.for(["bert-rank", "xlm-roberta-rank"])("%s ranks pairs with their segments, the longer text cut", async (name) => {
  const folder = await writeEncoder(name);
  const engine = await openPooling(folder);
  try {
    expect(engine.info).toMatchObject({ task: "rerank", hasChatTemplate: false });
    const documents = ["green house", "", "paper. walking dogs", "[SEP] dog", "runs ".repeat(300)];
    const { scores } = await engine.rerank({ query: "dog house", documents });
    const model = await openModel(folder);
    const { tokenizer } = await model.loadText();
    const { vocabSize, contextTokens, encoder, rmsNormEpsilon } = model.config;
    const classifier = await Classifier.open(model.weights.encoder!.classifier, rmsNormEpsilon);
    await model.close();
    for (const [index, document] of documents.entries()) {
      const [query, rest] = ["dog house", document].map((text) => tokenizer.encode(text, { addSpecialTokens: false }));
      // A control token in a text is text.
      const plain = index === 3 ? tokenizer.encode("[ sep ] dog", { addSpecialTokens: false }) : rest!;
      const body = plain.subarray(0, contextTokens - query!.length - 3);
      const segment = encoder!.numSegments > 1 ? vocabSize : 0;
      const ids = [2, ...query!, 3, ...[...body, 3].map((id) => id + segment)];
      expect(scores[index]).toBe(relevanceOf(classifier.logitsOf(await stateOf(folder, ids, false))));
    }
    const logits = await engine.rerank({ query: "dog house", documents, rawScores: true });
    for (const [index, logit] of logits.scores.entries()) {
      expect(1 / (1 + Math.exp(-logit))).toBe(scores[index]);
    }
    // The last document has one token more than there is room for, then as many.
    const room = engine.info.contextTokens - 5;
    const uncut = (words: number) =>
      engine.rerank({ query: "dog house", documents: ["runs ".repeat(words)], truncate: false });
    await expect(uncut(room + 1)).rejects.toMatchObject({ code: "ERR_CONTEXT_LENGTH" });
    expect((await uncut(room)).usage.promptTokens).toBe(engine.info.contextTokens);
    const instructed = engine.rerank({ query: "dog", documents, instruction: "Find dogs" });
    await expect(instructed).rejects.toThrow(/Expected no `instruction`/);
  } finally {
    await engine.dispose();
  }
});

test.for([
  ["bert", 1],
  ["nomic-bert", 2],
  ["modernbert", 1],
] as const)("%s has the same vectors from a GGUF file, and nearly so in its blocks", async ([name, pooling]) => {
  const inputs = ["Dogs, walking!", "green paper house", ""];
  const folder = await writeEncoder(name, { "1_Pooling/config.json": { pooling_mode_cls_token: pooling === 2 } });
  const open = async (type: "F32" | "Q8_0", precision: "fp32" | "file") => {
    const path = join(await persistentFolder(), `${name}.gguf`);
    await writeEncoderGguf(folder, path, type, pooling);
    return openPooling(path, { precision });
  };
  const engines = [await open("F32", "fp32"), await open("Q8_0", "file")];
  try {
    const [plain, blocks] = await Promise.all(engines.map((engine) => engine.embed({ inputs })));
    for (const [index, vector] of plain!.embeddings.entries()) {
      const { tokenizer } = await loadFolderText(folder);
      const state = await stateOf(folder, tokenizer.encode(inputs[index]!), pooling === 1);
      expect(vector).toEqual(embeddingOf(state, true));
      expect(cosine(blocks!.embeddings[index]!, vector)).toBeGreaterThan(0.99);
    }
  } finally {
    for (const engine of engines) await engine.dispose();
  }
});

test("an encoder that ranks has the same scores from a GGUF file, and BERT's are refused without their pooler", async () => {
  const asked = { query: "dog house", documents: ["green house", "", "paper. walking dogs", "runs ".repeat(300)] };
  const folder = await writeEncoder("xlm-roberta-rank");
  const files = [join(await persistentFolder(), "ranker.gguf"), join(await persistentFolder(), "bert.gguf")] as const;
  await writeEncoderGguf(folder, files[0], "F32", 4);
  await writeEncoderGguf(await writeEncoder("bert-rank"), files[1], "F32", 4);
  const engines = [await openPooling(folder), await openPooling(files[0])];
  try {
    const [right, own] = await Promise.all(engines.map((engine) => engine.rerank(asked)));
    expect(own!.scores).toEqual(right!.scores);
  } finally {
    for (const engine of engines) await engine.dispose();
  }
  await expect(openPooling(files[1])).rejects.toMatchObject({
    code: "ERR_MODEL_UNSUPPORTED",
    message: /leaves out the pooler/,
  });
});

interface DenseCase {
  readonly input_ids: readonly number[];
  readonly first: readonly number[];
  readonly mean: readonly number[];
  readonly embedding: readonly number[];
}

const { cases: denseCases } = golden("encoders/embeddinggemma") as { readonly cases: readonly DenseCase[] };

test("EmbeddingGemma's embeddings are those of PyTorch, states without the modules Dense", async () => {
  const engine = await openPooling(await writeEncoder("embeddinggemma"), { threads: 2 });
  try {
    const prompts = { query: "task: search result | query: ", document: "title: none | text: " };
    expect(engine.info).toMatchObject({ task: "embed", embedding: { dimensions: 48, prompts, givesStates: true } });
    const inputs = denseCases.map(({ input_ids }) => input_ids);
    const { embeddings } = await engine.embed({ inputs });
    const { embeddings: states } = await engine.embed({ inputs, pooling: "none" });
    const { embeddings: short } = await engine.embed({ inputs, dimensions: 16 });
    for (const [index, { embedding, first, input_ids }] of denseCases.entries()) {
      expect(largestDifference(embeddings[index]!, embedding)).toBeLessThan(1e-5);
      expect(largestDifference(short[index]!, embeddingOf(Float32Array.from(embedding), true, 16))).toBeLessThan(1e-5);
      expect(states[index]).toHaveLength(64 * input_ids.length);
      expect(largestDifference(states[index]!.subarray(0, 64), first)).toBeLessThan(1e-4);
      expect((await engine.embed({ inputs: [input_ids] })).embeddings[0]).toEqual(embeddings[index]);
    }
    const [named] = (await engine.embed({ inputs: ["green dog"], promptName: "query" })).embeddings;
    const [spelled] = (await engine.embed({ inputs: [`${prompts.query}green dog`] })).embeddings;
    expect(named).toEqual(spelled);
    await expect(engine.embed({ inputs: ["dog"], dimensions: 49 })).rejects.toThrow(/`dimensions`.*48/);
  } finally {
    await engine.dispose();
  }
});

test("EmbeddingGemma in int8 has nearly the same embeddings", async () => {
  const engine = await openPooling(await writeEncoder("embeddinggemma"), { precision: "int8" });
  try {
    const { embeddings } = await engine.embed({ inputs: denseCases.map(({ input_ids }) => input_ids) });
    for (const [index, { embedding }] of denseCases.entries())
      expect(cosine(embeddings[index]!, embedding)).toBeGreaterThan(0.99);
  } finally {
    await engine.dispose();
  }
});

test.for([0, 2])("EmbeddingGemma's GGUF files with %i layers behind the mean are read", async (numLayers) => {
  const random = seededRandom(3);
  const matrix = (numValues: number) => Float32Array.from({ length: numValues }, () => random() - 0.5);
  const layers = [
    { name: "dense_2.weight", type: "F32" as const, shape: [96, 64], values: matrix(96 * 64) },
    { name: "dense_3.weight", type: "F32" as const, shape: [64, 96], values: matrix(64 * 96) },
  ].slice(0, numLayers);
  const path = join(await persistentFolder(), "embeddinggemma.gguf");
  const tokenizer = { model: { vocab: { a: 5 }, merges: [] } };
  const model = await openModel(await writeEncoder("embeddinggemma", { "tokenizer.json": tokenizer }));
  const more = layers.map(({ values, ...tensor }) => ({ ...tensor, floats: async () => values }));
  const texts = new Map([...(await madeTokenizer(model)), ...POOLING]);
  await writeModelGguf(model, path, "F32", texts, more);
  await model.close();
  const engine = await openPooling(path);
  try {
    const { embeddings } = await engine.embed({ inputs: denseCases.map(({ input_ids }) => input_ids) });
    for (const [index, { mean }] of denseCases.entries()) {
      const expected = layers.reduce<readonly number[]>(
        (input, { shape: [numOut], values }) =>
          Array.from({ length: numOut! }, (_, row) =>
            input.reduce((sum, value, i) => sum + value * values[row * input.length + i]!, 0),
          ),
        mean,
      );
      const embedding = embeddingOf(Float32Array.from(expected), true);
      expect(largestDifference(embeddings[index]!, embedding)).toBeLessThan(1e-5);
    }
  } finally {
    await engine.dispose();
  }
});

interface MiniLm {
  readonly cases: readonly { readonly text: string; readonly ids: readonly number[]; readonly vector: number[] }[];
}

const MINILM_TOKENS = 256;

test("MiniLM's token ids are those of its tokenizer, also of long, empty and foreign texts", async () => {
  const tokenizer = await loadTokenizer(fixture("minilm"));
  for (const { text, ids } of (golden("minilm") as MiniLm).cases) {
    const encoded = tokenizer.encode(text, { maxTokens: MINILM_TOKENS, cuts: true });
    expect(Array.from(encoded), text.slice(0, 80)).toEqual(ids);
  }
  const ids = tokenizer.encode("Walking, a dog's unbelievable!", { addSpecialTokens: false });
  expect(tokenizer.decode(ids)).toBe("walking, a dog's unbelievable!");
});

const minilm = realEncoder();

test("MiniLM's vectors are those of PyTorch", async ({ skip }) => {
  if (minilm === undefined) skip("needs `npm run fetch:models -- minilm`");
  const { cases } = golden("minilm") as MiniLm;
  const inputs = cases.map(({ text }) => text);
  for (const [precision, distance] of [
    ["fp32", 1e-5],
    ["int8", 1e-3],
  ] as const) {
    const engine = await openPooling(minilm!, { precision, threads: 2 });
    try {
      const { embeddings } = await engine.embed({ inputs });
      for (const [index, { vector }] of cases.entries()) {
        expect(1 - cosine(embeddings[index]!, vector), `${precision}: ${inputs[index]}`).toBeLessThan(distance);
        if (precision === "fp32") expect(largestDifference(embeddings[index]!, vector)).toBeLessThan(1e-4);
      }
    } finally {
      await engine.dispose();
    }
  }
});
