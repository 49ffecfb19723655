// Shares a number of bytes out among tensors, with the tables of symbols that they then have in common.

import { allocate } from "./allocate.ts";
import type { CodingChoice } from "./choices.ts";
import { NUM_CONTEXTS } from "./contexts.ts";
import type { TensorPlan } from "./plan-tensors.ts";
import { FREQUENCY_BITS, NUM_SYMBOLS, tablesFromCounts, type SymbolTables } from "./symbols.ts";

export interface Chosen {
  /** One of each plan's choices. */
  readonly choices: readonly CodingChoice[];
  readonly tables: SymbolTables;
  /** Expected of all tensors with these tables. */
  readonly bytes: number;
}

const ROUNDS = 8;

/**
 * Costs are known before tables are, so that it takes some rounds until what is chosen fills the bytes.
 * @returns `undefined` where nothing fits
 */
export function choose(plans: readonly TensorPlan[], maxBytes: number): Chosen | undefined {
  let budget = maxBytes;
  let best: Chosen | undefined;
  for (let round = 0; round < ROUNDS; round++) {
    const picks = allocate(
      plans.map(({ choices }) => choices),
      budget,
    );
    if (!picks) return best;
    const choices = picks.map((pick, index) => plans[index]?.choices[pick] as CodingChoice);
    const tables = tablesFromCounts(countsOf(choices));
    const bytes = choices.reduce((sum, choice) => sum + bytesWith(tables, choice), 0);
    if (bytes <= maxBytes && bytes > (best?.bytes ?? -1)) best = { choices, tables, bytes };
    if (bytes === 0) return best;
    budget *= (maxBytes * (1 - 2 ** -(round + 9))) / bytes;
  }
  return best;
}

/** The smallest size that `choose` could fill. */
export function leastBytes(plans: readonly TensorPlan[]): number {
  return plans.reduce((sum, { choices }) => sum + Math.min(...choices.map(({ bytes }) => bytes)), 0);
}

function countsOf(choices: readonly CodingChoice[]): Float64Array {
  const sums = new Float64Array(NUM_CONTEXTS * NUM_SYMBOLS);
  for (const { counts } of choices) {
    counts?.forEach((count, at) => (sums[at] = (sums[at] as number) + count));
  }
  return sums;
}

function bytesWith(tables: SymbolTables, { bytes, counts, times }: CodingChoice): number {
  if (!counts) return bytes;
  let [own, shared] = [0, 0];
  for (let context = 0; context < NUM_CONTEXTS; context++) {
    const from = context * NUM_SYMBOLS;
    const sum = counts.subarray(from, from + NUM_SYMBOLS).reduce((total, count) => total + count, 0);
    for (let at = from; at < from + NUM_SYMBOLS; at++) {
      const count = counts[at] as number;
      if (count === 0) continue;
      own -= count * Math.log2(count / sum);
      shared += count * (FREQUENCY_BITS - Math.log2(tables.frequencies[at] as number));
    }
  }
  return bytes + ((shared - own) / 8) * times;
}
