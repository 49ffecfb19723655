// Configs of GGUF files, where they differ from those of config.json: as llama.cpp reads them.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ModelConfig } from "@readme-moe/model";
import { expect, test } from "vitest";
import { ggufConfig } from "../../packages/model/src/config/gguf-config.ts";
import { GgufTensorStore } from "../../packages/model/src/gguf/gguf-tensor-store.ts";
import { entry, f32, handMadeGguf, textEntry, u32Entry, u8 } from "../support/gguf-bytes.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const HEAD_SIZE = 4;

const floatEntry = (key: string, value: number): Buffer => entry(key, 6, f32(value));
const falseEntry = (key: string): Buffer => entry(key, 7, u8(0));

/** Reads the config of a file of two heads and five layers. */
async function configOf(architecture: string, ...more: readonly Buffer[]): Promise<ModelConfig> {
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
  const tensors = [{ name: "token_embd.weight", dimensions, type: 0, data: new Uint8Array(4 * 8 * HEAD_SIZE) }];
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

const MIXTURE = { expert_count: 6, expert_used_count: 2 };

const mixtureEntries = (architecture: string, more: Readonly<Record<string, number>> = {}): readonly Buffer[] =>
  Object.entries({ ...MIXTURE, ...more }).map(([key, value]) => u32Entry(`${architecture}.${key}`, value));

test("files of Llama's architecture with a count of experts are Mixtral's", async () => {
  const normalizesWeights = true;
  expect(await configOf("llama", ...mixtureEntries("llama"))).toMatchObject({
    modelType: "mixtral",
    mixture: { numExperts: 6, expertsPerToken: 2, expertSize: 8, normalizesWeights },
  });
  expect(await configOf("llama", u32Entry("llama.expert_count", 0))).toMatchObject({ modelType: "llama" });
  expect((await configOf("llama")).mixture).toBeUndefined();
});

test("mixtures of other architectures have the sizes and weights of llama.cpp", async () => {
  const granite = await configOf("granitemoe", ...mixtureEntries("granitemoe"));
  expect(granite.mixture).toEqual({ numExperts: 6, expertsPerToken: 2, expertSize: 8, normalizesWeights: true });
  const olmoe = await configOf("olmoe", ...mixtureEntries("olmoe"));
  expect(olmoe.mixture).toEqual({ numExperts: 6, expertsPerToken: 2, expertSize: 8, normalizesWeights: false });
  const qwen = await configOf("qwen3moe", ...mixtureEntries("qwen3moe", { expert_feed_forward_length: 3 }));
  expect(qwen.mixture).toEqual({ numExperts: 6, expertsPerToken: 2, expertSize: 3, normalizesWeights: true });
  // Without its key, the size is the dense width by the experts of a token.
  expect((await configOf("qwen3moe", ...mixtureEntries("qwen3moe"))).mixture?.expertSize).toBe(4);
});

test.each([
  ["granite", {}, "mixtures of experts of the architecture `granite`"],
  ["granitemoe", { expert_shared_feed_forward_length: 16 }, "`expert_shared_feed_forward_length` `16`"],
  ["qwen3moe", { expert_gating_func: 2 }, "`expert_gating_func` `2`"],
  ["olmoe", { leading_dense_block_count: 1 }, "`leading_dense_block_count` `1`"],
  ["qwen2moe", {}, "`qwen2moe`, a mixture with experts that all tokens use"],
  ["deepseek2", {}, "`deepseek2`, a mixture with experts that all tokens use"],
] as const)("a mixture of %s with %o is refused", async (architecture, more, message) => {
  await expectReadMeError(
    configOf(architecture, ...mixtureEntries(architecture, more)),
    "ERR_MODEL_UNSUPPORTED",
    message,
  );
});

test("keys without an effect on mixtures are read over", async () => {
  const more = { expert_gating_func: 1, expert_shared_count: 0, expert_group_count: 1 };
  expect((await configOf("olmoe", ...mixtureEntries("olmoe", more))).mixture).toBeDefined();
});

test("OLMo 2's window is refused unless it is 0", async () => {
  const key = "olmo2.attention.sliding_window";
  await expectReadMeError(configOf("olmo2", u32Entry(key, 4096)), "ERR_MODEL_UNSUPPORTED", "`sliding_window`", "4096");
  const { layers } = await configOf("olmo2", u32Entry(key, 0));
  expect(layers.map(({ slidingWindow }) => slidingWindow)).toEqual(layers.map(() => undefined));
});

test("SmolLM3 has no RoPE in every fourth layer", async () => {
  const { layers } = await configOf("smollm3");
  expect(layers.map(({ hasRope }) => hasRope)).toEqual([true, true, true, false, true]);
});
