// Which text each part of a training learns from, and at which rate. The rate depends on the share of the text that was
// learned from: it is constant at first and falls afterwards, also of experts that go on from a common one.

import { learningRateShare } from "../autodiff/adam.ts";
import { shuffled } from "../random.ts";
import type { TrainingPlan } from "../tuning/train.ts";
import type { TextSequence } from "../tuning/tuning-data.ts";
import type { ResolvedLoraOptions } from "./options.ts";

const LAST_RATE_SHARE = 0.05;

/**
 * Text of a training. `"first"` is the first part of all kinds, `"rest"` the rest, and `"all"` both, with steps of one
 * kind each. The text of one kind is learned from as a whole, or its rest alone.
 */
export type Course = "first" | "rest" | "all" | { readonly kind: number; readonly isRest: boolean };

export interface Schedule {
  /** Steps on the first part of all kinds of text; a multiple of `numKinds`. */
  readonly firstSteps: number;
  /** Steps on the rest of each kind of text. */
  readonly restSteps: number;
  readonly numKinds: number;
}

/** Divides the tokens. Every way to train takes the same sequences, once each while there is text. */
export function scheduleOf(
  { tokens, sharedShare, batchSequences, sequenceTokens }: ResolvedLoraOptions,
  numKinds: number,
): Schedule {
  const stepsOfKind = Math.max(1, Math.round(tokens / (batchSequences * sequenceTokens * numKinds)));
  const first = Math.min(stepsOfKind - 1, Math.round(stepsOfKind * sharedShare));
  return { firstSteps: first * numKinds, restSteps: stepsOfKind - first, numKinds };
}

/** Lists all courses of a training. */
export function coursesOf(
  { sharing, rival }: Pick<ResolvedLoraOptions, "sharing" | "rival">,
  { firstSteps, numKinds }: Schedule,
): readonly Course[] {
  const isStart = sharing === "start";
  const own = Array.from({ length: numKinds }, (_, kind): Course => ({ kind, isRest: isStart }));
  return [
    ...(sharing === "ranks" ? ["all" as const] : own),
    ...(firstSteps > 0 && (isStart || rival) ? ["first" as const] : []),
    ...(rival ? ["rest" as const] : []),
  ];
}

/** Returns the number of steps whose tokens all experts learn from together. */
export function totalSteps({ firstSteps, restSteps, numKinds }: Schedule): number {
  return firstSteps + restSteps * numKinds;
}

/** Returns the number of sequences of each kind that the whole training takes. */
export function sequencesOfKind(schedule: Schedule, { batchSequences }: ResolvedLoraOptions): number {
  return (totalSteps(schedule) / schedule.numKinds) * batchSequences;
}

/** Plans a training. */
export function planOf(course: Course, schedule: Schedule, options: ResolvedLoraOptions): TrainingPlan<TextSequence> {
  const { batchSequences, sequenceTokens, evaluations, learningRate, seed } = options;
  const { firstSteps, restSteps, numKinds } = schedule;
  const isOwn = typeof course === "object";
  const isRest = isOwn ? course.isRest : course === "rest";
  const times = isOwn ? 1 : numKinds;
  const first = (firstSteps * times) / numKinds;
  const rest = restSteps * times;
  const start = isRest ? (firstSteps / numKinds) * batchSequences : 0;
  const placeOf = (step: number, place: number): readonly [kind: number, place: number] => {
    const index = step * batchSequences + place;
    if (isOwn) return [course.kind, start + index];
    // With ranks of its own, a kind has steps of its own.
    if (course === "all") return [step % numKinds, Math.floor(step / numKinds) * batchSequences + place];
    return [index % numKinds, start + Math.floor(index / numKinds)];
  };
  return {
    steps: (isRest ? 0 : first) + (course === "first" ? 0 : rest),
    stepTokens: batchSequences * sequenceTokens,
    evaluations,
    patience: 0,
    rates: (step) => {
      const share = rateShare((isRest ? first : 0) + step, first + rest, options);
      return { matrices: learningRate * share, vectors: 0, weightDecay: 0 };
    },
    batch: (training, step) =>
      Array.from({ length: batchSequences }, (_, at) => {
        const [kind, place] = placeOf(step, at);
        return sequenceAt(training, { kind, place, seed });
      }),
  };
}

/** Returns the share of the learning rate at one of `steps` steps. */
function rateShare(step: number, steps: number, options: ResolvedLoraOptions): number {
  const constant = Math.min(steps - 1, Math.round(steps * options.constantShare));
  const warmUp = Math.min(options.warmUpSteps, constant);
  if (step < warmUp) return (step + 1) / warmUp;
  return step < constant ? 1 : learningRateShare(step - constant, steps - constant, 0, LAST_RATE_SHARE);
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
