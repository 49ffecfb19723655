// Callers who allow some tokens by a rule of their own, with and without `allowTokens`.

import { forbidOthers, seededRandom, type AllowedTokens, type AllowTokens, type ProcessLogits } from "@readme-moe/core";

/** Allows tokens after those of a completion: a pure function. */
export type Rule = (completionIds: readonly number[]) => Int32Array;

/** Guesses the tokens that follow. */
export type Guess = (completionIds: readonly number[], rule: Rule) => readonly number[];

export function allowedIds(mask: Int32Array): readonly number[] {
  return Array.from({ length: 32 * mask.length }, (_, id) => id).filter(
    (id) => ((mask[id >> 5]! >>> (id & 31)) & 1) === 1,
  );
}

/** Allows one token, a few, a half or all but a few, by the last two tokens. */
export function randomRule(vocabSize: number, seed: number): Rule {
  return (completionIds) => {
    const [last = 1, before = 1] = completionIds.toReversed();
    const random = seededRandom(seed + 7919 * last + 31 * before);
    const share = [0, 0.002, 0.5, 0.95][Math.floor(random() * 4)] as number;
    const mask = new Int32Array(Math.ceil(vocabSize / 32));
    const one = Math.floor(random() * vocabSize);
    for (let id = 0; id < vocabSize; id++) if (id === one || random() < share) mask[id >> 5]! |= 1 << (id & 31);
    return mask;
  };
}

/** Guesses any allowed tokens, and forced ones rightly. */
export function randomGuess(seed: number, most = 6): Guess {
  return (completionIds, rule) => {
    const random = seededRandom(seed + completionIds.length);
    const guessed: number[] = [];
    const length = Math.floor(random() * (most + 1));
    while (guessed.length < length) {
      const ids = allowedIds(rule([...completionIds, ...guessed]));
      guessed.push(ids[Math.floor(random() * ids.length)] as number);
    }
    return guessed;
  };
}

/** Guesses what is known to come, up to some tokens. */
export function rightGuess(completion: readonly number[], most = 8): Guess {
  return (completionIds) => completion.slice(completionIds.length, completionIds.length + most);
}

export interface BoundCaller {
  readonly plain: ProcessLogits;
  readonly bound: ProcessLogits & { readonly allowTokens: AllowTokens };
  /** Number of questions that `bound` was asked. */
  readonly numQuestions: () => number;
}

export function boundCaller(rule: Rule, guess: Guess = () => []): BoundCaller {
  let numQuestions = 0;
  const plain: ProcessLogits = (logits, { tokenIds, promptTokens }) =>
    forbidOthers(logits, rule(Array.from(tokenIds.subarray(promptTokens))));
  const allowTokens: AllowTokens = async ({ tokenIds, promptTokens }) => {
    numQuestions++;
    const before = Array.from(tokenIds.subarray(promptTokens));
    return allowanceBy(before, rule, guess(before, rule));
  };
  const neverCalled: ProcessLogits = () => {
    throw new Error("A row was sent to a caller who says which tokens are allowed");
  };
  return { plain, bound: Object.assign(neverCalled, { allowTokens }), numQuestions: () => numQuestions };
}

/** Answers by a rule, with a guess as far as it is allowed. */
export function allowanceBy(before: readonly number[], rule: Rule, guess: readonly number[]): AllowedTokens {
  const masks = [rule(before)];
  const draft: number[] = [];
  let numForced = 0;
  for (const id of guess) {
    const ids = allowedIds(masks.at(-1) as Int32Array);
    if (!ids.includes(id)) break;
    if (ids.length === 1 && numForced === draft.length) numForced++;
    draft.push(id);
    masks.push(rule([...before, ...draft]));
  }
  return { draft: Int32Array.from(draft), numForced, masks };
}
