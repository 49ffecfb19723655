// Which text each part of a training learns from, and at which rate. First all kinds train one expert at a constant
// rate; then each kind's expert goes on from there on the kind's further text while the rate falls. The expert for
// comparison goes on likewise, on the further text of all kinds.

import { learningRateShare } from "../autodiff/adam.ts";
import { shuffled } from "../random.ts";
import type { TrainingPlan } from "../tuning/train.ts";
import type { TextSequence } from "../tuning/tuning-data.ts";
import type { ResolvedLowRankOptions } from "./options.ts";

const LAST_RATE_SHARE = 0.05;

export type PartName = "shared" | "rival" | { readonly kind: number };

export interface Schedule {
  /** Steps of the expert that all kinds share; 0 if there is none. */
  readonly sharedSteps: number;
  /** Steps of each kind's own expert. */
  readonly ownSteps: number;
  readonly numKinds: number;
}

/** Divides the tokens: shared and own steps together learn from as many tokens as the expert for comparison. */
export function scheduleOf(
  { tokens, sharedShare, batchSequences, sequenceTokens }: ResolvedLowRankOptions,
  numKinds: number,
): Schedule {
  const steps = tokens / (batchSequences * sequenceTokens);
  const sharedSteps = Math.round(steps * sharedShare);
  return { sharedSteps, ownSteps: Math.max(1, Math.round((steps - sharedSteps) / numKinds)), numKinds };
}

/** Returns the number of steps whose tokens the experts learn from together. */
export function totalSteps({ sharedSteps, ownSteps, numKinds }: Schedule): number {
  return sharedSteps + ownSteps * numKinds;
}

/** Returns the number of sequences of each kind that the whole training takes. */
export function sequencesOfKind(schedule: Schedule, { batchSequences }: ResolvedLowRankOptions): number {
  return firstOwn(schedule, batchSequences) + schedule.ownSteps * batchSequences;
}

/** Returns the place of the first sequence of each kind behind those of the shared expert. */
function firstOwn({ sharedSteps, numKinds }: Schedule, batchSequences: number): number {
  return Math.ceil((sharedSteps * batchSequences) / numKinds);
}

/** Plans the training of one expert. */
export function planOf(
  part: PartName,
  schedule: Schedule,
  options: ResolvedLowRankOptions,
): TrainingPlan<TextSequence> {
  const { batchSequences, sequenceTokens, evaluations, learningRate, warmUpSteps, seed } = options;
  const { sharedSteps, ownSteps, numKinds } = schedule;
  const steps = part === "shared" ? sharedSteps : part === "rival" ? ownSteps * numKinds : ownSteps;
  const isFirst = part === "shared" || sharedSteps === 0;
  const warmUp = isFirst ? warmUpSteps : 0;
  const rate = (step: number): number => {
    if (part === "shared") return step < warmUp ? (step + 1) / warmUp : 1;
    return learningRateShare(step, steps, Math.min(warmUp, steps - 1), LAST_RATE_SHARE);
  };
  const start = part === "shared" ? 0 : firstOwn(schedule, batchSequences);
  return {
    steps,
    stepTokens: batchSequences * sequenceTokens,
    evaluations,
    patience: 0,
    rates: (step) => ({ matrices: learningRate * rate(step), vectors: 0, weightDecay: 0 }),
    batch: (training, step) =>
      Array.from({ length: batchSequences }, (_, place) => {
        const index = step * batchSequences + place;
        const ofAll = typeof part === "string";
        const kind = ofAll ? index % numKinds : part.kind;
        return sequenceAt(training, { kind, place: start + (ofAll ? Math.floor(index / numKinds) : index), seed });
      }),
  };
}

/** Finds a sequence of a kind; each time that all were drawn, they have a new order. */
function sequenceAt(
  training: readonly TextSequence[],
  { kind, place, seed }: { readonly kind: number; readonly place: number; readonly seed: number },
): TextSequence {
  const own = training.filter(({ domain }) => domain === kind);
  const epoch = Math.floor(place / own.length);
  const order = epoch === 0 ? own : shuffled(own, seed + epoch);
  return order[place - epoch * own.length]!;
}
