import { ReadMeError } from "@readme-moe/core";
import { exportedConfig, type ModelConfig } from "@readme-moe/model";
import { ropeFrequencies } from "../../packages/model/src/config/model-config.ts";
import { parseConfig } from "../../packages/model/src/config/parse-config.ts";
import { MXFP4_CONFIG } from "../support/mxfp4.ts";
import { describe, expect, test } from "vitest";

const LLAMA = {
  model_type: "llama",
  vocab_size: 128,
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 3,
  num_attention_heads: 4,
};

function parse(changes: Readonly<Record<string, unknown>>): ReturnType<typeof parseConfig> {
  return parseConfig("model/config.json", { ...LLAMA, ...changes });
}

/** A layer that sees all positions. */
const WHOLE = { slidingWindow: undefined, angleSet: 0, isMixture: false };

const windowsOf = ({ layers }: ModelConfig) => layers.map(({ slidingWindow }) => slidingWindow);
const ropeOf = ({ layers }: ModelConfig) => layers.map(({ angleSet }) => angleSet !== undefined);

const setsOf = ({ layers }: ModelConfig) => layers.map(({ angleSet }) => angleSet);

function errorOf(changes: Readonly<Record<string, unknown>>): ReadMeError {
  try {
    parse(changes);
  } catch (error) {
    if (error instanceof ReadMeError) return error;
    throw error;
  }
  throw new Error("Expected the config to be refused");
}

test("absent fields have the defaults of transformers", () => {
  expect(parse({})).toMatchObject({
    numKvHeads: 4,
    headSize: 16,
    rmsNormEpsilon: 1e-6,
    ropes: [{ type: "default", theta: 10000 }],
    contextTokens: 2048,
    hasTiedEmbeddings: false,
    layers: [WHOLE, WHOLE, WHOLE],
    eosTokenIds: [],
  });
});

describe("sliding windows", () => {
  test("Mistral's is 4,096 when absent, none when null", () => {
    expect(windowsOf(parse({ model_type: "mistral" }))).toEqual([4096, 4096, 4096]);
    expect(windowsOf(parse({ model_type: "mistral", sliding_window: null }))[0]).toBeUndefined();
  });

  test("Phi-3's is in all layers, unless it is absent, null or 0", () => {
    expect(windowsOf(parse({ model_type: "phi3", sliding_window: 2047 }))).toEqual([2047, 2047, 2047]);
    for (const value of [undefined, null, 0]) {
      expect(windowsOf(parse({ model_type: "phi3", sliding_window: value }))[0]).toBeUndefined();
    }
  });

  test("Qwen's needs use_sliding_window, and begins at max_window_layers unless layer_types is present", () => {
    const qwen = { model_type: "qwen2", sliding_window: 32, max_window_layers: 2 };
    expect(windowsOf(parse(qwen))).toEqual([undefined, undefined, undefined]);
    expect(windowsOf(parse({ ...qwen, use_sliding_window: true }))).toEqual([undefined, undefined, 32]);
    const types = ["sliding_attention", "full_attention", "full_attention"];
    expect(windowsOf(parse({ ...qwen, use_sliding_window: true, layer_types: types }))[0]).toBe(32);
  });
});

describe("layers without RoPE", () => {
  const smollm3 = { model_type: "smollm3", num_hidden_layers: 5 };

  test("are the zeros of SmolLM3's no_rope_layers, else every fourth; other families have none", () => {
    expect(ropeOf(parse({}))).toEqual([true, true, true]);
    expect(ropeOf(parse({ no_rope_layers: [0, 0, 0] }))).toEqual([true, true, true]);
    expect(ropeOf(parse(smollm3))).toEqual([true, true, true, false, true]);
    expect(ropeOf(parse({ ...smollm3, no_rope_layer_interval: 2 }))).toEqual([true, false, true, false, true]);
    const no_rope_layers = [0, 1, 0, 0, 0];
    expect(ropeOf(parse({ ...smollm3, no_rope_layer_interval: 2, no_rope_layers }))).toEqual(
      no_rope_layers.map(Boolean),
    );
  });

  test("are named by the config of an export", () => {
    const config = parse({ ...smollm3, no_rope_layers: [0, 1, 0, 0, 1] });
    const exported = exportedConfig(config, undefined, { dtypes: ["fp32"], withDataFile: [] });
    expect(exported["no_rope_layers"]).toEqual([0, 1, 0, 0, 1]);
    expect(ropeOf(parseConfig("model/config.json", exported))).toEqual(ropeOf(config));
  });

  test("SmolLM3's embeddings are tied unless the config says otherwise", () => {
    expect(parse(smollm3).hasTiedEmbeddings).toBe(true);
    expect(parse({ ...smollm3, tie_word_embeddings: false }).hasTiedEmbeddings).toBe(false);
  });
});

