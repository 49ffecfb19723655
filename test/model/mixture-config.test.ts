// Configs of mixtures: fields, defaults of transformers, and refusals.

import { exportedConfig, type MixtureConfig, type ModelConfig } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { parseConfig } from "../../packages/model/src/config/parse-config.ts";

const SIZES = {
  vocab_size: 128,
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 4,
  num_attention_heads: 4,
};

function parse(modelType: string, changes: Readonly<Record<string, unknown>> = {}): ModelConfig {
  return parseConfig("model/config.json", { model_type: modelType, ...SIZES, ...changes });
}

const mixtureOf = (modelType: string, changes?: Readonly<Record<string, unknown>>): MixtureConfig | undefined =>
  parse(modelType, changes).mixture;

const mixtureLayers = (changes: Readonly<Record<string, unknown>>): readonly boolean[] =>
  parse("qwen3_moe", changes).layers.map(({ isMixture }) => isMixture);

test("absent fields have the defaults of transformers", () => {
  const normalized = { normalizesWeights: true, sharedSize: 0 };
  expect(mixtureOf("mixtral")).toEqual({ numExperts: 8, expertsPerToken: 2, expertSize: 160, ...normalized });
  expect(mixtureOf("granitemoe")).toEqual({ numExperts: 8, expertsPerToken: 2, expertSize: 160, ...normalized });
  const plain = { normalizesWeights: false, sharedSize: 0 };
  expect(mixtureOf("olmoe")).toEqual({ numExperts: 64, expertsPerToken: 8, expertSize: 160, ...plain });
  expect(mixtureOf("qwen3_moe")).toEqual({ numExperts: 128, expertsPerToken: 8, expertSize: 768, ...plain });
  expect(parse("mixtral").ropes[0]?.theta).toBe(1e6);
  expect(parse("qwen3_moe").headSize).toBe(16);
});

test("the number of experts has two spellings", () => {
  for (const modelType of ["mixtral", "granitemoe", "olmoe", "qwen3_moe"]) {
    expect(mixtureOf(modelType, { num_experts: 12 })?.numExperts).toBe(12);
    expect(mixtureOf(modelType, { num_local_experts: 12 })?.numExperts).toBe(12);
  }
});

test("`norm_topk_prob` counts in the families that have it", () => {
  for (const modelType of ["olmoe", "qwen3_moe"]) {
    expect(mixtureOf(modelType, { norm_topk_prob: true })?.normalizesWeights).toBe(true);
  }
  expect(mixtureOf("mixtral", { norm_topk_prob: false })?.normalizesWeights).toBe(true);
});

test("a Granite 4 without experts and without recurrent layers is a Granite", () => {
  const dense = { num_local_experts: 0, shared_intermediate_size: 96, position_embedding_type: "rope" };
  const config = parse("granitemoehybrid", {
    ...dense,
    layer_types: ["attention", "attention", "attention", "attention"],
  });
  expect(config).toEqual(parse("granite", { intermediate_size: 96 }));
});

test("Qwen 3's layers may be dense by their step and by name", () => {
  expect(mixtureLayers({})).toEqual([true, true, true, true]);
  expect(mixtureLayers({ decoder_sparse_step: 2 })).toEqual([false, true, false, true]);
  expect(mixtureLayers({ mlp_only_layers: [0, 3] })).toEqual([false, true, true, false]);
  expect(mixtureLayers({ decoder_sparse_step: 2, mlp_only_layers: [1] })).toEqual([false, false, false, true]);
  const ofOthers = parse("mixtral", { decoder_sparse_step: 2, mlp_only_layers: [1] }).layers;
  expect(ofOthers.every(({ isMixture }) => isMixture)).toBe(true);
});

const windows = (value: unknown) =>
  parse("mixtral", { sliding_window: value }).layers.map(({ slidingWindow }) => slidingWindow);

test("a window of Mixtral holds in all layers; without a number there is none", () => {
  expect(windows(16)).toEqual([16, 16, 16, 16]);
  expect(windows(null)).toEqual(windows(undefined));
  expect(windows(null)).toEqual([undefined, undefined, undefined, undefined]);
});

test("an exported config reads as the same mixture", () => {
  for (const [modelType, changes] of [
    ["mixtral", {}],
    ["granitemoe", { embedding_multiplier: 12, num_local_experts: 3 }],
    ["granitemoeshared", { embedding_multiplier: 12, shared_intermediate_size: 56 }],
    ["olmoe", { norm_topk_prob: true }],
    ["qwen3_moe", { mlp_only_layers: [2], moe_intermediate_size: 48, head_dim: 8 }],
  ] as const) {
    const config = parse(modelType, changes);
    const exported = exportedConfig(config, undefined, { dtypes: ["fp32"], withDataFile: [] });
    expect(parseConfig("config.json", exported)).toEqual(config);
  }
});

/** Fields of a model whose layers have recurrences, all but one. */
const LATENT = { n_routed_experts: 6, num_experts_per_tok: 2, moe_intermediate_size: 16 };

const HYBRID = {
  shared_intermediate_size: 64,
  moe_intermediate_size: 64,
  layer_types: ["mamba", "attention", "mamba", "mamba"],
  mamba_n_heads: 8,
  mamba_d_state: 8,
};

