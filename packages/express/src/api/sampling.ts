import { badRequest } from "../http/api-error.ts";
import { describeValue, type EngineInfo, type SamplingParams } from "@readme-moe/core";
import type { ChatBody } from "./schemas/chat-body.ts";
import type { samplingFields } from "./schemas/fields.ts";

type SamplingBody = Pick<ChatBody, keyof typeof samplingFields | "read_me">;

/** What both APIs say in the same way; what is absent keeps the engine's default. */
export function samplingParams(body: SamplingBody, info: EngineInfo): Omit<SamplingParams, "maxTokens" | "logprobs"> {
  checkIds("stop_token_ids", body.stop_token_ids ?? [], info);
  const bias = Object.entries(body.logit_bias ?? {});
  checkIds(
    "logit_bias",
    bias.map(([id]) => Number(id)),
    info,
  );
  for (const stop of [body.stop ?? []].flat()) {
    // Decoded text has whole characters only, so such a stop could never be met.
    if (/\p{Surrogate}/u.test(stop)) throw invalid("stop", "expected whole characters, got a lone surrogate");
  }
  return {
    temperature: body.temperature ?? undefined,
    topP: body.top_p ?? undefined,
    topK: Math.max(0, body.top_k ?? 0),
    minP: body.min_p ?? undefined,
    repetitionPenalty: body.repetition_penalty ?? undefined,
    presencePenalty: body.presence_penalty ?? undefined,
    frequencyPenalty: body.frequency_penalty ?? undefined,
    logitBias: body.logit_bias ?? undefined,
    seed: body.seed ?? undefined,
    stop: body.stop ?? undefined,
    stopTokenIds: body.stop_token_ids ?? undefined,
    minTokens: body.min_tokens ?? undefined,
    ignoreEos: body.ignore_eos ?? undefined,
    n: body.n ?? undefined,
  };
}

/**
 * @param wanted - what the body asks for, where it does
 * @returns completion tokens at most, never more than the context holds
 */
export function completionLimit(
  wanted: number | undefined,
  fallback: number,
  body: SamplingBody,
  { contextTokens }: EngineInfo,
): number {
  const maxTokens = Math.min(wanted ?? fallback, contextTokens);
  const { min_tokens: minTokens } = body;
  if (minTokens && minTokens > maxTokens) {
    throw invalid("min_tokens", `expected at most ${maxTokens}, the tokens that may be generated, got ${minTokens}`);
  }
  return maxTokens;
}

/** @throws {ApiError} when an id is not of the model's vocabulary */
export function checkIds(param: string, ids: readonly number[], { vocabSize }: EngineInfo): void {
  const wrong = ids.find((id) => id >= vocabSize);
  if (wrong !== undefined) throw invalid(param, `expected token ids below ${vocabSize}, got ${wrong}`);
}

/** @throws {ApiError} when the model has no such expert; names those that it has */
export function checkExpert(body: SamplingBody, { experts, hasRouter }: EngineInfo): string | number | undefined {
  const expert = body.read_me?.expert ?? undefined;
  if (expert === undefined || (expert === "router" && hasRouter)) return expert;
  if (typeof expert === "number" ? expert < experts.length : experts.includes(expert)) return expert;
  throw invalid("read_me.expert", `expected one of ${experts.join(", ")}, got ${describeValue(expert)}`);
}

export function invalid(param: string, what: string): Error {
  return badRequest({ message: `Invalid '${param}': ${what}`, code: "invalid_value", param });
}