describe("Gemma 3", () => {
  const gemma = { model_type: "gemma3_text", num_hidden_layers: 7, sliding_window: 8 };
  const [local, global] = [10_000, 1_000_000].map((theta) => ({ type: "default", theta }));

  test("has a window and angles of its own in all layers but every sixth", () => {
    const config = parse(gemma);
    expect(windowsOf(config)).toEqual([8, 8, 8, 8, 8, undefined, 8]);
    expect(setsOf(config)).toEqual([0, 0, 0, 0, 0, 1, 0]);
    expect(config.ropes).toEqual([local, global]);
    expect(config).toMatchObject({ activation: "gelu-tanh", normOffset: 1, embeddingScale: 8, attentionScale: 1 / 16 });
  });

  test("reads layers by type, by interval, and without any window", () => {
    const layer_types = ["full_attention", ...Array.from({ length: 6 }, () => "sliding_attention")];
    const byType = parse({ ...gemma, layer_types, sliding_window_pattern: 2 });
    expect(windowsOf(byType)).toEqual([undefined, 8, 8, 8, 8, 8, 8]);
    expect(byType.ropes).toEqual([global, local]);
    expect(windowsOf(parse({ ...gemma, sliding_window_pattern: 2 }))[1]).toBeUndefined();
    const whole = parse({ ...gemma, sliding_window_pattern: 1 });
    expect(whole.ropes).toEqual([global]);
    expect(setsOf(whole)).toEqual(Array.from({ length: 7 }, () => 0));
    const windowsAlone = parse({ ...gemma, sliding_window_pattern: 8 });
    expect(windowsAlone.ropes).toEqual([local]);
  });

  test("scales the angles of layers without a window alone, in both spellings", () => {
    const scaling = { rope_type: "linear", factor: 8 };
    const older = parse({ ...gemma, rope_theta: 5e5, rope_local_base_freq: 2e4, rope_scaling: scaling });
    const full_attention = { ...scaling, rope_theta: 5e5 };
    const sliding_attention = { rope_type: "default", rope_theta: 2e4 };
    const newer = parse({ ...gemma, rope_parameters: { full_attention, sliding_attention } });
    expect(newer).toEqual(older);
    expect(older.ropes).toEqual([
      { type: "default", theta: 2e4 },
      { type: "linear", theta: 5e5, factor: 8 },
    ]);
  });

  test("rounds the scale of embeddings to float32, and takes that of attention from its field", () => {
    const config = parse({ ...gemma, hidden_size: 640, query_pre_attn_scalar: 168 });
    expect(config.embeddingScale).toBe(Math.fround(Math.sqrt(640)));
    expect(config.attentionScale).toBeCloseTo(168 ** -0.5, 12);
  });

  test("is the text part of a config with images, which has most values by default", () => {
    const text_config = { hidden_size: 2560, intermediate_size: 10_240, num_hidden_layers: 34, sliding_window: 1024 };
    const json = { model_type: "gemma3", text_config, eos_token_id: [1, 106], vision_config: { model_type: "siglip" } };
    expect(parseConfig("config.json", json)).toMatchObject({
      modelType: "gemma3_text",
      vocabSize: 262_208,
      numHeads: 8,
      numKvHeads: 4,
      headSize: 256,
      hasTiedEmbeddings: true,
      contextTokens: 131_072,
      bosTokenId: 2,
      eosTokenIds: [1, 106],
    });
  });

  test("is named whole by the config of an export", () => {
    const configs = [
      parse(gemma),
      parse({ ...gemma, rope_scaling: { rope_type: "linear", factor: 8 }, rope_theta: 7 }),
    ];
    configs.push(parse({ ...gemma, sliding_window_pattern: 1 }), parse({ ...gemma, query_pre_attn_scalar: 24 }));
    for (const config of configs) {
      const exported = exportedConfig(config, undefined, { dtypes: ["fp32"], withDataFile: [] });
      const { attentionScale, ...others } = parseConfig("model/config.json", exported);
      const { attentionScale: scale, ...expected } = config;
      expect(others).toEqual(expected);
      expect(attentionScale).toBeCloseTo(scale, 12);
    }
  });
});

