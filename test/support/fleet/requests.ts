// Requests of every kind that a fleet has to hand on: stops, penalties, choices, grammars, draws and greedy ones.

import {
  seededRandom,
  type Engine,
  type GenerateChunk,
  type GenerateRequest,
  type SamplingParams,
} from "@readme-moe/core";
import type { Grammars } from "@readme-moe/grammar";

const PROMPTS = [
  "The old harbour was",
  "SELECT name FROM",
  "def main(",
  "Once upon a time",
  "In the year",
  "The court held that",
  "A patient with",
] as const;

/** Everything that an answer consists of. */
export interface Answer {
  readonly texts: readonly string[];
  readonly tokenIds: readonly (readonly number[])[];
  readonly finishReasons: readonly (string | undefined)[];
  readonly stops: readonly (string | undefined)[];
  readonly usage: { readonly promptTokens: number; readonly completionTokens: number } | undefined;
}

/** Reads an answer to its end. @param onChunk - called with each chunk */
export async function readAnswer(
  engine: Engine,
  request: GenerateRequest,
  onChunk: (chunk: GenerateChunk) => void = () => undefined,
): Promise<Answer> {
  return collectAnswer(engine.generate(request), request.params?.n, onChunk);
}

/** Joins the chunks of an answer. @param n - choices */
export async function collectAnswer(
  chunks: AsyncIterable<GenerateChunk>,
  n = 1,
  onChunk: (chunk: GenerateChunk) => void = () => undefined,
): Promise<Answer> {
  const texts = Array.from({ length: n }, () => "");
  const tokenIds = Array.from({ length: n }, (): number[] => []);
  const finishReasons = Array.from({ length: n }, (): string | undefined => undefined);
  const stops = Array.from({ length: n }, (): string | undefined => undefined);
  let usage: Answer["usage"];
  for await (const chunk of chunks) {
    const { choice, text, tokens, finishReason, stop } = chunk;
    onChunk(chunk);
    texts[choice] += text;
    tokenIds[choice]?.push(...tokens.map(({ id }) => id));
    // A choice ends once.
    if (finishReason !== undefined && finishReasons[choice] !== undefined) throw new Error("A choice ended twice");
    finishReasons[choice] ??= finishReason;
    stops[choice] ??= stop;
    if (chunk.usage) {
      const { promptTokens, completionTokens } = chunk.usage;
      usage = { promptTokens, completionTokens };
    }
  }
  return { texts, tokenIds, finishReasons, stops, usage };
}

/** Makes requests that differ by a seed, half of them with what a failure could break. */
export async function makeRequests(
  count: number,
  grammars: Grammars,
  { seed, maxTokens }: { readonly seed: number; readonly maxTokens: number },
): Promise<readonly GenerateRequest[]> {
  const random = seededRandom(seed);
  const pick = <Item>(items: readonly Item[]): Item => items[Math.floor(random() * items.length)] as Item;
  const bounds = await Promise.all([
    grammars.regex("[a-z ]{20,60}\\."),
    grammars.choice(["yes, it was", "no, it was not"]),
  ]);
  return Array.from({ length: count }, (_, index): GenerateRequest => {
    const params: SamplingParams = {
      maxTokens: Math.ceil(maxTokens * (0.5 + random() / 2)),
      temperature: pick([0, 0.7, 1]),
      seed: Math.floor(random() * 2 ** 40),
      ignoreEos: random() < 0.5,
    };
    const request = { prompt: `${pick(PROMPTS)} ${index}`, id: `request-${seed}-${index}` };
    switch (index % 8) {
      case 0:
        return { ...request, params: { ...params, stop: ["the", " a"] } };
      case 1:
        return {
          ...request,
          params: { ...params, frequencyPenalty: 1.5, presencePenalty: 0.5, repetitionPenalty: 1.2 },
        };
      case 2:
        return { ...request, params: { ...params, n: 2, logprobs: 2, temperature: 1 } };
      case 3:
        return { ...request, params: { ...params, ignoreEos: false }, processLogits: pick(bounds).processor() };
      default:
        return { ...request, params };
    }
  });
}