test("a hybrid's layers and sizes are those of its config", () => {
  const { layers, recurrence, ropes } = parse("granitemoehybrid", { ...HYBRID, position_embedding_type: "nope" });
  expect(layers.map(({ isRecurrent = false }) => isRecurrent)).toEqual([true, false, true, true]);
  expect(layers.every(({ angleSet }) => angleSet === undefined)).toBe(true);
  expect(ropes).toEqual([]);
  expect(recurrence).toMatchObject({ kind: "space", numTaps: 4, numKeyHeads: 1, keySize: 8, numValueHeads: 8 });
  const qwen = parse("qwen3_next", { moe_intermediate_size: 64, shared_expert_intermediate_size: 8 });
  expect(qwen.layers.map(({ isRecurrent = false }) => isRecurrent)).toEqual([true, true, true, false]);
  const lfm = parse("lfm2_moe", { moe_intermediate_size: 64, num_dense_layers: 1, full_attn_idxs: [2] });
  expect(lfm.layers.map(({ isMixture }) => isMixture)).toEqual([false, true, true, true]);
  expect(lfm.layers.map(({ isRecurrent = false }) => isRecurrent)).toEqual([true, true, false, true]);
});

describe("refuses", () => {
  test.each([
    ["olmoe", { clip_qkv: 8 }, "ERR_MODEL_UNSUPPORTED", "`clip_qkv` `8`"],
    ["granitemoe", { shared_intermediate_size: 64 }, "ERR_MODEL_UNSUPPORTED", "`shared_intermediate_size` `64`"],
    ["qwen3_moe", { use_sliding_window: true }, "ERR_MODEL_UNSUPPORTED", "`use_sliding_window`"],
    ["qwen3_moe", { mlp_only_layers: [0, 1, 2, 3] }, "ERR_MODEL_UNSUPPORTED", "in which a layer has experts"],
    ["qwen3_moe", { mlp_only_layers: ["0"] }, "ERR_MODEL_INVALID", "`mlp_only_layers`"],
    ["mixtral", { num_local_experts: 2, num_experts_per_tok: 3 }, "ERR_MODEL_INVALID", "more than the 2 experts"],
    ["mixtral", { num_local_experts: 0 }, "ERR_MODEL_INVALID", "`num_local_experts`"],
    [
      "olmoe",
      { num_experts: 2000 },
      "ERR_MODEL_UNSUPPORTED",
      "`num_experts` `2000` (number) is not supported; supported are up to 1024",
    ],
    ["olmoe", { num_experts: 100, num_experts_per_tok: 65 }, "ERR_MODEL_UNSUPPORTED", "up to 64"],
    ["granitemoeshared", {}, "ERR_MODEL_INVALID", "`shared_intermediate_size`"],
    ["granitemoehybrid", { ...HYBRID, position_embedding_type: "alibi" }, "ERR_MODEL_UNSUPPORTED", "rope, nope"],
    ["granitemoehybrid", { ...HYBRID, mamba_proj_bias: true }, "ERR_MODEL_UNSUPPORTED", "`mamba_proj_bias`"],
    ["granitemoehybrid", { ...HYBRID, time_step_limit: [0, 0.1] }, "ERR_MODEL_UNSUPPORTED", "`time_step_limit`"],
    ["granitemoehybrid", { ...HYBRID, mamba_n_groups: 3 }, "ERR_MODEL_INVALID", "share 3 heads of keys"],
    ["granitemoehybrid", { ...HYBRID, mamba_d_state: 6 }, "ERR_MODEL_UNSUPPORTED", "multiple of 4"],
    [
      "granitemoehybrid",
      { ...HYBRID, layer_types: ["mamba", "mamba", "mamba", "mamba"] },
      "ERR_MODEL_UNSUPPORTED",
      "attention in a layer",
    ],
    ["lfm2_moe", { ...HYBRID, conv_bias: true }, "ERR_MODEL_UNSUPPORTED", "`conv_bias`"],
    ["lfm2_moe", { ...HYBRID, conv_L_cache: 9 }, "ERR_MODEL_UNSUPPORTED", "up to 8"],
    ["gpt_oss", { swiglu_limit: 6 }, "ERR_MODEL_UNSUPPORTED", "`swiglu_limit` `6`"],
    ["qwen2_moe", {}, "ERR_MODEL_INVALID", "`moe_intermediate_size`"],
    ["deepseek_v2", LATENT, "ERR_MODEL_INVALID", "`kv_lora_rank`"],
    ["deepseek_v2", { ...LATENT, kv_lora_rank: 500 }, "ERR_MODEL_UNSUPPORTED", "multiples of 16"],
    ["deepseek_v2", { ...LATENT, n_group: 8 }, "ERR_MODEL_UNSUPPORTED", "`n_group` `8`"],
    ["deepseek_v3", { ...LATENT, rope_interleave: false }, "ERR_MODEL_UNSUPPORTED", "`rope_interleave`"],
    ["llama4", {}, "ERR_MODEL_UNSUPPORTED", '`"llama4"` (string), a mixture with attention in chunks'],
  ] as const)("%s with %o", (modelType, changes, code, message) => {
    expect(() => parse(modelType, changes)).toThrow(
      expect.objectContaining({ code, message: expect.stringContaining(message) as string }) as Error,
    );
  });
});
