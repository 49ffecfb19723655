// Divides a budget of neurons among layers, so that their errors together are least.

/** Least share of its neurons that a layer keeps. */
const LEAST_SHARE = 1 / 4;
/** Neurons of a block of quantized weights; sizes of wide layers are multiples of it. */
const BLOCK = 32;
/** Neurons of the blocks of types with two levels of scales, and the least of a layer whose sizes are multiples. */
const LONG_BLOCK = 256;
const LEAST_LONG = 16 * LONG_BLOCK;

/** Returns the number that sizes of a layer are multiples of, so that rows of down-projections are whole blocks. */
export function sizeUnit(numNeurons: number): number {
  return numNeurons >= LEAST_LONG && numNeurons % LONG_BLOCK === 0 ? LONG_BLOCK : 1;
}

/** Returns the sizes that a layer can have, ascending, with equal steps up to all neurons. */
export function sizeSteps(numNeurons: number): readonly number[] {
  const unit = Math.max(sizeUnit(numNeurons), BLOCK);
  const step = numNeurons >= BLOCK ** 2 ? unit * Math.max(1, Math.floor(numNeurons / (BLOCK * unit))) : 1;
  const count = Math.floor((numNeurons - Math.ceil(numNeurons * LEAST_SHARE)) / step) + 1;
  return Array.from({ length: count }, (_, index) => numNeurons - (count - 1 - index) * step);
}

/**
 * Chooses a size for each layer: those with the least sum of errors among all whose sum is within the budget. Errors
 * need not fall evenly, so that all divisions of the budget are compared, by dynamic programming.
 *
 * @param curves - error of each layer at each of the sizes
 * @param sizes - ascending, with equal steps
 * @param numNeurons - budget of all layers
 * @returns sizes of the layers; of equal sums, the one that gives the last layers least
 * @throws {RangeError} when the budget is below the least sizes
 */
export function divideBudget(
  curves: readonly ArrayLike<number>[],
  sizes: readonly number[],
  numNeurons: number,
): readonly number[] {
  const [least = 0, second = least + 1] = sizes;
  const spare = Math.floor((numNeurons - curves.length * least) / (second - least));
  if (!(spare >= 0)) {
    throw new RangeError(`Expected a budget of at least ${curves.length * least} neurons, got ${numNeurons}`);
  }
  const total = Math.min(spare, curves.length * (sizes.length - 1));
  // Least sums of the layers so far by the steps that they take at most, and the last one's steps.
  let sums = new Float64Array(total + 1);
  const taken = curves.map((curve) => {
    const own = new Uint16Array(total + 1);
    sums = sums.map((_, steps) => {
      let best = Infinity;
      for (let more = 0; more < sizes.length && more <= steps; more++) {
        const sum = sums[steps - more]! + curve[more]!;
        if (sum < best) [best, own[steps]] = [sum, more];
      }
      return best;
    });
    return own;
  });
  let left = total;
  const chosen = taken.toReversed().map((own) => {
    const steps = own[left]!;
    left -= steps;
    return sizes[steps]!;
  });
  return chosen.toReversed();
}
