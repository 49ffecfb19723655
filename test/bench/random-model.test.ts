// Models for measuring speed.

import { join } from "node:path";
import { GgufFile, openModel } from "@readme-moe/model";
import { expect, test } from "vitest";
import { writeRandomFile } from "../../bench/file/random-file.ts";
import { randomModel } from "../../bench/random-model.ts";
import { promptLogits, runningModel } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { TINY_SHAPE } from "../support/tiny-shape.ts";

test("no two tensors are equal", async () => {
  const { layers } = randomModel(TINY_SHAPE, 3, 48).weights;
  const weights = layers.flatMap(({ attention: { query, key, value, output }, experts }) =>
    [query, key, value, output, ...experts.flatMap(({ gate, up, down }) => [gate, up, down])].map(
      ({ weight }) => weight,
    ),
  );
  const contents = await Promise.all(
    weights.map(async ({ store, name }) => Buffer.from((await store.readFloats(name)).buffer).toString("base64")),
  );
  // Two layers of query, key, value and output, and three experts' gate, up and down.
  expect(new Set(contents).size).toBe(2 * (4 + 3 * 3));
});

test("a tensor is the same whether it is read whole or by rows", async () => {
  const { weights } = randomModel(TINY_SHAPE, 3, 48);
  const { store, name, shape } = weights.head;
  const whole = await store.readFloats(name);
  const [numRows = 0, width = 0] = shape;
  expect(await store.readFloats(name, { from: 3, to: numRows })).toEqual(whole.subarray(3 * width));
});

const SHAPE = {
  model_type: "qwen2",
  hidden_size: 256,
  intermediate_size: 512,
  num_hidden_layers: 9,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 1100,
  max_position_embeddings: 512,
  rope_theta: 1e6,
  rms_norm_eps: 1e-6,
};

test("a random file has the types of Q4_K_M, its sizes and small weights, and runs", async () => {
  const path = join(await temporaryFolder(), "random.gguf");
  await writeRandomFile({ ...SHAPE, tie_word_embeddings: true }, path);
  const file = await GgufFile.open(path);
  await file.close();
  const typed = Array.from(file.tensors.values(), ({ name, type }) => [name, type?.name] as const);
  const inSixBits = typed.flatMap(([name, type]) => (type === "Q6_K" ? [name] : []));
  // An eighth of nine layers is one; a third of those between is 3 and 6, counted from the first of them.
  const layers = [0, 3, 6, 7, 8].flatMap((layer) =>
    ["attn_v", "ffn_down"].map((name) => `blk.${layer}.${name}.weight`),
  );
  expect(inSixBits).toStrictEqual(["token_embd.weight", ...layers]);

  const model = await openModel(path);
  const { hiddenSize, vocabSize, hasTiedEmbeddings, contextTokens } = model.config;
  expect({ hiddenSize, vocabSize, hasTiedEmbeddings, contextTokens }).toStrictEqual({
    hiddenSize: 256,
    vocabSize: 1100,
    hasTiedEmbeddings: true,
    contextTokens: 512,
  });
  const [first] = model.weights.layers;
  for (const { weight } of [first!.attention.query, first!.attention.value]) {
    const values = await weight.store.readFloats(weight.name);
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const deviation = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
    expect(Math.abs(mean)).toBeLessThan(0.005);
    expect(deviation).toBeGreaterThan(0.02);
    expect(deviation).toBeLessThan(0.1);
  }
  await model.close();
  await using running = await runningModel(path, undefined, "file");
  const { fullLogits } = await promptLogits(running, [1, 2, 3]);
  expect(Array.from(fullLogits).every(Number.isFinite)).toBe(true);
});

test("a random file without tied embeddings has a head of its own in six bits", async () => {
  const path = join(await temporaryFolder(), "random.gguf");
  await writeRandomFile({ ...SHAPE, model_type: "llama", num_hidden_layers: 1, tie_word_embeddings: false }, path);
  const model = await openModel(path);
  const { embedding, head } = model.weights;
  expect([embedding, head].map(({ store, name }) => store.info(name).type)).toStrictEqual(["Q4_K", "Q6_K"]);
  await model.close();
});
