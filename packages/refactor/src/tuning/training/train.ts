// The steps of a tuning, what is measured between them, and what is kept for the case that the process ends.

import { stat } from "node:fs/promises";
import { learningRateShare } from "../../autodiff/schedule.ts";
import { stepsOf, type ResolvedTuneOptions } from "../options.ts";
import { restoreCheckpoint, writeCheckpoint, writeParameters } from "./checkpoint.ts";
import { bestOf, isMeasured, isStuck, type Evaluation, type TuningHistory } from "./history.ts";
import { sequencesOfStep, type RoutedSequence } from "./sequences.ts";
import type { Parameter } from "./trainable.ts";
import type { StepFigures, Trainer } from "./trainer.ts";

/** Norms and biases learn at this share of the rate that changes of low rank learn at. */
const VECTOR_SHARE = 0.2;
const LAST_RATE_SHARE = 0.05;

/** How far a tuning is, told after each step. */
export interface TuneProgress extends StepFigures {
  /** Steps done. */
  readonly step: number;
  readonly steps: number;
  /** Learned from since this process began, by its seconds in steps. */
  readonly tokensPerS: number;
  /** Until the last step, at this rate. */
  readonly etaMs: number;
  /** Where losses were measured behind this step. */
  readonly evaluation: Evaluation | undefined;
}

interface TrainingFiles {
  readonly checkpoint: string;
  /** Parameters of the least loss so far. */
  readonly best: string;
}

export interface TrainingRun {
  readonly files: TrainingFiles;
  readonly checkpointMs: number;
  readonly signal: AbortSignal | undefined;
  readonly onProgress: ((progress: TuneProgress) => void) | undefined;
  /** Called before each step: what it and those after it learn from and are measured on. */
  readonly data: (step: number) => Promise<TuningData>;
}

export interface TuningData {
  readonly training: readonly RoutedSequence[];
  readonly evaluation: readonly RoutedSequence[];
}

/** Trains to the end, or until it does not get better. @returns what was measured; the best parameters are in `files.best` */
export async function train(
  trainer: Trainer,
  parameters: readonly Parameter[],
  options: ResolvedTuneOptions,
  { files, checkpointMs, signal, onProgress, data }: TrainingRun,
): Promise<TuningHistory> {
  const steps = stepsOf(options);
  let history = (await isThere(files.checkpoint))
    ? await restoreCheckpoint(files.checkpoint, trainer.optimizer)
    : await firstHistory(trainer, parameters, files, (await data(0)).evaluation);
  const firstStep = history.steps.length;
  let [savedMs, savedStep, stepMs] = [performance.now(), -1, 0];
  const save = async (): Promise<void> => {
    if (savedStep === history.steps.length) return;
    await writeCheckpoint(files.checkpoint, trainer.optimizer, history);
    [savedMs, savedStep] = [performance.now(), history.steps.length];
  };
  const measure = async (): Promise<Evaluation | undefined> => {
    const done = history.steps.length;
    const isDue = done > 0 && isMeasured(done, steps, options.evaluations);
    if (!isDue || history.evaluations.at(-1)?.step === done) return undefined;
    const measured = await evaluate(trainer, "student", done, (await data(done - 1)).evaluation);
    if (measured.mean < bestOf(history).mean) await writeParameters(files.best, parameters);
    history = { ...history, evaluations: [...history.evaluations, measured] };
    return measured;
  };
  try {
    await measure(); // what a process that is gone left undone
    for (let step = firstStep; step < steps && !isStuck(history, options.patience); step++) {
      // A new router is made of the parameters between two steps: they have to be there again after a kill.
      if (step % stepsOfRound(options) === 0) await save();
      const { training } = await data(step);
      const start = performance.now();
      const figures = await trainer.step(sequencesOfStep(training, step, options), ratesOf(step, options));
      stepMs += performance.now() - start;
      history = { ...history, steps: [...history.steps, figures] };
      const evaluation = await measure();
      if (performance.now() - savedMs >= checkpointMs) await save();
      const msPerStep = stepMs / (step + 1 - firstStep);
      onProgress?.({
        ...figures,
        step: step + 1,
        steps,
        tokensPerS: (options.batchSequences * options.sequenceTokens * 1000) / msPerStep,
        etaMs: msPerStep * (steps - step - 1),
        evaluation,
      });
    }
  } catch (error) {
    // A step that was cut short has changed nothing, and a measurement that was is made again.
    if (signal?.aborted) await save();
    throw error;
  }
  await save();
  return history;
}

/** Steps between two trainings of the router. */
export function stepsOfRound(options: ResolvedTuneOptions): number {
  return Math.ceil(stepsOf(options) / options.rounds);
}

async function firstHistory(
  trainer: Trainer,
  parameters: readonly Parameter[],
  files: TrainingFiles,
  sequences: readonly RoutedSequence[],
): Promise<TuningHistory> {
  const teacher = await evaluate(trainer, "teacher", 0, sequences);
  const first = await evaluate(trainer, "student", 0, sequences);
  await writeParameters(files.best, parameters);
  return { teacher, steps: [], evaluations: [first] };
}

async function evaluate(
  trainer: Trainer,
  who: "student" | "teacher",
  step: number,
  sequences: readonly RoutedSequence[],
): Promise<Evaluation> {
  const all = await trainer.losses(sequences, who);
  const losses = Array.from({ length: Math.max(...sequences.map(({ domain }) => domain)) + 1 }, (_, domain) => {
    const own = all.filter((__, index) => sequences[index]?.domain === domain);
    return own.reduce((sum, loss) => sum + loss, 0) / own.length;
  });
  return { step, losses, mean: losses.reduce((sum, loss) => sum + loss, 0) / losses.length };
}

function ratesOf(step: number, options: ResolvedTuneOptions) {
  const { method, learningRate, weightDecay, warmUpSteps } = options;
  const share = learningRateShare(step, stepsOf(options), warmUpSteps, LAST_RATE_SHARE);
  const matrices = learningRate * share;
  const isLora = method === "lora";
  return { matrices, vectors: isLora ? matrices * VECTOR_SHARE : matrices, weightDecay: isLora ? 0 : weightDecay };
}

function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
