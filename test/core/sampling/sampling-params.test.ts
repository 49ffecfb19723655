import { describe, expect, expectTypeOf, it } from "vitest";
import { resolveSamplingParams, SAMPLING_PARAMETERS, type SamplingParams } from "@readme-moe/core";

const limits = { vocabSize: 100, eosTokenIds: [2, 3] };
const resolve = (params: unknown): unknown => resolveSamplingParams(params as SamplingParams, limits);

const DEFAULTS = {
  maxTokens: 128,
  minTokens: 0,
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  logitBias: new Map(),
  seed: undefined,
  stop: [],
  stopTokenIds: new Set(),
  ignoreEos: false,
  logprobs: undefined,
  n: 1,
};

type Case = readonly [params: unknown, message: string];
const messageFirst = (cases: readonly Case[]): readonly (readonly [string, unknown])[] =>
  cases.map(([params, message]) => [message, params]);

describe("resolveSamplingParams", () => {
  it("fills every default", () => {
    const others = Object.entries(SAMPLING_PARAMETERS).filter(([name]) => !(name in DEFAULTS));
    expect(resolve({})).toEqual({
      ...Object.fromEntries(others.map(([name, entry]) => [name, entry.default])),
      ...DEFAULTS,
      vocabSize: 100,
      maskedUntilMinTokens: new Set([2, 3]),
    });
  });

  it("takes each parameter's default as that parameter", () => {
    for (const [name, { default: value }] of Object.entries(SAMPLING_PARAMETERS)) {
      expect(resolve({ [name]: value }), name).toEqual(resolve({}));
    }
  });

  it("treats undefined as absent", () => {
    const names = ["maxTokens", "temperature", "topK", "seed", "stop", "logitBias", "logprobs", "ignoreEos", "n"];
    expect(resolve(Object.fromEntries(names.map((name) => [name, undefined])))).toEqual(resolve({}));
  });

  it("accepts one stop string or several, each once", () => {
    expect(resolve({ stop: "a" })).toMatchObject({ stop: ["a"] });
    expect(resolve({ stop: ["a", "b", "a"] })).toMatchObject({ stop: ["a", "b"] });
  });

  it("accepts bias as an object or a map", () => {
    const logitBias = new Map([[5, -100]]);
    expect(resolve({ logitBias: { 5: -100 } })).toMatchObject({ logitBias });
    expect(resolve({ logitBias })).toMatchObject({ logitBias });
  });

  it("masks stop tokens up to minTokens, and end tokens unless they are ignored", () => {
    expect(resolve({ stopTokenIds: [3, 9] })).toMatchObject({ maskedUntilMinTokens: new Set([2, 3, 9]) });
    const ignoring = resolve({ stopTokenIds: [3, 9], ignoreEos: true });
    expect(ignoring).toMatchObject({ maskedUntilMinTokens: new Set([3, 9]) });
  });

  it("normalizes values without effect", () => {
    expect(resolve({ topK: 100 })).toMatchObject({ topK: 0 });
    expect(resolve({ topK: 99 })).toMatchObject({ topK: 99 });
    expect(resolve({ temperature: 1e-6 })).toMatchObject({ temperature: 0 });
  });

  it.each(
    messageFirst([
      [{ temprature: 1 }, "Unknown option `temprature` of sampling parameters, did you mean `temperature`?"],
      [{ max_tokens: 1 }, "Unknown option `max_tokens` of sampling parameters, did you mean `maxTokens`?"],
      [{ quality: 1 }, "Unknown option `quality` of sampling parameters"],
      [undefined, "Expected `sampling parameters` to be an object, got `undefined`"],
      [[1], "Expected `sampling parameters` to be an object, got `[…]` (array)"],
      [{ maxTokens: "5" }, 'Expected `maxTokens` to be an integer, got `"5"` (string)'],
      [{ maxTokens: Number.NaN }, "Expected `maxTokens` to be an integer, got `NaN` (number)"],
      [{ temperature: "hot" }, 'Expected `temperature` to be a number, got `"hot"` (string)'],
      [{ temperature: Number.NaN }, "Expected `temperature` to be a number, got `NaN` (number)"],
      [{ temperature: 1n }, "Expected `temperature` to be a number, got `1` (bigint)"],
      [{ topP: null }, "Expected `topP` to be a number, got `null`"],
      [{ stop: null }, "Expected `stop` to be a string or a list of strings, got `null`"],
      [{ seed: 1.5 }, "Expected `seed` to be an integer, got `1.5` (number)"],
      [{ stop: 5 }, "Expected `stop` to be a string or a list of strings, got `5` (number)"],
      [{ stop: ["a", 5] }, "Expected `stop[1]` to be a string, got `5` (number)"],
      [{ stopTokenIds: 5 }, "Expected `stopTokenIds` to be a list of token ids, got `5` (number)"],
      [{ stopTokenIds: ["5"] }, 'Expected `stopTokenIds[0]` to be an integer, got `"5"` (string)'],
      [{ logitBias: [1] }, "Expected `logitBias` to be an object, got `[…]` (array)"],
      [{ logitBias: { the: 1 } }, 'Expected `token id in logitBias` to be an integer, got `"the"` (string)'],
      [{ logitBias: { 5: "1" } }, 'Expected `logitBias[5]` to be a number, got `"1"` (string)'],
      [{ ignoreEos: 1 }, "Expected `ignoreEos` to be true or false, got `1` (number)"],
    ]),
  )("rejects a wrong type or name with a TypeError: %s", (message, params) => {
    expect(() => resolve(params)).toThrow(new TypeError(message));
  });

  it.each(
    messageFirst([
      [{ maxTokens: 0 }, "Expected `maxTokens` to be at least 1, got `0` (number)"],
      [{ minTokens: 129 }, "Expected `minTokens` to be from 0 to 128, got `129` (number)"],
      [{ temperature: -0.1 }, "Expected `temperature` to be finite and at least 0, got `-0.1` (number)"],
      [{ temperature: Infinity }, "Expected `temperature` to be finite and at least 0, got `Infinity` (number)"],
      [{ topK: -1 }, "Expected `topK` to be at least 0, got `-1` (number)"],
      [{ topP: 0 }, "Expected `topP` to be above 0 and at most 1, got `0` (number)"],
      [{ topP: 1.01 }, "Expected `topP` to be above 0 and at most 1, got `1.01` (number)"],
      [{ minP: -1 }, "Expected `minP` to be from 0 to 1, got `-1` (number)"],
      [{ repetitionPenalty: 0 }, "Expected `repetitionPenalty` to be finite and above 0, got `0` (number)"],
      [{ presencePenalty: 2.1 }, "Expected `presencePenalty` to be from -2 to 2, got `2.1` (number)"],
      [{ frequencyPenalty: -Infinity }, "Expected `frequencyPenalty` to be from -2 to 2, got `-Infinity` (number)"],
      [{ logitBias: { 5: 101 } }, "Expected `logitBias[5]` to be from -100 to 100, got `101` (number)"],
      [{ logitBias: { 100: 1 } }, "Expected `token id in logitBias` to be from 0 to 99, got `100` (number)"],
      [{ seed: -1 }, "Expected `seed` to be at least 0, got `-1` (number)"],
      [{ seed: 2 ** 53 }, "Expected `seed` to be at most 2^53 - 1, got `9007199254740992` (number)"],
      [{ stop: "" }, "Expected `stop` to have 1 to 1024 chars, got none"],
      [{ stop: Array(10_000).fill("a") }, "Expected `stop` to have at most 64 entries, got 10000"],
      [{ stop: ["\ud83d"] }, 'Expected `stop[0]` to have no lone surrogates, got `"\\ud83d"` (string)'],
      [{ stopTokenIds: [100] }, "Expected `stopTokenIds[0]` to be from 0 to 99, got `100` (number)"],
      [{ stopTokenIds: Array(1025).fill(1) }, "Expected `stopTokenIds` to have at most 1024 entries, got 1025"],
      [{ logprobs: 21 }, "Expected `logprobs` to be from 0 to 20, got `21` (number)"],
      [{ n: 129 }, "Expected `n` to be from 1 to 128, got `129` (number)"],
    ]),
  )("rejects a value out of range with a RangeError: %s", (message, params) => {
    expect(() => resolve(params)).toThrow(new RangeError(message));
  });

  it("reports the length of a stop string that is too long", () => {
    expect(() => resolve({ stop: ["a", "b".repeat(1025)] })).toThrow(
      /^Expected `stop\[1\]` to have 1 to 1024 chars, got 1025: `"bbb/,
    );
  });

  it("has types that allow undefined and nothing unknown", () => {
    expectTypeOf({ temperature: undefined, stop: ["a"] as const }).toExtend<SamplingParams>();
    // @ts-expect-error: a number is meant
    expect(() => resolveSamplingParams({ topK: "5" }, limits)).toThrow(TypeError);
  });
});
