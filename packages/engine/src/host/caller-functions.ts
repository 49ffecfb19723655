// The functions of a request, which the worker calls by messages, and the checks of what they return.

import {
  allowsToken,
  describeValue,
  functionOption,
  integerOption,
  type AllowedTokens,
  type AllowTokens,
  type LogitsContext,
  type ProcessLogits,
} from "@readme-moe/core";
import { toWireAllowance } from "../allowed-tokens.ts";
import type { ToWorker, WireQuestion } from "../protocol.ts";

const MAX_DRAFT_TOKENS = 32;

export interface CallerFunctions {
  readonly processLogits?: ProcessLogits | undefined;
  readonly allowTokens?: AllowTokens | undefined;
}

/** @throws {TypeError} naming the function that is none */
export function callerFunctions(given: ProcessLogits | undefined): CallerFunctions {
  const processLogits = functionOption("processLogits", given);
  // Read once, so that the worker and this side agree on it.
  const allowTokens = functionOption("processLogits.allowTokens", processLogits?.allowTokens);
  return allowTokens ? { allowTokens } : { processLogits };
}

/**
 * Calls a function of a request.
 *
 * @returns the answer; nothing if the request has no such function
 * @throws {TypeError | RangeError} when the function's answer is wrong, and whatever it throws
 */
export async function callFunction(
  { processLogits, allowTokens }: CallerFunctions,
  { questionId, context, ...question }: WireQuestion,
  vocabSize: number,
): Promise<ToWorker | undefined> {
  if ("logits" in question) {
    if (!processLogits) return undefined;
    return { type: "answer", questionId, answer: await processRow(processLogits, question.logits, context) };
  }
  if (!allowTokens) return undefined;
  const answer: unknown = await allowTokens({ ...context, draft: question.draft });
  return { type: "answer", questionId, answer: toWireAllowance(checkAllowed(answer, vocabSize)) };
}

/**
 * Calls a caller's function on a row of logits.
 *
 * @returns the answer, in memory that the function no longer uses, so that it can be transferred
 * @throws {TypeError | RangeError} when the function returns no row of the same length, and whatever it throws
 */
async function processRow(
  process: ProcessLogits,
  logits: Float32Array<ArrayBuffer>,
  context: LogitsContext,
): Promise<Float32Array<ArrayBuffer>> {
  const vocabSize = logits.length;
  const answer: unknown = await process(logits, context);
  const processed = answer === undefined ? logits : answer;
  if (!(processed instanceof Float32Array)) {
    const got = describeValue(processed);
    throw new TypeError(`Expected \`processLogits\` to return a Float32Array or nothing, got ${got}`);
  }
  if (processed.length !== vocabSize) {
    throw new RangeError(`Expected \`processLogits\` to give ${vocabSize} logits, got ${processed.length}`);
  }
  // The function may go on using an array of its own.
  return processed === logits ? logits : new Float32Array(processed);
}

/** @throws {TypeError | RangeError} naming what is wrong, the expectation and the value */
function checkAllowed(answer: unknown, vocabSize: number): AllowedTokens {
  if (typeof answer !== "object" || answer === null) throw wrong("{ draft, numForced, masks }", describeValue(answer));
  const { draft, numForced, masks } = answer as { readonly [Name in keyof AllowedTokens]?: unknown };
  if (!(draft instanceof Int32Array)) throw wrong("an Int32Array as `draft`", describeValue(draft));
  const most = MAX_DRAFT_TOKENS;
  if (draft.length > most) throw outOfRange(`at most ${most} tokens as \`draft\``, draft.length);
  for (const [index, id] of draft.entries()) integerOption(`draft[${index}] of allowTokens`, id, 0, vocabSize - 1);
  const forced = integerOption("numForced of allowTokens", numForced, 0, draft.length);
  if (!Array.isArray(masks)) throw wrong("a list of Int32Arrays as `masks`", describeValue(masks));
  if (masks.length !== 1 + draft.length) throw outOfRange(`${1 + draft.length} masks`, masks.length);
  const words = Math.ceil(vocabSize / 32);
  const checked = masks.map((mask: unknown, index) => {
    if (!(mask instanceof Int32Array)) throw wrong(`an Int32Array as \`masks[${index}]\``, describeValue(mask));
    if (mask.length !== words) throw outOfRange(`${words} words in \`masks[${index}]\``, mask.length);
    const id = draft[index];
    if (id !== undefined && !allowsToken(mask, id))
      throw outOfRange(`a mask that allows \`draft[${index}]\``, "one that does not");
    if (index < forced && !hasOneToken(mask, vocabSize)) throw outOfRange(`one bit in \`masks[${index}]\``, "more");
    return mask;
  });
  return { draft, numForced: forced, masks: checked };
}

function hasOneToken(mask: Int32Array, vocabSize: number): boolean {
  let count = 0;
  for (const [word, bits] of mask.entries()) {
    if (bits === 0) continue;
    const valid = vocabSize - 32 * word >= 32 ? bits : bits & (2 ** (vocabSize - 32 * word) - 1);
    if ((valid & (valid - 1)) !== 0) return false;
    if (valid !== 0 && ++count > 1) return false;
  }
  return count === 1;
}

function wrong(expected: string, got: string): TypeError {
  return new TypeError(`Expected \`allowTokens\` to give ${expected}, got ${got}`);
}

function outOfRange(expected: string, got: number | string): RangeError {
  return new RangeError(`Expected \`allowTokens\` to give ${expected}, got ${got}`);
}
