import type { Model, Precision } from "@readme-moe/model";
import { greedyTokens } from "../../test/support/greedy.ts";
import { largestDifference, logitsTogether, promptLogits, runningModel } from "../../test/support/running-model.ts";

/** A prompt and transformers' numbers, as in test/fixtures/families. */
export interface GoldenCase {
  readonly input_ids: readonly number[];
  readonly last_logits: readonly number[];
  readonly greedy_16: readonly number[];
  /** Least distance between the two largest logits of a greedy step. */
  readonly smallest_gap: number;
}

/** A model beside transformers. */
export interface Comparison {
  /** Largest difference of a logit behind a prompt. */
  readonly largestDifference: number;
  /** Root mean square of the differences, as a share of that of the logits around their mean. */
  readonly relativeError: number;
  /** Number of greedy tokens before the first other one, over all prompts without close calls. */
  readonly rightTokens: number;
  readonly comparedTokens: number;
  /** Whether all prompts in one step have the bits that they have alone. */
  readonly isSameInBatch: boolean;
}

// Below it, the order of float32 sums may decide which logit is larger.
const CLOSE_GAP = 0.002;

/** Tells whether a model computes in float32 what transformers does. */
export function isExact({ largestDifference: difference, rightTokens, comparedTokens }: Comparison): boolean {
  return difference < 1e-3 && rightTokens === comparedTokens;
}

/** Compares a model, which is closed afterwards. */
export async function compareModel(
  model: Model,
  cases: readonly GoldenCase[],
  { precision, cacheFolder }: { readonly precision: Precision; readonly cacheFolder: string },
): Promise<Comparison> {
  await using running = await runningModel(model, undefined, precision, cacheFolder);
  const together = await logitsTogether(
    running,
    cases.map(({ input_ids: ids }) => ids),
  );
  let [largest, errors, sizes, rightTokens, comparedTokens, isSameInBatch] = [0, 0, 0, 0, 0, true];
  for (const [index, { input_ids: ids, last_logits: logits, ...golden }] of cases.entries()) {
    const { fullLogits } = await promptLogits(running, ids);
    largest = Math.max(largest, largestDifference(fullLogits, logits));
    const mean = logits.reduce((sum, logit) => sum + logit, 0) / logits.length;
    errors += logits.reduce((sum, logit, at) => sum + (logit - (fullLogits[at] ?? NaN)) ** 2, 0);
    sizes += logits.reduce((sum, logit) => sum + (logit - mean) ** 2, 0);
    isSameInBatch &&= together[index]?.every((logit, at) => Object.is(logit, fullLogits[at])) ?? false;
    if (golden.smallest_gap <= CLOSE_GAP) continue;
    const tokens = await greedyTokens(running, ids, golden.greedy_16.length);
    const firstOther = tokens.findIndex((token, at) => token !== golden.greedy_16[at]);
    rightTokens += firstOther < 0 ? tokens.length : firstOther;
    comparedTokens += tokens.length;
  }
  const relativeError = Math.sqrt(errors / sizes);
  return { largestDifference: largest, relativeError, rightTokens, comparedTokens, isSameInBatch };
}
