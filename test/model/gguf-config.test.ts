// Configs of GGUF files, where they differ from those of config.json: as llama.cpp reads them.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ModelConfig } from "@readme-moe/model";
import { expect, test } from "vitest";
import { ggufConfig } from "../../packages/model/src/config/gguf-config.ts";
import { GgufTensorStore } from "../../packages/model/src/gguf/gguf-tensor-store.ts";
import { entry, f32, handMadeGguf, type HandMadeTensor, textEntry, u32Entry, u8 } from "../support/gguf-bytes.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const HEAD_SIZE = 4;

const floatEntry = (key: string, value: number): Buffer => entry(key, 6, f32(value));
const falseEntry = (key: string): Buffer => entry(key, 7, u8(0));

const floatTensor = (name: string, values: readonly number[]): HandMadeTensor => ({
  name,
  dimensions: [values.length],
  type: 0,
  data: new Uint8Array(Float32Array.from(values).buffer),
});

/** Reads the config of a file of two heads and five layers. */
function configOf(architecture: string, ...more: readonly Buffer[]): Promise<ModelConfig> {
  return configWith([], architecture, ...more);
}

async function configWith(
  further: readonly HandMadeTensor[],
  architecture: string,
  ...more: readonly Buffer[]
): Promise<ModelConfig> {
  const path = join(await temporaryFolder(), "model.gguf");
  const sizes = {
    embedding_length: 2 * HEAD_SIZE,
    feed_forward_length: 8,
    block_count: 5,
    "attention.head_count": 2,
    context_length: 32,
  };
  const entries = [
    textEntry("general.architecture", architecture),
    ...Object.entries(sizes).map(([key, value]) => u32Entry(`${architecture}.${key}`, value)),
    floatEntry(`${architecture}.attention.layer_norm_rms_epsilon`, 1e-5),
    ...more,
  ];
  const dimensions = [2 * HEAD_SIZE, 4];
  const embedding = { name: "token_embd.weight", dimensions, type: 0, data: new Uint8Array(4 * 8 * HEAD_SIZE) };
  const tensors = [embedding, ...further];
  await writeFile(path, handMadeGguf({ entries, tensors }).bytes);
  const store = await GgufTensorStore.open(path);
  try {
    return await ggufConfig(store);
  } finally {
    await store.close();
  }
}

test("Granite's factors are 1 when absent or 0, except that scores are divided by √headSize", async () => {
  const plain = { embeddingScale: 1, residualScale: 1, attentionScale: 1 / Math.sqrt(HEAD_SIZE), logitScale: 1 };
  const keys = ["embedding_scale", "residual_scale", "attention.scale", "logit_scale"];
  expect(await configOf("granite")).toMatchObject(plain);
  expect(await configOf("granite", ...keys.map((key) => floatEntry(`granite.${key}`, 0)))).toMatchObject(plain);
  const entries = keys.map((key, index) => floatEntry(`granite.${key}`, 2 ** index));
  expect(await configOf("granite", ...entries)).toMatchObject({
    embeddingScale: 1,
    residualScale: 2,
    attentionScale: 4,
    logitScale: 1 / 8,
  });
});

test("Granite without RoPE is refused; other architectures ignore the key", async () => {
  const refused = configOf("granite", falseEntry("granite.rope.scaling.finetuned"));
  await expectReadMeError(refused, "ERR_MODEL_UNSUPPORTED", "Granite without RoPE");
  const { layers } = await configOf("llama", falseEntry("llama.rope.scaling.finetuned"));
  expect(layers.every(({ hasRope }) => hasRope)).toBe(true);
});

test("OLMo 2's window is refused unless it is 0", async () => {
  const key = "olmo2.attention.sliding_window";
  await expectReadMeError(configOf("olmo2", u32Entry(key, 4096)), "ERR_MODEL_UNSUPPORTED", "`sliding_window`", "4096");
  const { layers } = await configOf("olmo2", u32Entry(key, 0));
  expect(layers.map(({ slidingWindow }) => slidingWindow)).toEqual(layers.map(() => undefined));
});

test("RoPE over a part of each head is read in every architecture", async () => {
  for (const architecture of ["llama", "phi3"]) {
    const key = `${architecture}.rope.dimension_count`;
    expect(await configOf(architecture, u32Entry(key, 2))).toMatchObject({ headSize: 4, rotatedSize: 2 });
    for (const size of [0, 3, 6]) {
      await expectReadMeError(configOf(architecture, u32Entry(key, size)), "ERR_MODEL_INVALID", `${size} of 4`);
    }
  }
});

test("Phi-3's window is in all layers unless it is 0", async () => {
  for (const window of [3, 0]) {
    const { layers } = await configOf("phi3", u32Entry("phi3.attention.sliding_window", window));
    expect(layers.map((layer) => layer.slidingWindow)).toEqual(Array(5).fill(window || undefined));
  }
});

test("LongRoPE follows from the tensors, and has no factor of cosines unless the file names one", async () => {
  const original = u32Entry("phi3.rope.scaling.original_context_length", 16);
  const tensors = [floatTensor("rope_factors_long.weight", [4, 5]), floatTensor("rope_factors_short.weight", [1, 2])];
  expect((await configWith(tensors, "phi3", original)).rope).toEqual({
    type: "longrope",
    theta: 10000,
    shortFactors: [1, 2],
    longFactors: [4, 5],
    originalContextTokens: 16,
    attentionFactor: 1,
    isLong: true,
  });
  const factor = floatEntry("phi3.rope.scaling.attn_factor", 1.5);
  const withoutOriginal = (await configWith(tensors, "phi3", factor)).rope;
  expect(withoutOriginal).toMatchObject({ attentionFactor: 1.5, originalContextTokens: 32, isLong: false });
  const wrong = [floatTensor("rope_factors_long.weight", [4, 5, 6]), ...tensors.slice(1)];
  await expectReadMeError(configWith(wrong, "phi3"), "ERR_MODEL_INVALID", "long_factor", "2 positive numbers");
});

test("SmolLM3 has no RoPE in every fourth layer", async () => {
  const { layers } = await configOf("smollm3");
  expect(layers.map(({ hasRope }) => hasRope)).toEqual([true, true, true, false, true]);
});
