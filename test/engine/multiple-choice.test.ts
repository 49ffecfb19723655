// Compares accuracies on multiple-choice questions with plain sums over the full logits of an independent
// implementation.

import { evaluateMultipleChoice, type Question } from "@readme-moe/engine/evaluation";
import type { Tokenizer } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { plainLogProbs } from "../oracles/plain-log-probs.ts";
import { routeOf, writeReadingModel } from "../support/reading-model.ts";
import { largestDifference, runningModel, type RunningModel } from "../support/running-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

let reading: RunningModel;
let tokenizer: Tokenizer;

beforeAll(async () => {
  const folder = await persistentFolder();
  await writeReadingModel(folder + "/model", { seed: 2 });
  reading = await runningModel(folder + "/model");
  ({ tokenizer } = await reading.model.loadText());
});
afterAll(() => reading[Symbol.asyncDispose]());

const encode = (text: string): number[] => Array.from(tokenizer.encode(text, { addSpecialTokens: false }));

const long = "Once there was a ship that sailed the sea for many years, and nobody on it knew its captain's name. ";
const answers = (context: string, ...continuations: string[]): Question["choices"] =>
  continuations.map((continuation) => ({ context, continuation }));
const questions: readonly Question[] = [
  { choices: answers("The ship was", " lost", " found at last by the whole of the crew", " blue"), answer: 1 },
  { choices: answers("The captain said:  ", "yes", "no, never", "perhaps"), answer: 0 },
  { choices: answers("", "A", "B", "The end"), answer: 2 },
  { choices: answers(long.repeat(3) + "\nAnswer:", " A", " B", " C", " D"), answer: 3 },
  { choices: answers(long.repeat(2), "It sank.", "It sailed on, and on, and on.", "It"), answer: 1 },
  {
    choices: [
      { context: "The cat sat on the mat because the cat", continuation: " was tired." },
      { context: "The cat sat on the mat because the mat", continuation: " was tired." },
    ],
    answer: 0,
  },
];

/** Scores as evaluation harnesses do, according to their documentation. */
async function plainLogLikelihood(context: string, continuation: string, maxTokens: number): Promise<number> {
  const numSpaces = context.length - context.replace(/\s+$/, "").length;
  const text = context.slice(0, context.length - numSpaces);
  const contextIds = context === "" ? [0] : encode(text);
  const wholeIds =
    context === "" ? [0, ...encode(continuation)] : encode(text + context.slice(text.length) + continuation);
  const targets = wholeIds.slice(contextIds.length);
  const seen = wholeIds.slice(-(maxTokens + 1));
  const from = seen.length - targets.length;
  const logProbs = await plainLogProbs(reading.model, seen, await routeOf(reading, seen.slice(0, -1)), from);
  return logProbs.reduce((sum, logProb) => sum + logProb, 0);
}

describe("multiple choice", () => {
  test.each([[256], [40]])("with %i tokens of context agrees with plain sums over full logits", async (maxTokens) => {
    const { runner, router } = reading;
    const result = await evaluateMultipleChoice({ runner, router }, tokenizer, questions, { maxTokens });
    let [right, rightByLength] = [0, 0];
    for (const [index, { choices, answer }] of questions.entries()) {
      const plain: number[] = [];
      for (const choice of choices) {
        plain.push(await plainLogLikelihood(choice.context, choice.continuation, maxTokens));
      }
      expect(largestDifference(result.questions[index]?.logLikelihoods ?? [], plain)).toBeLessThan(1e-3);
      const byLength = plain.map((sum, i) => sum / Array.from(choices[i]?.continuation.replace(/^ /, "") ?? "").length);
      if (plain.indexOf(Math.max(...plain)) === answer) right++;
      if (byLength.indexOf(Math.max(...byLength)) === answer) rightByLength++;
    }
    const numQuestions = questions.length;
    const standardError = (p: number): number => {
      const values = [...Array(p).fill(1), ...Array(numQuestions - p).fill(0)] as number[];
      const squares = values.reduce((sum, value) => sum + (value - p / numQuestions) ** 2, 0);
      return Math.sqrt(squares / (numQuestions - 1) / numQuestions);
    };
    expect(result.accuracy.value).toBeCloseTo(right / numQuestions, 9);
    expect(result.accuracy.standardError).toBeCloseTo(standardError(right), 9);
    expect(result.normalizedAccuracy.value).toBeCloseTo(rightByLength / numQuestions, 9);
    expect(result.normalizedAccuracy.standardError).toBeCloseTo(standardError(rightByLength), 9);
    expect(right).not.toBe(rightByLength);
    expect(result.numCut).toBe(maxTokens === 40 ? 7 : 0);
  });

  test("has no standard error for one question, and rejects an empty list", async () => {
    const { runner, router } = reading;
    const one = await evaluateMultipleChoice({ runner, router }, tokenizer, questions.slice(0, 1));
    expect(one.accuracy.standardError).toBeUndefined();
    await expect(evaluateMultipleChoice({ runner, router }, tokenizer, [])).rejects.toThrow(/at least one question/);
    const wrong = [{ choices: answers("a", "b"), answer: 1 }];
    await expect(evaluateMultipleChoice({ runner, router }, tokenizer, wrong)).rejects.toThrow(
      /`answer` to be from 0 to 0/,
    );
  });
});
