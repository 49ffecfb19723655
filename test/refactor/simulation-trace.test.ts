import { generateTrace, readTrace, type GeneratedTraceOptions } from "@readme-moe/refactor/simulation";
import { ReadMeError, writeTrace } from "@readme-moe/core";
import { describe, expect, test } from "vitest";

const OPTIONS: GeneratedTraceOptions = { numExperts: 7, layerBytes: [10, 20], numSequences: 2000, seed: 5 };

const wrong = (change: object) => () => generateTrace({ ...OPTIONS, ...change });

// Drawn in each test, so that mutation testing sees which tests notice a change.
const drawn = () => generateTrace({ ...OPTIONS, arrivalsPerStep: 0.5, meanPromptTokens: 40, meanOutputTokens: 12 });

describe("a generated trace", () => {
  test.each([0, 0.5, 0.9, 1])("keeps the previous token's expert with probability %f", (locality) => {
    const trace = generateTrace({ ...OPTIONS, numSequences: 500, locality });
    const pairs = trace.sequences.flatMap(({ experts }) =>
      experts.slice(1).map((expert, at) => Number(expert === experts[at])),
    );
    expect(pairs.length).toBeGreaterThan(40_000);
    expect(Math.abs(mean(pairs) - locality)).toBeLessThan(0.005);
  });

  test("uses all experts about equally often, and begins with the expert that a sequence returns to", () => {
    const { sequences } = drawn();
    const tokens = sequences.flatMap(({ experts }) => experts);
    for (let expert = 0; expert < 7; expert++) {
      expect(Math.abs(tokens.filter((one) => one === expert).length / tokens.length - 1 / 7)).toBeLessThan(0.02);
    }
    const atHome = sequences.flatMap(({ experts }) => experts.slice(30).map((one) => Number(one === experts[0])));
    expect(mean(atHome)).toBeGreaterThan(0.3);
  });

  test("has arrivals and lengths with the given means", () => {
    const { sequences } = drawn();
    const steps = sequences.at(-1)?.arrivalStep ?? 0;
    expect(Math.abs(sequences.length / steps - 0.5)).toBeLessThan(0.03);
    expect(Math.abs(mean(sequences.map(({ promptTokens }) => promptTokens)) - 40)).toBeLessThan(2);
    const outputs = sequences.map(({ experts, promptTokens }) => experts.length - promptTokens + 1);
    expect(Math.abs(mean(outputs) - 12)).toBeLessThan(0.7);
    expect(Math.min(...outputs)).toBe(1);
    // The variance of a Poisson process equals its mean.
    const perStep = Array.from({ length: steps }, (_, at) => sequences.filter((one) => one.arrivalStep === at).length);
    const variance = mean(perStep.map((count) => (count - 0.5) ** 2));
    expect(Math.abs(variance - 0.5)).toBeLessThan(0.06);
  });

  test("depends on the seed alone", () => {
    expect(generateTrace(OPTIONS)).toEqual(generateTrace(OPTIONS));
    expect(generateTrace({ ...OPTIONS, seed: 6 })).not.toEqual(generateTrace(OPTIONS));
  });

  test("rejects impossible options by name", () => {
    expect(wrong({ locality: 1.1 })).toThrow(
      new RangeError("Expected `locality` to be from 0 to 1, got `1.1` (number)"),
    );
    expect(wrong({ arrivalsPerStep: 0 })).toThrow("Expected `arrivalsPerStep` to be above 0");
    for (const [name, value] of [
      ["meanOutputTokens", 0.5],
      ["meanPromptTokens", 2 ** 20 + 1],
      ["homeShare", -0.1],
      ["numExperts", 0],
      ["numSequences", 0],
      ["seed", -1],
    ] as const) {
      expect(wrong({ [name]: value })).toThrow(`Expected \`${name}\` to be`);
    }
    expect(wrong({ layerBytes: [1, 0] })).toThrow("Expected `layerBytes[1]` to be at least 1");
    expect(wrong({ localty: 0.5 })).toThrow("did you mean `locality`?");
  });
});

