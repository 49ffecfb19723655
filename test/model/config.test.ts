import { ReadMeError } from "@readme-moe/core";
import { exportedConfig, type ModelConfig, ropeFrequencies } from "@readme-moe/model";
import { parseConfig } from "../../packages/model/src/config/parse-config.ts";
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
const WHOLE = { slidingWindow: undefined, hasRope: true, isMixture: false };

const windowsOf = ({ layers }: ModelConfig) => layers.map(({ slidingWindow }) => slidingWindow);
const ropeOf = ({ layers }: ModelConfig) => layers.map(({ hasRope }) => hasRope);

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
    rope: { type: "default", theta: 10000 },
    contextTokens: 2048,
    hasTiedEmbeddings: false,
    layers: [WHOLE, WHOLE, WHOLE],
    eosTokenIds: [],
  });
});

test("both spellings of RoPE mean the same, and the newer one takes precedence", () => {
  const scaling = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 64 };
  const older = parse({ rope_theta: 5e5, rope_scaling: { rope_type: "llama3", ...scaling } });
  const newer = parse({ rope_parameters: { rope_type: "llama3", rope_theta: 5e5, ...scaling }, rope_theta: 1 });
  expect(older.rope).toEqual(newer.rope);
  expect(older.rope).toMatchObject({ type: "llama3", theta: 5e5, factor: 8 });
  expect(parse({ rope_scaling: { type: "linear", factor: 4 } }).rope).toMatchObject({ type: "linear", factor: 4 });
  expect(parse({ rope_scaling: null }).rope).toEqual({ type: "default", theta: 10000 });
});

test("RoPE factors divide the frequencies", () => {
  const plain = ropeFrequencies({ type: "default", theta: 10000 }, 8);
  const divided = ropeFrequencies({ type: "factors", theta: 10000, factors: [1, 2, 4, 8] }, 8);
  expect(Array.from(divided)).toEqual(Array.from(plain, (frequency, pair) => Math.fround(frequency / 2 ** pair)));
});

describe("sliding windows", () => {
  test("Mistral's is 4,096 when absent, none when null", () => {
    expect(windowsOf(parse({ model_type: "mistral" }))).toEqual([4096, 4096, 4096]);
    expect(windowsOf(parse({ model_type: "mistral", sliding_window: null }))[0]).toBeUndefined();
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

describe("unsupported fields are refused by name", () => {
  test.each([
    [{ model_type: "gemma3" }, /`model_type`.*gemma3.*llama, mistral, qwen2, qwen3/],
    [{ hidden_act: "gelu" }, /`hidden_act`.*gelu/],
    [{ rope_scaling: { rope_type: "yarn", factor: 4 } }, /`rope_scaling.rope_type`.*yarn/],
    [{ partial_rotary_factor: 0.5 }, /partial_rotary_factor/],
    [{ model_type: "olmo2", sliding_window: 4096 }, /`sliding_window` .*4096/],
    [{ model_type: "smollm3", use_sliding_window: true }, /`use_sliding_window`.*true/],
    [{ model_type: "smollm3", no_rope_layers: [0, 0, 0] }, /`no_rope_layers`/],
    [{ model_type: "smollm3", no_rope_layer_interval: 1 }, /`no_rope_layer_interval`.*1/],
    [{ quantization_config: { quant_method: "gptq" } }, /quantization_config/],
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
    [{ hidden_size: 1e300 }, /hidden_size/],
    [{ num_hidden_layers: "3" }, /num_hidden_layers/],
    [{ num_key_value_heads: 3 }, /4 attention heads cannot share 3/],
    [{ head_dim: 15 }, /odd/],
    [{ rms_norm_eps: Number.NaN }, /rms_norm_eps/],
    [{ rope_scaling: "yes" }, /`rope_scaling`.*object/],
    [{ rope_scaling: { rope_type: "linear" } }, /`rope_scaling.factor`/],
    [{ eos_token_id: "</s>" }, /eos_token_id/],
    [{ tie_word_embeddings: 1 }, /tie_word_embeddings/],
    [{ model_type: "smollm3", no_rope_layers: [1] }, /`no_rope_layers` has 1 entries for 3 layers/],
    [{ model_type: "smollm3", no_rope_layers: [1, 0, 2] }, /`no_rope_layers`.*0 and 1/],
    [{ layer_types: ["full_attention"] }, /1 entries for 3 layers/],
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
