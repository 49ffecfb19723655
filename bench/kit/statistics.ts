// Medians, intervals and growth, without clocks or unseeded randomness.

import { seededRandom } from "@readme-moe/core";

/** Computes the mean; NaN without values. */
export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Computes the median, between the two middle values if necessary; NaN without values. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  return ((sorted[Math.floor(middle)] ?? NaN) + (sorted[Math.ceil(middle)] ?? NaN)) / 2;
}

/** Computes a percentile by the nearest rank; NaN without values. @param percent - in `(0, 100]` */
export function percentile(values: readonly number[], percent: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil((sorted.length * percent) / 100) - 1)] ?? NaN;
}

/** A closed interval. */
export interface Interval {
  readonly low: number;
  readonly high: number;
}

/** Options of `bootstrapInterval`. */
export interface BootstrapOptions {
  readonly seed: number;
  /** @default median */
  readonly statistic?: (values: readonly number[]) => number;
  /** Share of resamples inside the interval, in `(0, 1)`. @default 0.95 */
  readonly confidence?: number;
  /** @default 1000 */
  readonly resamples?: number;
}

/**
 * Estimates the interval of a statistic from samples that are drawn with replacement (Efron's percentile bootstrap).
 * Returns `undefined` for fewer than two values, and when the statistic of a sample is NaN.
 */
export function bootstrapInterval(
  values: readonly number[],
  { seed, statistic = median, confidence = 0.95, resamples = 1000 }: BootstrapOptions,
): Interval | undefined {
  if (values.length < 2) return undefined;
  const random = seededRandom(seed);
  const drawn = Array.from({ length: resamples }, () =>
    statistic(values.map(() => values[Math.floor(random() * values.length)] as number)),
  );
  if (drawn.some(Number.isNaN)) return undefined;
  const tail = (100 * (1 - confidence)) / 2;
  return { low: percentile(drawn, tail), high: percentile(drawn, 100 - tail) };
}

/** A fitted power law. */
export interface Growth {
  /** Exponent in `y = factor * x ** exponent`. */
  readonly exponent: number;
  readonly factor: number;
  /** Share of the variance of `log y` that the line explains, in `[0, 1]`; 1 where `y` does not vary. */
  readonly rSquared: number;
}

/**
 * Fits a power law by least squares between logarithms. Returns `undefined` for fewer than two different x.
 * @throws {RangeError} when a number is not positive
 */
export function growthOf(points: readonly (readonly [x: number, y: number])[]): Growth | undefined {
  const wrong = points.flat().find((value) => !(value > 0));
  if (wrong !== undefined) throw new RangeError(`Expected \`points\` to be of positive numbers, got ${wrong}`);
  const logs = points.map(([x, y]) => [Math.log(x), Math.log(y)] as const);
  const [meanX, meanY] = [mean(logs.map(([x]) => x)), mean(logs.map(([, y]) => y))];
  const sum = (of: (x: number, y: number) => number): number =>
    logs.reduce((total, [x, y]) => total + of(x - meanX, y - meanY), 0);
  const [xx, xy, yy] = [sum((x) => x * x), sum((x, y) => x * y), sum((_, y) => y * y)];
  if (!(xx > 0)) return undefined;
  const exponent = xy / xx;
  const rSquared = yy > 0 ? (xy * xy) / (xx * yy) : 1;
  return { exponent, factor: Math.exp(meanY - exponent * meanX), rSquared };
}

/** Two values of one round. */
export type Pair = readonly [own: number, other: number];

/** Divides the medians, so that an outlier of one round counts little. */
export function ratioOfMedians(pairs: readonly Pair[]): number {
  return median(pairs.map(([own]) => own)) / median(pairs.map(([, other]) => other));
}

/** Estimates the interval of the ratio by drawing whole rounds, since a disturbance slows both values of a pair. */
export function ratioInterval(pairs: readonly Pair[], seed: number): Interval | undefined {
  return bootstrapInterval(Array.from(pairs.keys()), {
    seed,
    statistic: (rounds) => ratioOfMedians(rounds.map((round) => pairs[round] as Pair)),
  });
}

/** Estimates the 95 % interval of a share by Wilson's score. Without trials it is all of `[0, 1]`. */
export function wilsonInterval(successes: number, trials: number): Interval {
  if (trials === 0) return { low: 0, high: 1 };
  const z = 1.959964;
  const share = successes / trials;
  const scale = 1 + z ** 2 / trials;
  const middle = share + z ** 2 / (2 * trials);
  const half = z * Math.sqrt((share * (1 - share)) / trials + z ** 2 / (4 * trials ** 2));
  // At the ends of the range rounding must not leave it, nor the share.
  return {
    low: successes === 0 ? 0 : (middle - half) / scale,
    high: successes === trials ? 1 : (middle + half) / scale,
  };
}

/**
 * Computes the two-sided p-value of McNemar's exact test: the chance of a split at least as uneven if both were alike.
 *
 * @param onlyFirst - cases that only the first one solved
 * @param onlySecond - cases that only the second one solved
 */
export function mcNemarExact(onlyFirst: number, onlySecond: number): number {
  const trials = onlyFirst + onlySecond;
  let term = 0.5 ** trials;
  let tail = 0;
  for (let count = 0; count <= Math.min(onlyFirst, onlySecond); count++) {
    tail += term;
    term *= (trials - count) / (count + 1);
  }
  return Math.min(1, 2 * tail);
}
