// Figures of an answer: its tokens in OpenAI's format, and its times in that of llama-server.

import type { Usage } from "@readme-moe/core";
import type { ReadMeAnswer, TimingsAnswer, UsageAnswer } from "./answer-schemas.ts";
import type { GenerationInput } from "./generation.ts";

/**
 * Counts the tokens of an answer.
 * @param usages - one for each prompt
 */
export function usageAnswer(
  usages: readonly Usage[],
  { prediction }: Pick<GenerationInput, "prediction">,
): UsageAnswer {
  const sum = (count: (usage: Usage) => number): number => usages.reduce((total, usage) => total + count(usage), 0);
  const [promptTokens, completionTokens] = [sum((usage) => usage.promptTokens), sum((usage) => usage.completionTokens)];
  const accepted = sum((usage) => usage.acceptedDraftTokens);
  const rejected = sum((usage) => usage.rejectedDraftTokens);
  const drafts = { accepted_prediction_tokens: accepted, rejected_prediction_tokens: rejected };
  const hasDrafts = prediction !== undefined || accepted + rejected > 0;
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    // The engine sums the cached tokens of all choices, which may exceed the tokens of the prompt.
    prompt_tokens_details: { cached_tokens: sum((usage) => Math.min(usage.cachedTokens, usage.promptTokens)) },
    ...(hasDrafts ? { completion_tokens_details: drafts } : {}),
  };
}

/** Timings in both formats. */
interface AnswerTimings {
  readonly timings: TimingsAnswer;
  readonly readMe: ReadMeAnswer;
}

/** Moments of a request on the monotonic clock, and its time in the engine's queue, in ms. */
interface Moments {
  readonly arrivalMs: number;
  readonly firstTokenMs: number;
  readonly endMs: number;
  readonly queuedMs: number;
}

/** Returns timings in the format of llama-server, and separately the time in the queue. */
export function timingsOf({ arrivalMs, firstTokenMs, endMs, queuedMs }: Moments, usage: UsageAnswer): AnswerTimings {
  const beforeMs = firstTokenMs - arrivalMs;
  const queueMs = Math.min(queuedMs, beforeMs);
  const [promptMs, predictedMs] = [beforeMs - queueMs, endMs - firstTokenMs];
  const cached = usage.prompt_tokens_details.cached_tokens;
  const promptTokens = usage.prompt_tokens - cached;
  const completionTokens = usage.completion_tokens;
  return {
    timings: {
      cache_n: cached,
      prompt_n: promptTokens,
      prompt_ms: promptMs,
      prompt_per_token_ms: perToken(promptMs, promptTokens),
      prompt_per_second: perSecond(promptTokens, promptMs),
      predicted_n: completionTokens,
      predicted_ms: predictedMs,
      predicted_per_token_ms: perToken(predictedMs, completionTokens),
      predicted_per_second: perSecond(completionTokens, predictedMs),
      ...draftTimings(usage),
    },
    readMe: { timings: { queue_ms: queueMs, prefill_ms: promptMs, decode_ms: predictedMs } },
  };
}

/** Returns the drafts as llama-server counts them. */
function draftTimings({
  completion_tokens_details: details,
}: UsageAnswer): Pick<TimingsAnswer, "draft_n" | "draft_n_accepted"> {
  if (!details) return {};
  const accepted = details.accepted_prediction_tokens;
  const drafted = accepted + details.rejected_prediction_tokens;
  return drafted === 0 ? {} : { draft_n: drafted, draft_n_accepted: accepted };
}

const perToken = (ms: number, tokens: number): number | null => (tokens > 0 ? ms / tokens : null);
const perSecond = (tokens: number, ms: number): number | null => (ms > 0 ? (tokens * 1000) / ms : null);
