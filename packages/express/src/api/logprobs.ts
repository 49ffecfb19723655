// Log-probabilities of tokens, in the shapes of the two APIs.

import type { Engine, EngineVocabulary, GeneratedToken } from "@readme-moe/core";
import { invalid } from "../http/errors.ts";
import type { ChatLogprobs, CompletionLogprobs } from "./answer-schemas.ts";
import type { GenerationSettings } from "./generation.ts";
import type { ChatBody, CompletionBody } from "./request-schemas.ts";

/** @param count - number of most likely tokens; engines may give more */
export async function chatLogprobs(
  engine: Engine,
  tokens: readonly GeneratedToken[],
  count: number,
): Promise<ChatLogprobs> {
  const [texts, vocabulary] = await Promise.all([tokenTexts(engine, tokens), engine.vocabulary()]);
  const entry = (id: number, token: string, logprob: number | undefined) => ({
    token,
    logprob: finite(logprob),
    bytes: bytesOf(vocabulary, id, token),
  });
  const content = tokens.map(({ id, logprob, topLogprobs = [] }, index) => ({
    ...entry(id, texts[index] ?? "", logprob),
    top_logprobs: topLogprobs.slice(0, count).map((top) => entry(top.id, top.text, top.logprob)),
  }));
  return { content, refusal: null };
}

/**
 * @param count - number of most likely tokens; the chosen token is added to them
 * @param offset - offset of the first token's text in the choice, in chars
 */
export async function completionLogprobs(
  engine: Engine,
  tokens: readonly GeneratedToken[],
  { count, offset }: { readonly count: number; readonly offset: number },
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
    token_logprobs: tokens.map(({ logprob }) => finite(logprob)),
    top_logprobs: tokens.map(({ logprob, topLogprobs = [] }, index) => {
      const chosen = [texts[index] ?? "", finite(logprob)] as const;
      const top = topLogprobs.slice(0, count).map((one) => [one.text, finite(one.logprob)] as const);
      // Several tokens may have the same text: the chosen one takes precedence, then the most likely one.
      return Object.fromEntries([...top.toReversed(), chosen]);
    }),
    text_offset: offsets,
  };
}

/** Bytes of a token's text and log-probability in JSON, mostly: those of a chat also have the text's bytes. */
const ENTRY_BYTES = { chat: 96, completion: 48 } as const;

/**
 * Estimates the bytes of an answer's log-probabilities.
 *
 * @throws {ApiError} 400 where they exceed `maxBytes` for the number of tokens that the request names
 */
export function logprobBytes(
  body: ChatBody | CompletionBody,
  { params, promptParam }: Pick<GenerationSettings, "params" | "promptParam">,
  choices: number,
  maxBytes: number,
): number {
  if (params.logprobs === undefined) return 0;
  const isChat = promptParam === "messages";
  const ofToken = (1 + params.logprobs) * (isChat ? ENTRY_BYTES.chat : ENTRY_BYTES.completion);
  const bytes = choices * params.maxTokens * ofToken;
  const named = body.max_tokens ?? ("max_completion_tokens" in body ? body.max_completion_tokens : undefined);
  if (bytes <= maxBytes || named == null) return bytes;
  const most = `${maxBytes} bytes, the limit of this server, for ${choices} x ${params.maxTokens} tokens`;
  throw invalid(
    isChat ? "top_logprobs" : "logprobs",
    `expected log-probabilities of at most ${most}, got about ${bytes}`,
  );
}

const knownTexts = new WeakMap<Engine, Map<number, string>>();

/** Returns the text of each token. Engines send it with the most likely tokens, and the rest is requested once. */
async function tokenTexts(engine: Engine, tokens: readonly GeneratedToken[]): Promise<readonly string[]> {
  const known = knownTexts.get(engine) ?? new Map<number, string>();
  knownTexts.set(engine, known);
  for (const { topLogprobs = [] } of tokens) for (const { id, text } of topLogprobs) known.set(id, text);
  return Promise.all(
    tokens.map(async ({ id }) => {
      const text = known.get(id) ?? (await engine.detokenize([id]));
      known.set(id, text);
      return text;
    }),
  );
}

/** Returns the bytes of a token, which may be part of a character. Control tokens have the bytes of their spelling. */
function bytesOf({ bytes, offsets }: EngineVocabulary, id: number, text: string): number[] {
  const own = bytes.subarray(offsets[id] ?? 0, offsets[id + 1] ?? 0);
  return Array.from(own.length > 0 ? own : Buffer.from(text));
}

/** Value that OpenAI sends for infinitely unlikely tokens, since JSON has no infinity. */
const LOWEST_LOGPROB = -9999;

function finite(logprob: number | undefined): number {
  return Math.max(logprob ?? LOWEST_LOGPROB, LOWEST_LOGPROB);
}
