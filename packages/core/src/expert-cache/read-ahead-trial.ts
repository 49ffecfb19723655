// Chooses by measurement whether a mixture's likely units are read ahead of their layer.

/** Measured times of the two ways to read: ahead of a layer by estimates, and on demand. Plain data. */
export interface ReadAheadTrial {
  /** Whether the running window reads ahead. */
  readonly readsAhead: boolean;
  /** Mean time of a used unit in the last window of each way, in ms; `undefined` before the first. */
  readonly aheadMs: number | undefined;
  readonly demandMs: number | undefined;
  /** Steps of the running window so far, and its length. */
  readonly numSteps: number;
  readonly windowSteps: number;
  /** Sums over the counted steps of the window. */
  readonly sumMs: number;
  readonly sumUnits: number;
  /** Number of windows that have ended. */
  readonly numWindows: number;
}

/** A step whose time counts. */
export interface TrialStep {
  /** Duration of the step in ms. */
  readonly ms: number;
  /** Number of units that its layers used. */
  readonly units: number;
}

/** Windows at the start, which alternate between the two ways. */
const FIRST_WINDOWS = 4;
const SHORT_STEPS = 8;
/** Steps of the faster way between two short windows of the other. */
const LONG_STEPS = 400;
/** Steps at the start of a window that are not counted: the other way has filled the memory. */
const SETTLING_STEPS = 2;
/** Share by which the other way has to be faster, so that noise changes nothing. */
const LEAST_GAIN = 0.02;

/** Begins with reading on demand. */
export function newReadAheadTrial(): ReadAheadTrial {
  return window({ readsAhead: false, aheadMs: undefined, demandMs: undefined, numWindows: 0 }, SHORT_STEPS);
}

/**
 * Counts a step, and changes the way at the end of a window. The slower way runs in one of 50 steps after the start,
 * so that the choice follows a change of the disk, the routes or the other processes.
 *
 * @returns the new trial
 */
export function observeTrialStep(trial: ReadAheadTrial, { ms, units }: TrialStep): ReadAheadTrial {
  if (units <= 0) return trial;
  const counts = trial.numSteps >= SETTLING_STEPS;
  const next = {
    ...trial,
    numSteps: trial.numSteps + 1,
    sumMs: trial.sumMs + (counts ? ms : 0),
    sumUnits: trial.sumUnits + (counts ? units : 0),
  };
  return next.numSteps < next.windowSteps ? next : endWindow(next);
}

function endWindow(trial: ReadAheadTrial): ReadAheadTrial {
  const { readsAhead, windowSteps } = trial;
  const ms = trial.sumMs / trial.sumUnits;
  const measured = {
    aheadMs: readsAhead ? ms : trial.aheadMs,
    demandMs: readsAhead ? trial.demandMs : ms,
    numWindows: trial.numWindows + 1,
  };
  if (measured.numWindows < FIRST_WINDOWS) return window({ ...measured, readsAhead: !readsAhead }, SHORT_STEPS);
  const { aheadMs = Infinity, demandMs = Infinity } = measured;
  const [ownMs, otherMs] = readsAhead ? [aheadMs, demandMs] : [demandMs, aheadMs];
  // A long window has measured its own way anew, and the other way has its turn.
  if (windowSteps === LONG_STEPS) return window({ ...measured, readsAhead: !readsAhead }, SHORT_STEPS);
  const isFaster = ownMs < otherMs * (1 - LEAST_GAIN);
  return window({ ...measured, readsAhead: isFaster ? readsAhead : !readsAhead }, LONG_STEPS);
}

function window(
  trial: Pick<ReadAheadTrial, "readsAhead" | "aheadMs" | "demandMs" | "numWindows">,
  windowSteps: number,
): ReadAheadTrial {
  return { ...trial, windowSteps, numSteps: 0, sumMs: 0, sumUnits: 0 };
}