test("absent and null fields have the family's defaults", () => {
  for (const value of [undefined, null]) {
    expect(parse({ model_type: "qwen3", head_dim: value }).headSize).toBe(128);
    expect(parse({ model_type: "olmo2", rms_norm_eps: value }).rmsNormEpsilon).toBe(1e-5);
    expect(parse({ model_type: "smollm3", tie_word_embeddings: value }).hasTiedEmbeddings).toBe(true);
  }
});

test("fields that a family does not support are accepted when null, false or 0", () => {
  for (const value of [null, false, 0]) {
    expect(parse({ model_type: "olmo2", sliding_window: value })).toEqual(parse({ model_type: "olmo2" }));
  }
});

test("end tokens of the generation config take precedence", async () => {
  const { Fields } = await import("../../packages/model/src/config/fields.ts");
  const json = { ...LLAMA, eos_token_id: 2 };
  expect(parseConfig("config.json", json).eosTokenIds).toEqual([2]);
  const generation = new Fields("generation_config.json", { eos_token_id: [7, 8] });
  expect(parseConfig("config.json", json, generation).eosTokenIds).toEqual([7, 8]);
});

test("a config of MXFP4 is the config of the same model", () => {
  expect(parse({ quantization_config: MXFP4_CONFIG })).toStrictEqual(parse({}));
});

test("Gemma 4's layers have heads, keys and FFNs of their own", () => {
  const config = parse({
    model_type: "gemma4_text",
    num_hidden_layers: 6,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 32,
    global_head_dim: 64,
    intermediate_size: 96,
    num_kv_shared_layers: 2,
    use_double_wide_mlp: true,
    sliding_window: 8,
    sliding_window_pattern: 3,
    hidden_size_per_layer_input: 16,
  });
  expect(windowsOf(config)).toEqual([8, 8, undefined, 8, 8, undefined]);
  expect(config.layers.map(({ heads }) => heads?.headSize)).toEqual([32, 32, 64, 32, 32, 64]);
  expect(config.layers.map(({ keysOf }) => keysOf)).toEqual([undefined, undefined, undefined, undefined, 3, 2]);
  expect(config.layers.map(({ ffnSize = 96 }) => ffnSize)).toEqual([96, 96, 96, 96, 192, 192]);
  expect(config).toMatchObject({ attentionScale: 1, normOffset: 0, normsValues: true, layerInputSize: 16 });
  expect(config.ropes[1]).toEqual({ type: "proportional", theta: 1e6, share: 0.25, headSize: 64 });
  const [, full] = config.ropes;
  const frequencies = ropeFrequencies(full!, 64);
  expect(Array.from(frequencies, (one) => one > 0)).toEqual(Array.from({ length: 32 }, (_, pair) => pair < 8));
  expect(frequencies[1]).toBeCloseTo(1e6 ** (-2 / 64), 6);
});

describe("unsupported fields are refused by name", () => {
  test.each([
    [{ model_type: "gemma" }, /`model_type`.*gemma.*llama, mistral, qwen2, qwen3/],
    [{ attn_logit_softcapping: 50 }, /`attn_logit_softcapping` .*50/],
    [{ final_logit_softcapping: 30 }, /`final_logit_softcapping` .*30/],
    [{ model_type: "gemma3_text", hidden_activation: "gelu" }, /`hidden_activation`.*gelu/],
    [{ model_type: "gemma4_text", use_bidirectional_attention: "all" }, /`use_bidirectional_attention`.*all/],
    [{ model_type: "gemma4_text", hidden_size_per_layer_input: 24 }, /`hidden_size_per_layer_input`.*24/],
    [{ rope_parameters: { full_attention: { rope_type: "default" } } }, /`rope_parameters`.*same in all layers/],
    [{ hidden_act: "gelu" }, /`hidden_act`.*gelu/],
    [{ rope_scaling: { rope_type: "dynamic", factor: 4 } }, /`rope_scaling.rope_type`.*dynamic/],
    [{ partial_rotary_factor: 0.5 }, /`partial_rotary_factor` .*0.5/],
    [{ rope_parameters: { partial_rotary_factor: 0.5 } }, /`rope_parameters.partial_rotary_factor` .*0.5/],
    [{ model_type: "olmo2", sliding_window: 4096 }, /`sliding_window` .*4096/],
    [{ model_type: "smollm3", use_sliding_window: true }, /`use_sliding_window`.*true/],
    [{ model_type: "smollm3", no_rope_layers: [0, 0, 0] }, /`no_rope_layers`/],
    [{ model_type: "smollm3", no_rope_layer_interval: 1 }, /`no_rope_layer_interval`.*1/],
    [
      { quantization_config: { quant_method: "gptq" } },
      /`quantization_config.quant_method` .*gptq.*mxfp4-pack-quantized/,
    ],
    [{ quantization_config: { quant_method: "mxfp4" } }, /`quantization_config.quant_method` .*mxfp4.*GGUF/],
    [
      { quantization_config: { ...MXFP4_CONFIG, format: "nvfp4-pack-quantized" } },
      /`quantization_config.format` .*nvfp4-pack-quantized.*mxfp4-pack-quantized/,
    ],
    [
      { quantization_config: { ...MXFP4_CONFIG, transform_config: { config_groups: { r3: {} } } } },
      /`quantization_config.transform_config`/,
    ],
    [{ layer_types: ["full_attention", "linear_attention", "full_attention"] }, /layer_types/],
  ])("%j", (changes, message) => {
    expect(errorOf(changes)).toMatchObject({ code: "ERR_MODEL_UNSUPPORTED" });
    expect(errorOf(changes).message).toMatch(message);
    expect(errorOf(changes).message).toContain("config.json");
  });
});

