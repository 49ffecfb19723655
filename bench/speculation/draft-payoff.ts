// When a draft model pays, from the measured times of both models.

/** Times of steps in ms, for one number of sequences. */
export interface DraftTimes {
  /** Steps of the large model with 1, 2, 3, … rows of each sequence. */
  readonly verifyMs: readonly number[];
  /** The draft model's first run after a step: it reads what the step gave. */
  readonly firstMs: number;
  /** Each further run. */
  readonly runMs: number;
}

/** Fills in the times between measured numbers of rows, on straight lines. @returns times of 1, 2, 3, … rows */
export function timesOfRows(measured: readonly (readonly [numRows: number, ms: number])[]): readonly number[] {
  const [last = 0] = measured.at(-1) ?? [];
  return Array.from({ length: last }, (_, index) => {
    const numRows = index + 1;
    const place = measured.findIndex(([known]) => known >= numRows);
    const [[low, lowMs], [high, highMs]] = [measured[Math.max(0, place - 1)] ?? [1, NaN], measured[place] ?? [1, NaN]];
    return high === low ? highMs : lowMs + ((highMs - lowMs) * (numRows - low)) / (high - low);
  });
}

/**
 * Computes how many times as many tokens a millisecond gives with drafts as without.
 *
 * @param chance - chance that a drafted token is accepted, given that those before it were
 * @param numDrafted - tokens of each draft, at least one and fewer than the rows of `verifyMs`
 */
export function speedUp({ verifyMs, firstMs, runMs }: DraftTimes, chance: number, numDrafted: number): number {
  let tokens = 1;
  for (let token = 1, product = chance; token <= numDrafted; token++, product *= chance) tokens += product;
  const ms = (verifyMs[numDrafted] ?? NaN) + firstMs + (numDrafted - 1) * runMs;
  return (tokens * (verifyMs[0] ?? NaN)) / ms;
}

/** Finds the chance from which on drafts of a length pay; `undefined` if not even sure tokens do. */
export function breakEvenChance(times: DraftTimes, numDrafted: number): number | undefined {
  if (!(speedUp(times, 1, numDrafted) > 1)) return undefined;
  let [low, high] = [0, 1];
  for (let step = 0; step < 40; step++) {
    const middle = (low + high) / 2;
    if (speedUp(times, middle, numDrafted) > 1) high = middle;
    else low = middle;
  }
  return high;
}

/** Finds the length of drafts that gives most, and what it gives; length 0 means no drafts. */
export function bestLength(times: DraftTimes, chance: number): readonly [numDrafted: number, speedUp: number] {
  return times.verifyMs
    .slice(1)
    .map((_, index): readonly [number, number] => [index + 1, speedUp(times, chance, index + 1)])
    .reduce((best, one) => (one[1] > best[1] ? one : best), [0, 1] as readonly [number, number]);
}
