import type { ReadMeAnswer, TimingsAnswer, UsageAnswer } from "../schemas/answers.ts";

/** When things happened, by the monotonic clock. */
export interface Moments {
  readonly arrivalMs: number;
  readonly firstTokenMs: number;
  readonly endMs: number;
  /** In the engine, before the sequence that waited longest could run. */
  readonly queuedMs: number;
}

/** In llama-server's shape, and with the time in the queue apart. */
export function timingsOf(
  { arrivalMs, firstTokenMs, endMs, queuedMs }: Moments,
  usage: UsageAnswer,
): { readonly timings: TimingsAnswer; readonly readMe: Required<Pick<ReadMeAnswer, "timings">> } {
  const beforeMs = firstTokenMs - arrivalMs;
  const queueMs = Math.min(queuedMs, beforeMs);
  const [promptMs, predictedMs] = [beforeMs - queueMs, endMs - firstTokenMs];
  const cached = usage.prompt_tokens_details.cached_tokens;
  const promptTokens = usage.prompt_tokens - cached;
  return {
    timings: {
      cache_n: cached,
      prompt_n: promptTokens,
      prompt_ms: promptMs,
      prompt_per_token_ms: perToken(promptMs, promptTokens),
      prompt_per_second: perSecond(promptTokens, promptMs),
      predicted_n: usage.completion_tokens,
      predicted_ms: predictedMs,
      predicted_per_token_ms: perToken(predictedMs, usage.completion_tokens),
      predicted_per_second: perSecond(usage.completion_tokens, predictedMs),
    },
    readMe: { timings: { queue_ms: queueMs, prefill_ms: promptMs, decode_ms: predictedMs } },
  };
}

const perToken = (ms: number, tokens: number): number | null => (tokens > 0 ? ms / tokens : null);
const perSecond = (tokens: number, ms: number): number | null => (ms > 0 ? (tokens * 1000) / ms : null);
