// Random requests of every parameter, for engines that have to answer them alike.

import type { GenerateRequest, ProcessLogits, SamplingParams } from "@readme-moe/core";
import { boundCaller, randomGuess, randomRule } from "./bound-tokens.ts";
import { randomInteger, seededRandom } from "./random.ts";

const VOCAB_SIZE = 4096;

export interface RandomRequest {
  readonly request: GenerateRequest & { readonly params: SamplingParams };
  /** Number of chunks after which the caller leaves; `undefined` if it reads all. */
  readonly leavesAfter: number | undefined;
}

/** Texts, and the number of experts of the model that gets the requests. */
export interface RequestSource {
  readonly texts: readonly string[];
  readonly numExperts: number;
}

/** Halves the logits of a row: a function of the caller that says nothing in advance. */
const halve: ProcessLogits = (logits) => {
  for (let id = 0; id < logits.length; id++) logits[id] = (logits[id] ?? 0) / 2;
};

/** Draws requests of every parameter. Many prompts repeat themselves, so that there is something to draft. */
export function randomRequests(
  count: number,
  seed: number,
  { texts, numExperts }: RequestSource,
): readonly RandomRequest[] {
  const random = seededRandom(seed);
  const pick = <Item>(...items: readonly Item[]): Item => items[randomInteger(random, items.length)] as Item;
  return Array.from({ length: count }, (_, index) => {
    const text = pick(...texts).slice(0, 20 + randomInteger(random, 250));
    const prompt = pick<GenerateRequest["prompt"]>(
      text,
      `${text}\n\n${text.slice(0, 60)}`,
      Array.from({ length: 1 + randomInteger(random, 40) }, () => randomInteger(random, VOCAB_SIZE)),
    );
    const params: SamplingParams = {
      n: pick(1, 1, 1, 2, 3),
      maxTokens: 2 + randomInteger(random, pick(30, 30, 110)),
      temperature: pick(0, 0, 0.5, 1, 2),
      topK: pick(0, 0, 1, 20),
      topP: pick(0.5, 0.95, 1),
      minP: pick(0, 0, 0.05),
      repetitionPenalty: pick(1, 1, 1, 1.2),
      frequencyPenalty: pick(0, 0, 0.4),
      presencePenalty: pick(0, 0, -0.3),
      logitBias: pick({}, {}, { 7: 2, 11: -100 }),
      logprobs: pick(0, 2, 20),
      stop: pick<readonly string[]>([], [], ["the"], [". ", "\n"]),
      stopTokenIds: pick([], [], [randomInteger(random, VOCAB_SIZE)]),
      ignoreEos: pick(true, false),
      seed: index,
    };
    const bound = boundCaller(randomRule(VOCAB_SIZE, index), randomGuess(index)).bound;
    return {
      request: {
        prompt,
        params,
        prediction: pick(undefined, undefined, text, text.slice(10)),
        processLogits: pick(undefined, undefined, undefined, undefined, halve, bound),
        priority: pick(0, 0, 1),
        ...(numExperts > 1 && random() < 0.3 ? { expert: randomInteger(random, numExperts) } : {}),
      },
      leavesAfter: random() < 0.1 ? 1 + randomInteger(random, 10) : undefined,
    };
  });
}
