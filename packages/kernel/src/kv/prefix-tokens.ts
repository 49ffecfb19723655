import { integerOption } from "@readme-moe/core";
import type { KeptTokens } from "./kv-memory.ts";

/**
 * Counts the positions in `prefix`, which must begin at 0, have no gap, and fit into `numTokens` positions.
 * @throws {RangeError | TypeError} otherwise
 */
export function prefixTokens(numTokens: number, prefix: readonly KeptTokens[]): number {
  integerOption("numTokens", numTokens, 1);
  let end = 0;
  for (const kept of prefix) {
    integerOption("kept.from", kept.from, end, end);
    end += kept.numTokens;
  }
  return integerOption("prefix tokens", end, 0, numTokens);
}
