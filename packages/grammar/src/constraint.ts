import { setMaxListeners } from "node:events";
import type { ProcessLogits } from "@readme-moe/core";

/** Constraint that answers are bound to. It serves any number of concurrent requests. */
export interface Constraint {
  /**
   * Makes a `processLogits` for one request with any number of choices. It forbids every token after which the text
   * could no longer become a valid answer, and end tokens until the text is one. A text that is cut short is the
   * beginning of one.
   */
  processor(options?: ProcessorOptions): ProcessLogits;
}

/** Options of a processor. */
export interface ProcessorOptions {
  /** Signal of the request: once it is aborted, an evicted grammar is not compiled again for the request. */
  readonly signal?: AbortSignal | undefined;
}

/** Finds the tokens that may come next. @returns bit `id` is set when the token may */
type AskMask = (
  question: { readonly matcher: string; readonly tokenIds: Int32Array },
  signal: AbortSignal | undefined,
) => Promise<Int32Array>;

let numProcessors = 0;

export function constraintOf(ask: AskMask): Constraint {
  return {
    processor: ({ signal } = {}) => {
      const name = ++numProcessors;
      // Each waiting choice adds a listener; Node would take more than ten for a leak.
      if (signal) setMaxListeners(0, signal);
      // Every question has all tokens, so that a repeated question gets the same answer.
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
