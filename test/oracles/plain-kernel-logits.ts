// What is told of a row of logits.

import { exponential, laneSum, subtract } from "./plain-kernel-numbers.ts";

const BLOCK = 64;
/** Stands where the last block has no logit; its exponential is not 0, but too small to be seen. */
const NO_LOGIT = Math.fround(-3e38);

/** A row of logits, and the parts of its log-sum-exp: the largest logit, and the sum of `exp(logit - largest)`. */
export interface PlainRow {
  readonly logits: Float32Array;
  readonly largest: number;
  readonly sum: number;
}

/** Blocks of 64 logits are added up from their own largest logit in float32, then all blocks in float64. */
export function plainRow(logits: Float32Array): PlainRow {
  const largest = Math.max(...logits);
  let sum = 0;
  for (let from = 0; from < logits.length; from += BLOCK) {
    const block = Array.from({ length: BLOCK }, (_, i) => logits[from + i] ?? NO_LOGIT);
    const top = Math.max(...block);
    const blockSum = laneSum(block.map((logit) => exponential(subtract(logit, top))));
    sum += blockSum * exponential(subtract(top, largest));
  }
  return { logits, largest, sum };
}

/** Ids of the `count` largest logits, best first, lower ids first among equals. */
export function plainCandidates({ logits }: PlainRow, count: number): readonly number[] {
  const ids = Array.from(logits.keys());
  return ids.toSorted((a, b) => (logits[b] as number) - (logits[a] as number) || a - b).slice(0, count);
}

/** The exact log-sum-exp of the row's logits, as far as float64 goes. */
export function exactLogSumExp({ logits, largest }: PlainRow): number {
  return largest + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0));
}
