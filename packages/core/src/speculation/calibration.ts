// How far chances can be trusted. Of several proposals the one with the best chances runs, so that the chances of those
// that run are too high on average.

/** Drafted tokens that ran: how many were expected to be accepted, and how many were. Older ones count less. */
export interface DraftCalibration {
  readonly expected: number;
  readonly accepted: number;
}

const PRIOR_TOKENS = 10;
const PRIOR_FACTOR = 0.95;
const MEMORY_TOKENS = 400;
const [LEAST_FACTOR, MOST_FACTOR] = [0.3, 1.1];

/** Calibration before any draft. */
export const NO_CALIBRATION: DraftCalibration = { expected: 0, accepted: 0 };

/** Adds a draft that ran. @param expected - sum of the chances of its tokens to be accepted */
export function calibrate(calibration: DraftCalibration, expected: number, accepted: number): DraftCalibration {
  const keep = Math.exp(-expected / MEMORY_TOKENS);
  return { expected: calibration.expected * keep + expected, accepted: calibration.accepted * keep + accepted };
}

/** Computes by which factor the chance of a draft's first token is changed. */
export function calibrationFactor({ expected, accepted }: DraftCalibration): number {
  const factor = (accepted + PRIOR_FACTOR * PRIOR_TOKENS) / (expected + PRIOR_TOKENS);
  return Math.min(MOST_FACTOR, Math.max(LEAST_FACTOR, factor));
}
