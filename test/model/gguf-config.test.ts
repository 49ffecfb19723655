// Configs of GGUF files, where they differ from those of config.json: as llama.cpp reads them.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openModel, type ModelConfig } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { ggufConfig } from "../../packages/model/src/config/gguf-config.ts";
import { GgufTensorStore } from "../../packages/model/src/gguf/gguf-tensor-store.ts";
import {
  array,
  entry,
  f32,
  handMadeGguf,
  type HandMadeTensor,
  textEntry,
  u32Entry,
  u8,
} from "../support/gguf-bytes.ts";
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
  return configWith({}, architecture, ...more);
}

async function configWith(
  file: { readonly numLayers?: number; readonly further?: readonly HandMadeTensor[]; readonly without?: string },
  architecture: string,
  ...more: readonly Buffer[]
): Promise<ModelConfig> {
  const { numLayers = 5, further = [], without } = file;
  const path = join(await temporaryFolder(), "model.gguf");
  const sizes = {
    embedding_length: 2 * HEAD_SIZE,
    feed_forward_length: 8,
    block_count: numLayers,
    "attention.head_count": 2,
    context_length: 32,
  };
  const entries = [
    textEntry("general.architecture", architecture),
    ...Object.entries(sizes).flatMap(([key, value]) =>
      key === without ? [] : [u32Entry(`${architecture}.${key}`, value)],
    ),
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

describe("without one of its keys, a file", () => {
  // A file that says everything, with the values that absent keys stand for.
  const said: Readonly<Record<string, Buffer>> = {
    "attention.head_count_kv": u32Entry("llama.attention.head_count_kv", 2),
    "attention.key_length": u32Entry("llama.attention.key_length", HEAD_SIZE),
    "rope.freq_base": floatEntry("llama.rope.freq_base", 10_000),
    "rope.dimension_count": u32Entry("llama.rope.dimension_count", HEAD_SIZE),
    "rope.scaling.type": textEntry("llama.rope.scaling.type", "none"),
    expert_count: u32Entry("llama.expert_count", 0),
    pooling_type: u32Entry("llama.pooling_type", 0),
    "general.alignment": u32Entry("general.alignment", 32),
  };
  const withAllBut = (key: string): readonly Buffer[] =>
    Object.entries(said).flatMap(([name, bytes]) => (name === key ? [] : [bytes]));

  test.each(Object.keys(said))("is read as before: %s", async (key) => {
    expect(await configOf("llama", ...withAllBut(key))).toStrictEqual(await configOf("llama", ...withAllBut("")));
  });

  test.each([
    ["embedding_length", "hidden_size"],
    ["feed_forward_length", "intermediate_size"],
    ["block_count", "num_hidden_layers"],
    ["attention.head_count", "num_attention_heads"],
  ] as const)("is refused by name: %s", async (key, field) => {
    await expectReadMeError(configWith({ without: key }, "llama"), "ERR_MODEL_INVALID", `\`${field}\``, "undefined");
  });

  test("has the defaults of transformers: context_length", async () => {
    expect(await configWith({ without: "context_length" }, "llama")).toMatchObject({ contextTokens: 2048 });
  });

  test("is refused: general.architecture, and the embedding's tensor", async () => {
    const refusals = [
      [{ entries: [u32Entry("llama.block_count", 1)] }, "general.architecture"],
      [{ entries: [textEntry("general.architecture", "llama")] }, '"model.embed_tokens.weight"'],
    ] as const;
    for (const [file, part] of refusals) {
      const path = join(await temporaryFolder(), "model.gguf");
      await writeFile(path, handMadeGguf(file).bytes);
      await expectReadMeError(openModel(path), "ERR_MODEL_INVALID", path, part);
    }
  });
});

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
  expect(layers.every(({ angleSet }) => angleSet === 0)).toBe(true);
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
  expect(granite.mixture).toEqual({
    numExperts: 6,
    expertsPerToken: 2,
    expertSize: 8,
    normalizesWeights: true,
    sharedSize: 0,
  });
  const olmoe = await configOf("olmoe", ...mixtureEntries("olmoe"));
  expect(olmoe.mixture).toEqual({
    numExperts: 6,
    expertsPerToken: 2,
    expertSize: 8,
    normalizesWeights: false,
    sharedSize: 0,
  });
  const qwen = await configOf("qwen3moe", ...mixtureEntries("qwen3moe", { expert_feed_forward_length: 3 }));
  expect(qwen.mixture).toEqual({
    numExperts: 6,
    expertsPerToken: 2,
    expertSize: 3,
    normalizesWeights: true,
    sharedSize: 0,
  });
  const shared = await configOf(
    "granitemoe",
    ...mixtureEntries("granitemoe", { expert_shared_feed_forward_length: 16 }),
  );
  expect(shared).toMatchObject({ modelType: "granitemoeshared", mixture: { numExperts: 6, sharedSize: 16 } });
  // Without its key, the size is the dense width by the experts of a token.
  expect((await configOf("qwen3moe", ...mixtureEntries("qwen3moe"))).mixture?.expertSize).toBe(4);
});

