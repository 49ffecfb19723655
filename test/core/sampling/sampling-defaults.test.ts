import { resolveSamplingParams, withSamplingDefaults, type SamplingParams } from "@readme-moe/core";
import { expect, test } from "vitest";
import * as fc from "../../support/fast-check.ts";

const LIMITS = { vocabSize: 100 };
const MODEL = { temperature: 0.6, topK: 20, topP: 0.9, minP: 0.1, repetitionPenalty: 1.1, maxTokens: 40, stop: ["\n"] };

test("a request takes from the model what it leaves out", () => {
  expect(withSamplingDefaults<SamplingParams>({ seed: 3 }, MODEL)).toEqual({ ...MODEL, seed: 3 });
  expect(withSamplingDefaults<SamplingParams>({ topK: undefined }, MODEL)).toEqual(MODEL);
});

test("what a request says wins, neutral values included", () => {
  const neutral = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, maxTokens: 128, stop: [] };
  expect(withSamplingDefaults<SamplingParams>(neutral, MODEL)).toEqual(neutral);
});

test("each parameter is the request's, else the model's, else the default", () => {
  const names = Object.keys(MODEL) as (keyof typeof MODEL)[];
  const some = fc.subarray(names).map((own) => Object.fromEntries(own.map((name) => [name, MODEL[name]])));
  const other = { temperature: 0.2, topK: 7, topP: 0.5, minP: 0.2, repetitionPenalty: 2, maxTokens: 9, stop: ["x"] };
  const asked = fc.subarray(names).map((own) => Object.fromEntries(own.map((name) => [name, other[name]])));
  fc.assert(
    fc.property(asked, some, (params: SamplingParams, defaults: SamplingParams) => {
      const resolved = resolveSamplingParams(withSamplingDefaults(params, defaults), LIMITS);
      const plain = resolveSamplingParams({}, LIMITS);
      for (const name of names) expect(resolved[name]).toEqual(params[name] ?? defaults[name] ?? plain[name]);
    }),
  );
});

test("a recommended limit makes room for the tokens that a request wants at least", () => {
  const wanted = withSamplingDefaults<SamplingParams>({ minTokens: 50 }, MODEL);
  expect(resolveSamplingParams(wanted, LIMITS)).toMatchObject({ minTokens: 50, maxTokens: 50 });
});

test("wrong parameters pass through, so that they are refused as without defaults", () => {
  expect(() => resolveSamplingParams(withSamplingDefaults(null as never, MODEL), LIMITS)).toThrow("Expected");
  const unknown = { temprature: 1 } as SamplingParams;
  expect(() => resolveSamplingParams(withSamplingDefaults(unknown, MODEL), LIMITS)).toThrow("temprature");
  const wrong = { topP: null } as unknown as SamplingParams;
  expect(() => resolveSamplingParams(withSamplingDefaults(wrong, MODEL), LIMITS)).toThrow("Expected `topP`");
});
