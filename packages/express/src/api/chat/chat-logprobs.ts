import type { Engine, GeneratedToken } from "@readme-moe/core";
import { finiteLogprob, tokenBytes, tokenTexts } from "../generation/token-texts.ts";
import type { ChatLogprobs } from "../schemas/answers.ts";

/** @param count - of the most likely tokens; engines may give more */
export async function chatLogprobs(
  engine: Engine,
  tokens: readonly GeneratedToken[],
  count: number,
): Promise<ChatLogprobs> {
  const [texts, vocabulary] = await Promise.all([tokenTexts(engine, tokens), engine.vocabulary()]);
  const entry = (id: number, token: string, logprob: number | undefined) => ({
    token,
    logprob: finiteLogprob(logprob),
    bytes: tokenBytes(vocabulary, id, token),
  });
  const content = tokens.map(({ id, logprob, topLogprobs = [] }, index) => ({
    ...entry(id, texts[index] as string, logprob),
    top_logprobs: topLogprobs.slice(0, count).map((top) => entry(top.id, top.text, top.logprob)),
  }));
  return { content, refusal: null };
}