test.each([
  ["granite", {}, "mixtures of experts of the architecture `granite`"],
  ["olmoe", { expert_shared_feed_forward_length: 16 }, "`expert_shared_feed_forward_length` `16`"],
  ["qwen3moe", { expert_gating_func: 2 }, "`expert_gating_func` `2`"],
  ["olmoe", { leading_dense_block_count: 1 }, "`leading_dense_block_count` `1`"],
  ["deepseek2", { expert_group_count: 8 }, "`expert_group_count` `8`"],
  ["deepseek", {}, "`deepseek`, a mixture whose first layers are dense"],
] as const)("a mixture of %s with %o is refused", async (architecture, more, message) => {
  await expectReadMeError(
    configOf(architecture, ...mixtureEntries(architecture, more)),
    "ERR_MODEL_UNSUPPORTED",
    message,
  );
});

const latentEntries = (keys: Readonly<Record<string, number>>): readonly Buffer[] =>
  Object.entries({ "attention.kv_lora_rank": 512, "rope.dimension_count": 64, ...keys }).map(([key, size]) =>
    u32Entry(`deepseek2.${key}`, size),
  );

test("reads latent attention of files with products of heads in stacks, and of older ones", async () => {
  const mixture = mixtureEntries("deepseek2", { expert_shared_count: 2, leading_dense_block_count: 1 });
  const older = latentEntries({ "attention.key_length": 192, "attention.value_length": 128 });
  const newer = latentEntries({
    "attention.key_length": 576,
    "attention.value_length": 512,
    "attention.key_length_mla": 192,
    "attention.value_length_mla": 128,
    "attention.q_lora_rank": 768,
    expert_gating_func: 2,
  });
  const latent = { latentSize: 512, plainSize: 128, valueSize: 128 };
  expect(await configOf("deepseek2", ...mixture, ...older)).toMatchObject({
    modelType: "deepseek_v2",
    latent: { ...latent, queryRank: undefined },
    mixture: { sharedSize: 8, sigmoids: undefined },
  });
  const { layers, ...config } = await configOf("deepseek2", ...mixture, ...newer);
  expect(config).toMatchObject({
    modelType: "deepseek_v3",
    latent: { ...latent, queryRank: 768 },
    numKvHeads: 1,
    headSize: 576,
    rotatedSize: 64,
    mixture: { sigmoids: { hasBiases: true } },
  });
  expect(layers.map(({ isMixture }) => isMixture)).toEqual(layers.map((_, index) => index > 0));
});

test("files of gpt-oss end a completion at a call, which they do not name as an end", async () => {
  const named = ["<|return|>", "a", "<|call|>"].map((text) => {
    const bytes = Buffer.from(text);
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(bytes.length));
    return Buffer.concat([length, bytes]);
  });
  const tokens = entry("tokenizer.ggml.tokens", 9, array(8, named.length, Buffer.concat(named)));
  // A message ends an answer in files of other families alone.
  const ends = ["eos", "eot"].map((name, id) => u32Entry(`tokenizer.ggml.${name}_token_id`, id));
  const mixture = mixtureEntries("gpt-oss", { expert_feed_forward_length: 8, "attention.sliding_window": 128 });
  expect((await configOf("gpt-oss", ...mixture, tokens, ...ends)).eosTokenIds).toEqual([0, 2]);
  expect((await configOf("llama", tokens, ...ends)).eosTokenIds).toEqual([0, 1]);
});

