// What a tuning has measured so far.

import type { StepFigures } from "./trainer.ts";

export interface Evaluation {
  /** Steps done. */
  readonly step: number;
  /** Mean loss of each kind of text, in nats per token. */
  readonly losses: readonly number[];
  /** Of `losses`. */
  readonly mean: number;
}

export interface TuningHistory {
  /** The teacher's, as in `Evaluation`. */
  readonly teacher: Evaluation;
  /** Of each step. */
  readonly steps: readonly StepFigures[];
  /** The first one of the model as it came. */
  readonly evaluations: readonly Evaluation[];
}

/** The least loss; the first one among equals. */
export function bestOf({ evaluations }: Pick<TuningHistory, "evaluations">): Evaluation {
  return evaluations.reduce((best, other) => (other.mean < best.mean ? other : best));
}

/** Whether the last `patience` measurements were all no better than one before them. */
export function isStuck(history: Pick<TuningHistory, "evaluations">, patience: number): boolean {
  return patience > 0 && history.evaluations.length - 1 - history.evaluations.indexOf(bestOf(history)) >= patience;
}

/** Whether losses are measured behind a step. @param step - counts from 1 */
export function isMeasured(step: number, steps: number, evaluations: number): boolean {
  return Math.floor((step * evaluations) / steps) > Math.floor(((step - 1) * evaluations) / steps);
}
