import type { Engine, GeneratedToken } from "@readme-moe/core";
import { finiteLogprob, tokenTexts } from "../generation/token-texts.ts";
import type { CompletionLogprobs } from "../schemas/answers.ts";

/**
 * @param count - of the most likely tokens; the chosen one is told of besides
 * @param offset - of the first token's text, in chars
 */
export async function completionLogprobs(
  engine: Engine,
  tokens: readonly GeneratedToken[],
  count: number,
  offset: number,
): Promise<CompletionLogprobs> {
  const texts = await tokenTexts(engine, tokens);
  const offsets: number[] = [];
  let next = offset;
  for (const text of texts) {
    offsets.push(next);
    next += text.length;
  }
  return {
    tokens: [...texts],
    token_logprobs: tokens.map(({ logprob }) => finiteLogprob(logprob)),
    top_logprobs: tokens.map(({ logprob, topLogprobs = [] }, index) => {
      const chosen = [texts[index] as string, finiteLogprob(logprob)] as const;
      const top = topLogprobs.slice(0, count).map((one) => [one.text, finiteLogprob(one.logprob)] as const);
      // Several tokens may have one text: the most likely of them is told, and the chosen one in any case.
      return Object.fromEntries([...top.toReversed(), chosen]);
    }),
    text_offset: offsets,
  };
}

export function joinLogprobs(parts: readonly (CompletionLogprobs | null)[]): CompletionLogprobs {
  const known = parts.filter((part) => part !== null);
  return {
    tokens: known.flatMap((part) => part.tokens),
    token_logprobs: known.flatMap((part) => part.token_logprobs),
    top_logprobs: known.flatMap((part) => part.top_logprobs),
    text_offset: known.flatMap((part) => part.text_offset),
  };
}
