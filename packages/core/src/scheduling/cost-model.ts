// The predicted time of a step, from what a scheduler knows before it runs, and its refinement by measured steps.

/** Coefficients of a step's time; none is negative. Plain data. */
export interface CostModel {
  /** Time of every step, whatever is in it. */
  readonly fixedMs: number;
  readonly msPerToken: number;
  /** Time for each distinct expert that the step's tokens need. */
  readonly msPerExpert: number;
  /** Time for each token whose keys and values the step reads. */
  readonly msPerCachedToken: number;
  /** Time for each byte of expert weights that is not in memory. */
  readonly loadMsPerByte: number;
}

/** The quantities that a step's time depends on. */
export interface StepWork {
  readonly tokens: number;
  readonly distinctExperts: number;
  /** Number of computed tokens of all sequences in the step. */
  readonly cachedTokens: number;
  readonly missingBytes: number;
}

/** The work of a step without tokens. */
export const NO_WORK: StepWork = { tokens: 0, distinctExperts: 0, cachedTokens: 0, missingBytes: 0 };

/**
 * Coefficients before anything is measured: SmolLM2-135M as seven experts in int8 on two Zen 5 cores, weights read at
 * 1 GB/s. They predict 44 measured steps (1 to 32 sequences with 1 to 1,000 computed tokens, prompts to 1,024) with a
 * mean error of 9 %. The worst are chunks of a prompt after 1,000 tokens, a third too low, because attention over a
 * long chunk has no term of its own. Other models and machines are learned within some tens of steps
 * (`refineCostModel`).
 */
export const DEFAULT_COST_MODEL: CostModel = {
  fixedMs: 1.5,
  msPerToken: 0.3,
  msPerExpert: 0.7,
  msPerCachedToken: 0.0008,
  loadMsPerByte: 1e-6,
};

/** Returns the coefficients of a model alone. */
export function coefficientsOf(model: CostModel): CostModel {
  const { fixedMs, msPerToken, msPerExpert, msPerCachedToken, loadMsPerByte } = model;
  return { fixedMs, msPerToken, msPerExpert, msPerCachedToken, loadMsPerByte };
}

/** Predicts the time of a step in ms. */
export function predictStepMs(model: CostModel, work: StepWork): number {
  return (
    model.fixedMs +
    model.msPerToken * work.tokens +
    model.msPerExpert * work.distinctExperts +
    model.msPerCachedToken * work.cachedTokens +
    model.loadMsPerByte * work.missingBytes
  );
}

/** A cost model with the uncertainty of its coefficients. Plain data. */
export interface RefinedCostModel extends CostModel {
  /** Covariance of the coefficients, in squares of the default ones, `[5, 5]` row by row. */
  readonly covariance: readonly number[];
}

/** A step that ran. */
export interface StepObservation {
  readonly work: StepWork;
  /** Measured time of the step, above 0. */
  readonly durationMs: number;
}

const NAMES = ["fixedMs", "msPerToken", "msPerExpert", "msPerCachedToken", "loadMsPerByte"] as const;
const DEFAULTS = NAMES.map((name) => DEFAULT_COST_MODEL[name]);
const SIZE = NAMES.length;
// A coefficient that was never measured may be wrong by this factor: from a pocket model to one of some billions.
const FIRST_DEVIATION = 100;
// Durations of equal steps differ by this share, and by NOISE_MS if steps take nearly no time.
const NOISE_SHARE = 0.1;
const NOISE_MS = 0.05;
// Coefficients drift by this share from one step to the next, for example when other processes use the cores.
const DRIFT_SHARE = 0.01;
// A step that took longer by more than three deviations counts as three: it may have been a garbage collection or page
// faults. No such disturbance makes a step shorter, so a shorter step counts in full.
const MOST_DEVIATIONS = 3;

/**
 * Refines a model by one observed step, with recursive least squares, which for drifting coefficients is a Kalman
 * filter: five numbers and their covariance, some hundred multiplications.
 *
 * @returns a new model; one with the same coefficients if the duration is not above 0, as under a clock that stands
 *   still
 */
export function refineCostModel(
  model: CostModel | RefinedCostModel,
  { work, durationMs }: StepObservation,
): RefinedCostModel {
  const covariance = "covariance" in model ? model.covariance : firstCovariance();
  if (!(durationMs > 0) || !Number.isFinite(durationMs)) return { ...model, covariance };
  // In units of the default coefficients, so that bytes and steps have similar magnitudes.
  const coefficients = NAMES.map((name) => model[name] / DEFAULT_COST_MODEL[name]);
  const amounts = [1, work.tokens, work.distinctExperts, work.cachedTokens, work.missingBytes];
  const inputs = DEFAULTS.map((unit, index) => unit * (amounts[index] ?? 0));
  const noiseMs = NOISE_SHARE * Math.min(predictStepMs(model, work), durationMs) + NOISE_MS;
  const drifted = covariance.map((value, place) => {
    const coefficient = coefficients[place % SIZE] ?? 0;
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

/**
 * Updates an estimate after `inputs` times the coefficients was measured, with noise of this deviation; 0 is exact.
 */
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
  // The part of an error that is ignored must not reduce the uncertainty either.
  const trust = error > most ? most / error : 1;
  const at = (index: number): number => spread[index] ?? 0;
  return {
    coefficients: coefficients.map((value, index) => value + (at(index) * error * trust) / variance),
    covariance: covariance.map(
      (value, place) => value - (trust * at(Math.floor(place / SIZE)) * at(place % SIZE)) / variance,
    ),
  };
}

/**
 * Finds the most likely coefficients without a negative one. Each negative coefficient is treated as measured to be 0,
 * so that the others adjust and the observed step is still predicted well. If it were only cut off at 0, the error
 * would never be corrected.
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
  // Values below 0 that remain are rounding errors.
  return current.coefficients.map((value) => Math.max(0, value));
}

function firstCovariance(): readonly number[] {
  return Array.from({ length: SIZE * SIZE }, (_, place) => (isDiagonal(place) ? FIRST_DEVIATION ** 2 : 0));
}

function isDiagonal(place: number): boolean {
  return place % (SIZE + 1) === 0;
}

function dot(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, value, index) => sum + value * (b[index] ?? 0), 0);
}
