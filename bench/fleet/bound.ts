// The fewest distinct experts that a step can have when all places are taken: the best distribution of running sequences
// over machines that a local search finds, if the domain of each sequence were known.

import { seededRandom } from "@readme-moe/core";

/** Input of `fewestExperts`. */
export interface BoundInput {
  /** Share of each expert in the tokens of each domain, `[numDomains][numExperts]`. */
  readonly shares: readonly (readonly number[])[];
  readonly machines: number;
  /** Running sequences of each machine. */
  readonly places: number;
}

/** Expected numbers of distinct experts in a step of decoding sequences. */
export interface Bound {
  /** Sequences by domain on each machine as the search found them. */
  readonly best: number;
  /** Each machine has the same mixture of domains. */
  readonly mixed: number;
}

const STARTS = 20;
const SWAPS = [1, 2, 4, 8];

/** Finds the bound for domains that follow Zipf's law with exponent 1. */
export function fewestExperts({ shares, machines, places }: BoundInput): Bound {
  const weights = shares.map((_, domain) => 1 / (domain + 1));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const counts = weights.map((weight) => Math.round((machines * places * weight) / total));
  const surplus = counts.reduce((sum, count) => sum + count, 0) - machines * places;
  counts[0] = (counts[0] ?? 0) - surplus;
  const random = seededRandom(1);
  let best = Infinity;
  for (let start = 0; start < STARTS; start++) best = Math.min(best, improved(dealt(counts, machines, random), shares));
  return {
    best: best / machines,
    mixed: distinctOf(
      counts.map((count) => count / machines),
      shares,
    ),
  };
}

/** Expected number of distinct experts in a step of so many sequences of each domain. */
function distinctOf(counts: readonly number[], shares: readonly (readonly number[])[]): number {
  const experts = shares[0] ?? [];
  return experts.reduce((sum, _, expert) => {
    const none = counts.reduce((chance, count, domain) => chance * (1 - (shares[domain]?.[expert] ?? 0)) ** count, 1);
    return sum + 1 - none;
  }, 0);
}

/** Deals sequences to machines by chance, the same number to each. */
function dealt(counts: readonly number[], machines: number, random: () => number): number[][] {
  const sequences = counts.flatMap((count, domain) => Array.from({ length: count }, () => domain));
  const order = sequences.map((domain) => ({ domain, at: random() })).toSorted((a, b) => a.at - b.at);
  const dealtTo = Array.from({ length: machines }, () => counts.map(() => 0));
  for (const [index, { domain }] of order.entries()) {
    const own = dealtTo[index % machines];
    if (own) own[domain] = (own[domain] ?? 0) + 1;
  }
  return dealtTo;
}

/** Exchanges sequences of two machines while that lowers the sum of distinct experts. @returns the sum */
function improved(machines: readonly number[][], shares: readonly (readonly number[])[]): number {
  const sum = (): number => machines.reduce((all, counts) => all + distinctOf(counts, shares), 0);
  for (let before = Infinity, now = sum(); now < before - 1e-9; now = sum()) {
    before = now;
    for (const [index, one] of machines.entries()) {
      for (const other of machines.slice(index + 1)) improvePair(one, other, shares);
    }
  }
  return sum();
}

function improvePair(one: number[], other: number[], shares: readonly (readonly number[])[]): void {
  const sum = (): number => distinctOf(one, shares) + distinctOf(other, shares);
  const move = (from: number, to: number, count: number): void => {
    one[from] = (one[from] ?? 0) - count;
    one[to] = (one[to] ?? 0) + count;
    other[to] = (other[to] ?? 0) - count;
    other[from] = (other[from] ?? 0) + count;
  };
  for (const from of one.keys()) {
    for (const to of one.keys()) {
      for (const count of SWAPS) {
        if (from === to || (one[from] ?? 0) < count || (other[to] ?? 0) < count) continue;
        const before = sum();
        move(from, to, count);
        if (sum() >= before - 1e-9) move(from, to, -count);
      }
    }
  }
}
