// Learning what steps cost from those that have run: recursive least squares, which for coefficients that drift is a
// Kalman filter. Five numbers and their covariance; a refinement is some hundred multiplications.

import { DEFAULT_COST_MODEL, predictStepMs, type CostModel, type StepWork } from "./cost-model.ts";

/** A cost model that knows how sure it is of its coefficients. Plain data. */
export interface RefinedCostModel extends CostModel {
  /** Covariance of the coefficients, in squares of the default ones, `[5, 5]` row by row. */
  readonly covariance: readonly number[];
}

/** A step that ran: what was in it, and what it took. */
export interface StepObservation {
  readonly work: StepWork;
  /** That the step took, above 0. */
  readonly durationMs: number;
}

const NAMES = ["fixedMs", "msPerToken", "msPerExpert", "msPerCachedToken", "loadMsPerByte"] as const;
const SIZE = NAMES.length;
// A coefficient that was never measured may be off by this factor: from a pocket model to one of some billions.
const FIRST_DEVIATION = 100;
// Durations of equal steps differ by this share; and by something where steps take no time.
const NOISE_SHARE = 0.1;
const NOISE_MS = 0.05;
// Coefficients drift by this share from one step to the next, such as when other processes want the cores.
const DRIFT_SHARE = 0.01;
// A step that took longer by more than three deviations moves the model as if it were three: it may have been a garbage
// collection, or page faults. Nothing of the kind makes a step shorter, so one that was shorter is believed.
const MOST_DEVIATIONS = 3;

/**
 * A model that predicts an observed step better, and the others no worse than it must.
 *
 * @returns a new model; `model`'s own coefficients where the duration is not above 0, as under a clock that stands still
 */
export function refineCostModel(
  model: CostModel | RefinedCostModel,
  { work, durationMs }: StepObservation,
): RefinedCostModel {
  const covariance = "covariance" in model ? model.covariance : firstCovariance();
  if (!(durationMs > 0) || !Number.isFinite(durationMs)) return { ...model, covariance };
  // Counted in default coefficients, so that bytes and steps are of one size.
  const coefficients = NAMES.map((name) => model[name] / DEFAULT_COST_MODEL[name]);
  const { tokens, distinctExperts, cachedTokens, missingBytes } = work;
  const inputs = [1, tokens, distinctExperts, cachedTokens, missingBytes].map(
    (amount, index) => amount * DEFAULT_COST_MODEL[NAMES[index] as (typeof NAMES)[number]],
  );
  const noiseMs = NOISE_SHARE * Math.min(predictStepMs(model, work), durationMs) + NOISE_MS;
  const drifted = covariance.map((value, place) => {
    const coefficient = coefficients[place % SIZE] as number;
    return isDiagonal(place) ? value + (DRIFT_SHARE * Math.max(1, coefficient)) ** 2 : value;
  });
  const observed = observe({ coefficients, covariance: drifted }, inputs, durationMs, noiseMs);
  const [fixed = 0, token = 0, expert = 0, cachedToken = 0, byte = 0] = withoutNegatives(observed);
  return {
    fixedMs: fixed * DEFAULT_COST_MODEL.fixedMs,
    msPerToken: token * DEFAULT_COST_MODEL.msPerToken,
    msPerExpert: expert * DEFAULT_COST_MODEL.msPerExpert,
    msPerCachedToken: cachedToken * DEFAULT_COST_MODEL.msPerCachedToken,
    loadMsPerByte: byte * DEFAULT_COST_MODEL.loadMsPerByte,
    covariance: observed.covariance,
  };
}

interface Estimate {
  readonly coefficients: readonly number[];
  /** `[5, 5]` row by row. */
  readonly covariance: readonly number[];
}

/** The estimate after `inputs` times the coefficients was measured, with noise of the given deviation, or exactly. */
function observe(
  { coefficients, covariance }: Estimate,
  inputs: readonly number[],
  measured: number,
  noise: number,
): Estimate {
  const spread = inputs.map((_, row) => dot(covariance.slice(row * SIZE, (row + 1) * SIZE), inputs));
  const variance = dot(spread, inputs) + noise ** 2;
  if (!(variance > 0)) return { coefficients, covariance };
  const most = noise === 0 ? Infinity : MOST_DEVIATIONS * Math.sqrt(variance);
  const error = measured - dot(coefficients, inputs);
  // What was not believed makes nobody surer.
  const trust = error > most ? most / error : 1;
  const at = (index: number): number => spread[index] as number;
  return {
    coefficients: coefficients.map((value, index) => value + (at(index) * error * trust) / variance),
    covariance: covariance.map(
      (value, place) => value - (trust * at(Math.floor(place / SIZE)) * at(place % SIZE)) / variance,
    ),
  };
}

/**
 * The likeliest coefficients of which none is negative. Those that were are seen to be 0, so that the others make up
 * for it, and the step that was observed stays as well predicted; cut off alone, errors would never be corrected.
 */
function withoutNegatives(estimate: Estimate): readonly number[] {
  let current = estimate;
  for (let round = 0; round < SIZE; round++) {
    const lowest = Math.min(...current.coefficients);
    if (lowest >= 0) break;
    const index = current.coefficients.indexOf(lowest);
    const alone = NAMES.map((_, other) => (other === index ? 1 : 0));
    current = observe(current, alone, 0, 0);
  }
  // What is left below 0 is rounding.
  return current.coefficients.map((value) => Math.max(0, value));
}

function firstCovariance(): readonly number[] {
  return Array.from({ length: SIZE * SIZE }, (_, place) => (isDiagonal(place) ? FIRST_DEVIATION ** 2 : 0));
}

function isDiagonal(place: number): boolean {
  return place % (SIZE + 1) === 0;
}

function dot(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, value, index) => sum + value * (b[index] as number), 0);
}
