// Assigns items to bins of equal room, so that the sum of their scores is large.

/** Rounds of scaling, and the sharpness of the plan as a share of the spread of scores. */
const ROUNDS = 30;
const SHARPNESS = 0.05;

/**
 * Plans a balanced transport by Sinkhorn's scaling, then gives each item to the bin with the most of it that has room.
 *
 * @param scores - of each item in each bin
 * @param room - items that a bin takes at most; all bins together take all items
 * @returns the bin of each item
 */
export function balancedAssignment(scores: readonly (readonly number[])[], room: number): readonly number[] {
  const numBins = scores[0]?.length ?? 0;
  if (scores.length > numBins * room)
    throw new RangeError(`Expected room for ${scores.length} items, got ${numBins * room}`);
  const flat = scores.flat();
  const spread =
    Math.max(...scores.map((row) => Math.max(...row))) - Math.min(...scores.map((row) => Math.min(...row)));
  const scale = 1 / (SHARPNESS * spread || 1);
  const top = scores.map((row) => Math.max(...row));
  const plan = Float64Array.from(flat, (score, place) => Math.exp(scale * (score - top[Math.floor(place / numBins)]!)));
  for (let round = 0; round < ROUNDS; round++) {
    for (let bin = 0; bin < numBins; bin++) {
      let sum = 0;
      for (let item = 0; item < scores.length; item++) sum += plan[item * numBins + bin]!;
      // A bin with less than its room is not filled up.
      const factor = sum > room ? room / sum : 1;
      for (let item = 0; item < scores.length; item++) plan[item * numBins + bin]! *= factor;
    }
    for (let item = 0; item < scores.length; item++) {
      const own = plan.subarray(item * numBins, (item + 1) * numBins);
      const sum = own.reduce((total, share) => total + share, 0) || 1;
      own.forEach((share, bin) => (own[bin] = share / sum));
    }
  }
  const order = Array.from(plan.keys()).sort((a, b) => plan[b]! - plan[a]! || a - b);
  const bins = new Int32Array(scores.length).fill(-1);
  const left = new Int32Array(numBins).fill(room);
  for (const place of order) {
    const [item, bin] = [Math.floor(place / numBins), place % numBins];
    if (bins[item] !== -1 || left[bin] === 0) continue;
    bins[item] = bin;
    left[bin]!--;
  }
  return [...bins];
}
