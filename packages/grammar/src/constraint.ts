import { setMaxListeners } from "node:events";
import { forbidOthers, type AllowTokens, type LogitsContext, type ProcessLogits } from "@readme-moe/core";
import type { AnswerSource } from "./constraint-source.ts";
import type { MaskAnswer, MaskQuestion } from "./matching/protocol.ts";

/** Constraint that answers are bound to. It serves any number of concurrent requests. */
export interface Constraint {
  /**
   * Makes a `processLogits` for one request with any number of choices. It forbids every token after which the text
   * could no longer become a valid answer, and end tokens until the text is one. A text that is cut short is the
   * beginning of one. Engines use its property `allowTokens`: no logits are sent then, and text that the grammar forces
   * can run as one step. Its property `source` is for `openConstraint` in another process.
   */
  processor(options?: ProcessorOptions): ProcessLogits;
}

/** Options of a processor. */
export interface ProcessorOptions {
  /** Signal of the request: once it is aborted, an evicted grammar is not compiled again for the request. */
  readonly signal?: AbortSignal | undefined;
}

/** Finds the tokens that may come next. */
type AskMask = (question: MaskQuestion, signal: AbortSignal | undefined) => Promise<MaskAnswer>;

let numProcessors = 0;

/** @param source - plain data from which the constraint can be made again */
export function constraintOf(ask: AskMask, source: AnswerSource): Constraint {
  return {
    processor: ({ signal } = {}) => {
      const name = ++numProcessors;
      // Each waiting choice adds a listener; Node would take more than ten for a leak.
      if (signal) setMaxListeners(0, signal);
      // Every question has all tokens, so that a repeated question gets the same answer.
      const askFor = ({ tokenIds, promptTokens, choice }: LogitsContext, draft?: Int32Array): Promise<MaskAnswer> =>
        ask({ matcher: `${name}:${choice}`, tokenIds: tokenIds.slice(promptTokens), draft }, signal);
      const process: ProcessLogits = async (logits, context) => forbidOthers(logits, (await askFor(context)).masks);
      const allowTokens: AllowTokens = async (context) => {
        const { draft, numForced, masks } = await askFor(context, context.draft);
        const words = masks.length / (1 + draft.length);
        const rows = Array.from({ length: 1 + draft.length }, (_, row) =>
          masks.subarray(row * words, (row + 1) * words),
        );
        return { draft, numForced, masks: rows };
      };
      return Object.assign(process, { allowTokens, source });
    },
  };
}
