// RoPE of configs: scaled, over a part of each head, and chosen for a context.

import { exportedConfig, type ModelConfig, queryFactor, ropeFrequencies, ropeTables } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { ropeForContext } from "../../packages/model/src/config/model-config.ts";
import { parseConfig } from "../../packages/model/src/config/parse-config.ts";

const LLAMA = {
  model_type: "llama",
  vocab_size: 128,
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 3,
  num_attention_heads: 4,
};

function parse(changes: Readonly<Record<string, unknown>>): ModelConfig {
  return parseConfig("model/config.json", { ...LLAMA, ...changes });
}

const PLAIN_FREQUENCIES = [0.7356422543525696, 0.1165914461016655, 0.018478497862815857, 0.0001359356683678925];
const LONG_FREQUENCIES = [0.4904281795024872, 0.029895242303609848, 0.0029330947436392307, 1.070359576260671e-5];

test("both spellings of RoPE mean the same, and the newer one takes precedence", () => {
  const scaling = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 64 };
  const older = parse({ rope_theta: 5e5, rope_scaling: { rope_type: "llama3", ...scaling } });
  const newer = parse({ rope_parameters: { rope_type: "llama3", rope_theta: 5e5, ...scaling }, rope_theta: 1 });
  expect(older.ropes).toEqual(newer.ropes);
  expect(older.ropes).toMatchObject([{ type: "llama3", theta: 5e5, factor: 8 }]);
  expect(parse({ rope_scaling: { type: "linear", factor: 4 } }).ropes).toMatchObject([{ type: "linear", factor: 4 }]);
  expect(parse({ rope_scaling: null }).ropes).toEqual([{ type: "default", theta: 10000 }]);
});

test("frequencies are PyTorch's in every bit", () => {
  // 1 / (theta ** (torch.arange(0, 60, 2).float() / 60)), and with ext_factors 1.1 + 0.4 * i
  const plain = ropeFrequencies({ type: "default", theta: 10000 }, 60);
  expect([1, 7, 13, 29].map((pair) => plain[pair])).toEqual(PLAIN_FREQUENCIES);
  const longFactors = Array.from({ length: 30 }, (_, pair) => 1.1 + 0.4 * pair);
  const rope = { type: "longrope", theta: 10000, shortFactors: [], longFactors, isLong: true } as const;
  const stretched = ropeFrequencies({ ...rope, originalContextTokens: 64, attentionFactor: 1 }, 60);
  expect([1, 7, 13, 29].map((pair) => stretched[pair])).toEqual(LONG_FREQUENCIES);
});

describe("YaRN", () => {
  /** Results of `_compute_yarn_parameters` of transformers 4.57: the factor of cosines, and some frequencies. */
  const CASES: readonly (readonly [rope: object, numPairs: number, factor: number, frequencies: object])[] = [
    [
      { rope_theta: 5e5, factor: 8, original_max_position_embeddings: 8192 },
      30,
      1.2079441541679836,
      { 0: 1, 9: 0.017615290358662605, 13: 0.0017430728767067194, 17: 7.370444654952735e-5, 29: 3.8717368511242967e-7 },
    ],
    [
      { rope_theta: 1e6, factor: 16, original_max_position_embeddings: 16_384, mscale: 1, mscale_all_dim: 1 },
      16,
      1,
      { 5: 0.01333521492779255, 6: 0.004569023381918669, 9: 0.00010542411473579705, 15: 1.4821085869698436e-7 },
    ],
    [
      { rope_theta: 150_000, factor: 32, original_max_position_embeddings: 4096, truncate: false },
      32,
      1.3465735902799727,
      { 8: 0.05081327259540558, 12: 0.006794959306716919, 17: 0.00012931869423482567, 31: 3.023511396804679e-7 },
    ],
    [
      { rope_theta: 1e4, factor: 4, original_max_position_embeddings: 64 },
      4,
      1.138629436111989,
      { 0: 1, 1: 0.0625, 2: 0.0024999999441206455, 3: 0.0002500000118743628 },
    ],
  ];

  test.each(CASES)("%o has transformers' frequencies in every bit", (parameters, numPairs, factor, expected) => {
    const head_dim = 2 * numPairs;
    for (const name of ["rope_parameters", "rope_scaling"]) {
      const config = parse({ head_dim, [name]: { rope_type: "yarn", ...parameters } });
      const [rope = expect.fail()] = config.ropes;
      expect(rope).toMatchObject({ attentionFactor: factor });
      const frequencies = ropeFrequencies(rope, head_dim);
      for (const [pair, frequency] of Object.entries(expected)) expect(frequencies[Number(pair)]).toBe(frequency);
      const exported = exportedConfig(config, undefined, { dtypes: ["fp32"], withDataFile: [] });
      expect(parseConfig("config.json", exported)).toEqual(config);
    }
  });

  test("has a factor of its own, and refuses a base whose logarithm is 0", () => {
    const yarn = { rope_type: "yarn", factor: 4 };
    expect(parse({ rope_scaling: { ...yarn, attention_factor: 1.5 } }).ropes[0]).toMatchObject({
      attentionFactor: 1.5,
    });
    expect(() => parse({ rope_scaling: { ...yarn, rope_theta: 1 } })).toThrow(/rope_theta/);
    expect(() => parse({ rope_scaling: { rope_type: "yarn" } })).toThrow(/rope_scaling.factor/);
  });

  test("has a factor of queries behind the original context", () => {
    const yarn = { rope_type: "yarn", factor: 16, original_max_position_embeddings: 1024, llama_4_scaling_beta: 0.1 };
    const ministral = { model_type: "ministral3", max_position_embeddings: 16_384 };
    const { contextTokens, queryGrowth } = parse({ ...ministral, rope_parameters: yarn });
    expect({ contextTokens, queryGrowth }).toEqual({
      contextTokens: 16_384,
      queryGrowth: { rate: 0.1, period: 1024 },
    });
    expect([0, 1023, 1024, 5000].map((position) => queryFactor(queryGrowth!, position))).toEqual(
      [1, 1, 2, 5].map((times) => expect.closeTo(1 + 0.1 * Math.log(times), 12) as number),
    );
    const without = [{ llama_4_scaling_beta: 0 }, { original_max_position_embeddings: 16_384 }];
    for (const change of without) {
      expect(parse({ ...ministral, rope_parameters: { ...yarn, ...change } }).queryGrowth).toBeUndefined();
    }
  });
});

