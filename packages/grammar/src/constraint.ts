import { setMaxListeners } from "node:events";
import type { ProcessLogits } from "@readme-moe/core";

/** What an answer is bound to. Can be used for any number of requests at once. */
export interface Constraint {
  /**
   * A new `processLogits`, for one request with any number of choices. Forbids every token after which the text could
   * no longer become an answer, and end tokens until it is one. A text that is cut short is the beginning of one.
   */
  processor(options?: ProcessorOptions): ProcessLogits;
}

/** What a processor is for. */
export interface ProcessorOptions {
  /** Of the request: a grammar that made room for another one is no longer compiled again for it. */
  readonly signal?: AbortSignal | undefined;
}

/** @returns bit `id` says whether the token may come next */
type AskMask = (
  question: { readonly matcher: string; readonly tokenIds: Int32Array },
  signal: AbortSignal | undefined,
) => Promise<Int32Array>;

let numProcessors = 0;

export function constraintOf(ask: AskMask): Constraint {
  return {
    processor: ({ signal } = {}) => {
      const name = ++numProcessors;
      // Choices that wait at once listen at once; Node would take more than ten for a leak.
      if (signal) setMaxListeners(0, signal);
      // All tokens are told each time, so that a row that is asked for again gets the same answer.
      return async (logits, { tokenIds, promptTokens, choice }) =>
        forbid(logits, await ask({ matcher: `${name}:${choice}`, tokenIds: tokenIds.slice(promptTokens) }, signal));
    },
  };
}

/** Forbids the tokens whose bit in `mask` is 0, and those beyond it. */
function forbid(logits: Float32Array, mask: Int32Array): void {
  for (let start = 0; start < logits.length; start += 32) {
    const bits = mask[start >> 5] ?? 0;
    if (bits === -1) continue;
    const end = Math.min(start + 32, logits.length);
    if (bits === 0) {
      logits.fill(-Infinity, start, end);
      continue;
    }
    for (let id = start; id < end; id++) if (((bits >>> (id & 31)) & 1) === 0) logits[id] = -Infinity;
  }
}
