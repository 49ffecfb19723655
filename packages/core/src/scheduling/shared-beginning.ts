// Prompts with one beginning that arrive together: one sequence reads it, and the others wait for its chunks.

import type { Owned } from "./fair-shares.ts";

/** A sequence's prompt, of which a part may be read. */
export interface PartlyRead extends Owned {
  readonly priority: number;
  /** Sequences of one salt share what is cached, and so do those without any. */
  readonly cacheSalt?: string | undefined;
  /** Known tokens, those of the prompt first. */
  readonly tokenIds: readonly number[];
  /** Expert of each token. */
  readonly experts: readonly number[];
  readonly promptTokens: number;
  readonly numComputedTokens: number;
}

/**
 * Finds the end of the chunks that a waiting sequence may leave to one that is reading its prompt: they are the same,
 * not computed yet, and will be cached. The reader is of the same client and no lower priority, so that whoever waits
 * loses no turn of its own.
 *
 * @returns a number of tokens; 0 if there is nothing to wait for
 */
export function sharedEnd(waiting: PartlyRead, reader: PartlyRead, chunkTokens: number): number {
  const { promptTokens, numComputedTokens } = reader;
  if (numComputedTokens >= promptTokens || reader.priority < waiting.priority) return 0;
  if (reader.client !== waiting.client || reader.cacheSalt !== waiting.cacheSalt) return 0;
  // The last known token is computed in any case.
  const most = Math.min(promptTokens, waiting.tokenIds.length - 1);
  const first = Math.floor(numComputedTokens / chunkTokens) * chunkTokens;
  const isSame = (from: number): boolean => isSameChunk(waiting, reader, from, from + chunkTokens);
  // Most prompts differ there, so that the chunks before need not be compared.
  if (first + chunkTokens > most || !isSame(first)) return 0;
  for (let from = 0; from < first; from += chunkTokens) if (!isSame(from)) return 0;
  let end = first + chunkTokens;
  while (end + chunkTokens <= most && isSame(end)) end += chunkTokens;
  return end;
}

function isSameChunk(a: PartlyRead, b: PartlyRead, from: number, to: number): boolean {
  for (let at = from; at < to; at++) {
    if (a.tokenIds[at] !== b.tokenIds[at] || a.experts[at] !== b.experts[at]) return false;
  }
  return true;
}