test("RoPE factors divide the frequencies", () => {
  const plain = ropeFrequencies({ type: "default", theta: 10000 }, 8);
  const divided = ropeFrequencies({ type: "factors", theta: 10000, factors: [1, 2, 4, 8] }, 8);
  expect(Array.from(divided)).toEqual(Array.from(plain, (frequency, pair) => Math.fround(frequency / 2 ** pair)));
});

describe("LongRoPE", () => {
  const factors = { short_factor: [1, 1, 1, 1, 1, 1], long_factor: [1, 2, 3, 4, 5, 6] };
  const phi3 = {
    model_type: "phi3",
    max_position_embeddings: 4096,
    original_max_position_embeddings: 256,
    rope_scaling: { type: "longrope", partial_rotary_factor: 0.75, ...factors },
  };

  test("has the attention factor of transformers, and long factors in contexts beyond the original one", () => {
    const {
      ropes: [rope],
      rotatedSize,
    } = parse(phi3);
    expect(rotatedSize).toBe(12);
    // _compute_longrope_parameters: sqrt(1 + log(4096 / 256) / log(256))
    expect(rope).toMatchObject({ type: "longrope", originalContextTokens: 256, attentionFactor: Math.sqrt(1.5) });
    expect(rope).toMatchObject({ shortFactors: factors.short_factor, longFactors: factors.long_factor, isLong: true });
    expect(parse({ ...phi3, max_position_embeddings: 256 }).ropes[0]).toMatchObject({
      attentionFactor: 1,
      isLong: false,
    });
    const named = { ...phi3, rope_scaling: { ...phi3.rope_scaling, attention_factor: 1.25 } };
    expect(parse(named).ropes[0]).toMatchObject({ attentionFactor: 1.25 });
    const stretched = { ...phi3, rope_scaling: { ...phi3.rope_scaling, factor: 256 } };
    expect(parse(stretched).ropes[0]).toMatchObject({ attentionFactor: Math.sqrt(2) });
  });

  test("has older names in Phi-3's configs alone", () => {
    for (const type of ["su", "yarn"]) {
      const rope_scaling = { ...phi3.rope_scaling, type };
      expect(parse({ ...phi3, rope_scaling }).ropes[0]).toEqual(parse(phi3).ropes[0]);
    }
    expect(() => parse({ rope_scaling: { type: "su", ...factors } })).toThrow(/`rope_scaling.type` .*su/);
  });

  test("is chosen once, for the context that a model is used with", () => {
    const [rope = expect.fail()] = parse(phi3).ropes;
    expect(ropeForContext(rope, 257)).toEqual(rope);
    const short = ropeForContext(rope, 256);
    const plain = ropeFrequencies({ type: "default", theta: 10000 }, 12);
    expect(ropeFrequencies(short, 12)).toEqual(plain);
    for (const [pair, frequency] of ropeFrequencies(rope, 12).entries()) {
      expect(frequency * (pair + 1)).toBeCloseTo(plain[pair] ?? NaN, 7);
    }
    const { cos, sin } = ropeTables(short, 12, 3, 4);
    const lengths = Array.from(cos, (value, pair) => Math.hypot(value, sin[pair] ?? 0));
    for (const length of lengths) expect(length).toBeCloseTo(Math.sqrt(1.5), 6);
  });

  test("survives an export", () => {
    for (const attention of [{}, { attention_factor: 1.25 }]) {
      const config = parse({ ...phi3, rope_scaling: { ...phi3.rope_scaling, ...attention } });
      const exported = exportedConfig(config, undefined, { dtypes: ["fp32"], withDataFile: [] });
      expect(parseConfig("model/config.json", exported)).toEqual(config);
    }
  });
});

describe("partial rotary embeddings", () => {
  test("are named with RoPE's parameters or beside them, and round down", () => {
    const phi3 = { model_type: "phi3", head_dim: 24 };
    expect(parse(phi3).rotatedSize).toBe(24);
    expect(parse({ ...phi3, partial_rotary_factor: 0.75 }).rotatedSize).toBe(18);
    const rope_parameters = { rope_type: "default", partial_rotary_factor: 0.35 };
    expect(parse({ ...phi3, rope_parameters, partial_rotary_factor: 0.75 }).rotatedSize).toBe(8);
    expect(parse({}).rotatedSize).toBe(16);
  });

  test("survive an export", () => {
    const config = parse({ model_type: "phi3", partial_rotary_factor: 0.75 });
    const exported = exportedConfig(config, undefined, { dtypes: ["fp32"], withDataFile: [] });
    expect(parseConfig("model/config.json", exported)).toEqual(config);
  });
});