describe("invalid fields are refused by name", () => {
  test.each([
    [{ hidden_size: undefined }, /`hidden_size`.*positive integer/],
    [{ hidden_size: -64 }, /`hidden_size`.*`-64`/],
    [{ num_hidden_layers: "3" }, /num_hidden_layers/],
    [{ num_key_value_heads: 3 }, /4 attention heads cannot share 3/],
    [{ head_dim: 15 }, /odd/],
    [{ model_type: "phi3", partial_rotary_factor: 0.5, head_dim: 10 }, /5 of 10 dimensions/],
    [{ model_type: "phi3", partial_rotary_factor: 1.5 }, /24 of 16 dimensions/],
    [{ model_type: "phi3", partial_rotary_factor: 0.01 }, /0 of 16 dimensions/],
    [{ rope_scaling: { type: "longrope", long_factor: [1] } }, /`rope_scaling.short_factor`.*8 positive numbers/],
    [{ rope_scaling: { type: "longrope", short_factor: Array(8).fill(0) } }, /`rope_scaling.short_factor`/],
    [{ rope_scaling: { type: "longrope", original_max_position_embeddings: 1 } }, /at least 2/],
    [{ rms_norm_eps: Number.NaN }, /rms_norm_eps/],
    [{ rope_scaling: "yes" }, /`rope_scaling`.*object/],
    [{ rope_scaling: { rope_type: "linear" } }, /`rope_scaling.factor`/],
    [{ eos_token_id: "</s>" }, /eos_token_id/],
    [{ tie_word_embeddings: 1 }, /tie_word_embeddings/],
    [{ model_type: "smollm3", no_rope_layers: [1] }, /`no_rope_layers` has 1 entries for 3 layers/],
    [{ model_type: "smollm3", no_rope_layers: [1, 0, 2] }, /`no_rope_layers`.*0 and 1/],
    [{ layer_types: ["full_attention"] }, /1 entries for 3 layers/],
    [{ model_type: "gemma3" }, /`text_config` to be an object, got .undefined/],
    [{ model_type: "gemma3_text", sliding_window_pattern: 0 }, /`sliding_window_pattern`.*positive integer/],
    [{ model_type: "gemma3_text", query_pre_attn_scalar: -1 }, /`query_pre_attn_scalar`.*positive/],
    [{ model_type: "gemma4_text", num_kv_shared_layers: 3 }, /`num_kv_shared_layers` 3.*like layer 0/],
    [{ model_type: "gemma4_text", global_head_dim: 31, sliding_window_pattern: 2 }, /layer 1 .*size 31.*pairs/],
    [
      {
        model_type: "gemma4_text",
        num_kv_shared_layers: 1,
        sliding_window_pattern: 4,
        per_layer_config: { 2: { head_dim: 64 } },
      },
      /layer 2 reads the keys of layer 1/,
    ],
  ])("%j", (changes, message) => {
    expect(errorOf(changes)).toMatchObject({ code: "ERR_MODEL_INVALID" });
    expect(errorOf(changes).message).toMatch(message);
  });

  test("a config that is not an object", () => {
    for (const json of [null, [], "llama", 3]) {
      expect(() => parseConfig("config.json", json)).toThrow(/config.json: expected a JSON object/);
    }
  });
});
