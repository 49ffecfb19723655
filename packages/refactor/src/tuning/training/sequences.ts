// What each step learns from, the same for the same seed and step.

import { seededRandom } from "@readme-moe/core";
import { shuffled } from "../../random.ts";
import type { Batch } from "../decoder/decoder.ts";
import type { Labels } from "../decoder/head.ts";

export interface RoutedSequence {
  readonly tokenIds: Int32Array;
  /** Of each token. */
  readonly experts: Uint16Array;
  /** Which kind of text it is. */
  readonly domain: number;
}

/**
 * The sequences of one step: all of them in a new order each time around, those that prefer the same expert side by side, so
 * that those that run together have few experts.
 * @param step - from 0
 */
export function sequencesOfStep(
  all: readonly RoutedSequence[],
  step: number,
  { batchSequences, seed }: { readonly batchSequences: number; readonly seed: number },
): readonly RoutedSequence[] {
  const drawn = Array.from({ length: batchSequences }, (_, place) => {
    const index = step * batchSequences + place;
    const epoch = Math.floor(index / all.length);
    return all[orderOf(all.length, seed, epoch)[index - epoch * all.length] as number] as RoutedSequence;
  });
  return drawn.toSorted((a, b) => favourite(a.experts) - favourite(b.experts));
}

/** Sequences laid end to end; the last one is repeated up to `length`. */
export function batchOf(sequences: readonly RoutedSequence[], length: number = sequences.length): Batch {
  const padded = Array.from({ length }, (_, i) => sequences[Math.min(i, sequences.length - 1)] as RoutedSequence);
  const tokens = padded[0]?.tokenIds.length ?? 0;
  const tokenIds = new Int32Array(length * tokens);
  const experts = new Uint16Array(length * tokens);
  padded.forEach((sequence, i) => {
    tokenIds.set(sequence.tokenIds, i * tokens);
    experts.set(sequence.experts, i * tokens);
  });
  return { tokenIds, experts };
}

/** Each token's next one; nothing follows the last of a sequence. @param weight - of each row that something follows */
export function labelsOf({ tokenIds }: Batch, sequenceTokens: number, weight: number): Labels {
  const ids = new Int32Array(tokenIds.length);
  ids.set(tokenIds.subarray(1));
  const weights = new Float32Array(tokenIds.length).fill(weight);
  for (let last = sequenceTokens - 1; last < ids.length; last += sequenceTokens) {
    ids[last] = 0;
    weights[last] = 0;
  }
  return { ids, weights };
}

/** The expert that most tokens go to. */
function favourite(experts: Uint16Array): number {
  const counts: number[] = [];
  for (const expert of experts) counts[expert] = (counts[expert] ?? 0) + 1;
  let best = 0;
  counts.forEach((count, expert) => {
    if (count > (counts[best] ?? 0)) best = expert;
  });
  return best;
}

let latest: { readonly key: string; readonly order: readonly number[] } | undefined;

function orderOf(length: number, seed: number, epoch: number): readonly number[] {
  const key = `${length} ${seed} ${epoch}`;
  if (latest?.key !== key) {
    const ownSeed = Math.floor(seededRandom((seed ^ Math.imul(epoch + 1, 0x9e3779b9)) >>> 0)() * 2 ** 32);
    latest = { key, order: shuffled([...Array(length).keys()], ownSeed) };
  }
  return latest.order;
}