test("keys without an effect on mixtures are read over", async () => {
  const more = { expert_gating_func: 1, expert_shared_count: 0, expert_group_count: 1 };
  expect((await configOf("olmoe", ...mixtureEntries("olmoe", more))).mixture).toBeDefined();
});

test("a window makes files of OLMo 2's architecture OLMo 3", async () => {
  const key = "olmo2.attention.sliding_window";
  const third = await configOf("olmo2", u32Entry(key, 4096));
  expect(third.modelType).toBe("olmo3");
  expect(windowsOf(third)).toEqual([4096, 4096, 4096, undefined, 4096]);
  const { layers } = await configOf("olmo2", u32Entry(key, 0));
  expect(layers.map(({ slidingWindow }) => slidingWindow)).toEqual(layers.map(() => undefined));
});

const gemmaKey = (name: string): string => `gemma3.${name}`;
const windowsOf = ({ layers }: ModelConfig) => layers.map(({ slidingWindow }) => slidingWindow);

describe("Gemma 3", () => {
  const window = u32Entry(gemmaKey("attention.sliding_window"), 16);

  test("has llama.cpp's interval of six and its angles, unless the file names others", async () => {
    const config = await configOf("gemma3", window);
    expect(windowsOf(config)).toEqual([16, 16, 16, 16, 16]);
    expect(config.ropes).toEqual([{ type: "default", theta: 10_000 }]);
    const entries = [
      u32Entry(gemmaKey("attention.sliding_window_pattern"), 2),
      floatEntry(gemmaKey("rope.freq_base_swa"), 5000),
    ];
    const other = await configOf("gemma3", window, ...entries, floatEntry(gemmaKey("rope.freq_base"), 20_000));
    expect(windowsOf(other)).toEqual([16, undefined, 16, undefined, 16]);
    expect(other.ropes.map(({ theta }) => theta)).toEqual([5000, 20_000]);
  });

  test("may list its layers", async () => {
    const flags = [1, 0, 1, 1, 0];
    const list = entry(gemmaKey("attention.sliding_window_pattern"), 9, array(7, flags.length, u8(...flags)));
    const config = await configOf("gemma3", window, list);
    expect(windowsOf(config)).toEqual(flags.map((flag) => (flag ? 16 : undefined)));
  });

  test("has no window when the file names none, and may have bounds", async () => {
    expect(windowsOf(await configOf("gemma3")).every((size) => size === undefined)).toBe(true);
    const { caps } = await configOf("gemma3", window, floatEntry(gemmaKey("final_logit_softcapping"), 30));
    expect(caps).toEqual({ scores: undefined, logits: 30 });
  });

  test("scales attention by the head size, but the model of 62 layers by the rows of a head", async () => {
    const headSize = u32Entry(gemmaKey("attention.key_length"), 16);
    expect((await configOf("gemma3", window, headSize)).attentionScale).toBe(1 / 4);
    const large = await configWith({ numLayers: 62 }, "gemma3", window, headSize);
    expect(large.attentionScale).toBeCloseTo(HEAD_SIZE ** -0.5, 12);
  });
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
  expect((await configWith({ further: tensors }, "phi3", original)).ropes[0]).toEqual({
    type: "longrope",
    theta: 10000,
    shortFactors: [1, 2],
    longFactors: [4, 5],
    originalContextTokens: 16,
    attentionFactor: 1,
    isLong: true,
  });
  const factor = floatEntry("phi3.rope.scaling.attn_factor", 1.5);
  const withoutOriginal = (await configWith({ further: tensors }, "phi3", factor)).ropes[0];
  expect(withoutOriginal).toMatchObject({ attentionFactor: 1.5, originalContextTokens: 32, isLong: false });
  const wrong = [floatTensor("rope_factors_long.weight", [4, 5, 6]), ...tensors.slice(1)];
  await expectReadMeError(
    configWith({ further: wrong }, "phi3"),
    "ERR_MODEL_INVALID",
    "long_factor",
    "2 positive numbers",
  );
});

test("SmolLM3 has no RoPE in every fourth layer", async () => {
  const { layers } = await configOf("smollm3");
  expect(layers.map(({ angleSet }) => angleSet)).toEqual([0, 0, 0, undefined, 0]);
});