describe("a written trace", () => {
  const trace = {
    ...generateTrace({ ...OPTIONS, numSequences: 20 }),
    steps: [
      { step: 0, tokensPerExpert: [0, 0, 3, 0, 0, 0, 0] },
      { step: 4, tokensPerExpert: [1, 0, 0, 0, 0, 0, 2] },
    ],
  };

  test("is the same after reading it", () => {
    const text = writeTrace(trace);
    expect(text.split("\n").length).toBe(1 + 20 + 2 + 1);
    expect(readTrace(text, "a.jsonl")).toEqual(trace);
    expect(readTrace(text.replaceAll("\n", "\r\n\n"), "a.jsonl")).toEqual(trace);
  });

  test("may have sequences in any order, which are read by arrival", () => {
    const { sequences } = trace;
    const text = writeTrace({ ...trace, sequences: sequences.toReversed() });
    const arrivals = readTrace(text, "a.jsonl").sequences.map(({ arrivalStep }) => arrivalStep);
    expect(arrivals).toEqual(sequences.map(({ arrivalStep }) => arrivalStep));
  });

  const MODEL = '{"type":"model","num_experts":2,"layer_bytes":[5]}';
  const SEQUENCE = '{"type":"sequence","id":"a","arrival_step":3,"prompt_tokens":2,"experts":[0,1]}';
  const STEP = '{"type":"step","step":2,"tokens_per_expert":[1,0]}';

  test.each([
    ["", 1, "expected a line of the type `model`"],
    [SEQUENCE, 1, "expected the first line to be of the type `model`"],
    [MODEL.replace("2", "0"), 1, "expected `num_experts` to be an integer from 1 up, got `0` (number)"],
    [MODEL.replace("5", ""), 1, "expected `layer_bytes` to be an array of at least 1 integers, got `[…]` (array)"],
    [`${MODEL}\n{\n`, 2, "is not JSON"],
    [`${MODEL}\n{}}\n${STEP}`, 2, "is not JSON"],
    [`${MODEL}\n[]`, 2, "expected an object"],
    [`${MODEL}\n${MODEL}`, 2, 'expected `type` to be `sequence` or `step`, got `"model"` (string)'],
    [`${MODEL}\n\n${SEQUENCE.replace("[0,1]", "[0,2]")}`, 3, "expected `experts[1]` to be an integer from 0 to 1"],
    [`${MODEL}\n${SEQUENCE.replace("[0,1]", "[0]")}`, 2, "expected `experts` to be an array of at least 2 integers"],
    [`${MODEL}\n${SEQUENCE}\n${SEQUENCE}`, 3, "there is a sequence `a` already"],
    [`${MODEL}\n${STEP}\n${STEP}`, 3, "expected a step above 2, got 2"],
    [`${MODEL}\n${STEP.replace("1,0", "1,0,1")}`, 2, "`tokens_per_expert` has more than 2 numbers"],
    [`${MODEL}\n${STEP.replace("1,0", "0,0")}`, 2, "expected a step to have tokens"],
    [
      `${MODEL}\n${STEP.replace("}", ',"later_steps":[1]}')}`,
      2,
      "expected `later_steps` to be 2 integers from 1 up, or null",
    ],
    [`${MODEL}\n${STEP.replace("}", ',"runs":[{"experts":[0]}]}')}`, 2, "`runs[0]`: expected `planned` to be an array"],
    [`${MODEL}\n${STEP.replace("}", ',"runs":[3]}')}`, 2, "`runs[0]`: expected an object"],
  ])("is rejected with file and line if it is wrong (%#)", (text, line, problem) => {
    let error: unknown;
    try {
      readTrace(text, "bad.jsonl");
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(ReadMeError);
    expect(error).toMatchObject({ code: "ERR_FILE_CORRUPT" });
    expect((error as Error).message).toContain(`bad.jsonl:${line}: ${problem}`);
  });
});

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
