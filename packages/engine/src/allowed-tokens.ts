// Answers of callers who say which tokens may come next: what is left of one after some tokens, and as plain data.

import type { AllowedTokens } from "@readme-moe/core";

/** An answer for the token at `position` of its sequence, and for the tokens of its draft. */
export interface PlacedAllowance extends AllowedTokens {
  readonly position: number;
}

/** An answer in a message. The masks of forced tokens are left out: each has the bit of its token alone. */
export interface WireAllowance {
  readonly draft: Int32Array<ArrayBuffer>;
  readonly numForced: number;
  /** `[1 + draft.length - numForced, words]` */
  readonly masks: Int32Array<ArrayBuffer>;
}

/**
 * Finds what is left of an answer once its sequence has more tokens.
 *
 * @param tokenIds - all tokens of the sequence
 * @returns `undefined` if the answer says nothing about the next token, because the new tokens are not its draft's
 */
export function allowanceAfter(
  { draft, numForced, masks, position }: PlacedAllowance,
  tokenIds: readonly number[],
): PlacedAllowance | undefined {
  const numNew = tokenIds.length - position;
  if (numNew > draft.length) return undefined;
  for (let index = 0; index < numNew; index++) if (tokenIds[position + index] !== draft[index]) return undefined;
  return {
    position: tokenIds.length,
    draft: draft.subarray(numNew),
    numForced: Math.max(0, numForced - numNew),
    masks: masks.slice(numNew),
  };
}

/** Converts an answer to a message that shares no memory with it. */
export function toWireAllowance({ draft, numForced, masks }: AllowedTokens): WireAllowance {
  const free = masks.slice(numForced);
  const words = free[0]?.length ?? 0;
  const joined = new Int32Array(free.length * words);
  for (const [index, mask] of free.entries()) joined.set(mask, index * words);
  return { draft: new Int32Array(draft), numForced, masks: joined };
}

export function fromWireAllowance({ draft, numForced, masks: joined }: WireAllowance): AllowedTokens {
  const words = joined.length / (1 + draft.length - numForced);
  const masks = Array.from({ length: 1 + draft.length }, (_, index) => {
    const from = (index - numForced) * words;
    return from < 0 ? maskOf(draft[index] ?? 0, words) : joined.subarray(from, from + words);
  });
  return { draft, numForced, masks };
}

function maskOf(id: number, words: number): Int32Array {
  const mask = new Int32Array(words);
  mask[id >> 5] = 1 << (id & 31);
  return mask;
}
