import type { SamplingDefaults } from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import { Fields } from "../../packages/model/src/config/fields.ts";
import { generationDefaults, ggufDefaults } from "../../packages/model/src/config/sampling-defaults.ts";

const PATH = "model/generation_config.json";

const ofJson = (json: object): SamplingDefaults => generationDefaults(new Fields(PATH, json));
const ofGguf = (values: Readonly<Record<string, number | string>>): SamplingDefaults =>
  ggufDefaults("m.gguf", new Map(Object.entries(values).map(([name, value]) => [`general.sampling.${name}`, value])));

describe("generation_config.json", () => {
  test("recommends what it has, under our names", () => {
    const json = {
      do_sample: true,
      temperature: 0.6,
      top_k: 20,
      top_p: 0.95,
      min_p: 0.05,
      repetition_penalty: 1.05,
      max_new_tokens: 2048,
      stop_strings: ["</s>"],
      eos_token_id: [1, 2],
      transformers_version: "4.51.0",
    };
    expect(ofJson(json)).toEqual({
      temperature: 0.6,
      topK: 20,
      topP: 0.95,
      minP: 0.05,
      repetitionPenalty: 1.05,
      maxTokens: 2048,
      stop: ["</s>"],
    });
  });

  test.each<[json: object | undefined, expected: SamplingDefaults]>([
    [undefined, {}],
    [{ eos_token_id: 2, bos_token_id: 1, _from_model_config: true }, {}],
    [{ temperature: null, top_k: null, do_sample: null }, {}],
    [{ do_sample: true }, {}],
    [{ do_sample: false }, { temperature: 0 }],
    [
      { do_sample: false, temperature: 0.7, top_p: 0.9, repetition_penalty: 1.1 },
      { temperature: 0, repetitionPenalty: 1.1 },
    ],
    [{ temperature: 0.7 }, { temperature: 0.7 }],
    [{ top_p: 0.9 }, { temperature: 0 }],
    [{ repetition_penalty: 1.2 }, { temperature: 0, repetitionPenalty: 1.2 }],
    [{ max_new_tokens: 64 }, { maxTokens: 64 }],
    [{ do_sample: true, top_k: -1 }, { topK: 0 }],
    [{ stop_strings: "\n\n" }, { stop: ["\n\n"] }],
    [{ stop_strings: [] }, {}],
  ])("%j recommends %j", (json, expected) => {
    expect(json === undefined ? generationDefaults(undefined) : ofJson(json)).toEqual(expected);
  });

  test.each<[json: object, message: string]>([
    [{ do_sample: true, temperature: "warm" }, "`temperature`"],
    [{ do_sample: true, temperature: -1 }, "`temperature`"],
    [{ do_sample: true, top_p: 1.5 }, "`topP`"],
    [{ do_sample: true, top_k: 2.5 }, "`topK`"],
    [{ do_sample: "yes" }, "`do_sample`"],
    [{ max_new_tokens: 0 }, "`max_new_tokens`"],
    [{ stop_strings: [3] }, "`stop_strings`"],
    [{ stop_strings: [""] }, "`stop[0]`"],
  ])("%j is refused by name", (json, message) => {
    expect(() => ofJson(json)).toThrow(message);
    expect(() => ofJson(json)).toThrow(PATH);
  });
});

describe("GGUF", () => {
  test("recommends the values of llama.cpp's keys", () => {
    expect(ofGguf({ temp: 0.6, top_k: 20, top_p: 0.95, min_p: 0, penalty_repeat: 1.05, mirostat: 0 })).toEqual({
      temperature: 0.6,
      topK: 20,
      topP: 0.95,
      minP: 0,
      repetitionPenalty: 1.05,
    });
    expect(ofGguf({})).toEqual({});
    expect(ofGguf({ top_k: 40 })).toEqual({ topK: 40 });
  });

  test("refuses impossible values by key", () => {
    expect(() => ofGguf({ temp: "warm" })).toThrow("m.gguf: expected `general.sampling.temp`");
    expect(() => ofGguf({ top_p: 0 })).toThrow("`topP`");
  });
});
