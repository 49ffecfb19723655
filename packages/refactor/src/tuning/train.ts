// Runs the steps of a tuning, measures losses between them, and writes checkpoints.

import { existsSync } from "node:fs";
import type { ModelConfig } from "@readme-moe/model";
import { learningRateShare } from "../autodiff/adam.ts";
import { restoreArrays, withFile, writeArrays } from "../job/work-folder.ts";
import { Decoder, type Batch, GraphPool, crossEntropies, distillRows } from "./decoder.ts";
import type { DecoderWeights } from "./weights.ts";
import {
  stepsOf,
  type Evaluation,
  type ResolvedTuneOptions,
  type StepFigures,
  type TuneEstimate,
  type TuneProgress,
} from "./options.ts";
import { Optimizer, type Parameter, type Rates, type Trained } from "./parameters.ts";
import {
  sequencesOfStep,
  type RoutedSequence,
  type TextSequence,
  type TuningData,
  batchOf,
  labelsOf,
} from "./tuning-data.ts";

/** Learning rate of norms and biases relative to low-rank changes. */
const VECTOR_SHARE = 0.2;
const LAST_RATE_SHARE = 0.05;
/** Time of the optimizer's loop for a parameter and step; measured. */
const OPTIMIZER_MS = 90 / (1 << 24);
/** Time of a forward pass of student or teacher relative to a whole step; measured. */
const FORWARD_SHARE = 0.3;

export interface TuningHistory {
  readonly teacher: Evaluation;
  readonly steps: readonly StepFigures[];
  /** Evaluations of the student; the first one is before any step. */
  readonly evaluations: readonly Evaluation[];
}

/** Returns the evaluation with the least loss, the first one of equals. */
export function bestOf({ evaluations }: Pick<TuningHistory, "evaluations">): Evaluation {
  return evaluations.reduce((best, other) => (other.mean < best.mean ? other : best));
}

/** Model in training, as `train` sees it. */
export interface Trainable<Sequence> {
  readonly optimizer: Optimizer;
  /** Learns from the sequences of one step. @param step - from 0 */
  step(sequences: readonly Sequence[], rates: Rates, step: number): Promise<StepFigures>;
  /** Returns the mean cross-entropy of each sequence's tokens, in nats. */
  losses(sequences: readonly Sequence[], model: "student" | "teacher"): Promise<readonly number[]>;
}

/** Steps of a training, and what each learns from. */
export interface TrainingPlan<Sequence> {
  readonly steps: number;
  readonly stepTokens: number;
  readonly evaluations: number;
  /** Evaluations in a row without gain that end the training; 0 for never. */
  readonly patience: number;
  /** Steps between two changes of the data. @default all */
  readonly roundSteps?: number;
  /** @param step - from 0 */
  readonly rates: (step: number) => Rates;
  /** @param step - from 0 */
  readonly batch: (training: readonly Sequence[], step: number) => readonly Sequence[];
}

export function tuningPlan(options: ResolvedTuneOptions): TrainingPlan<RoutedSequence> {
  const { batchSequences, sequenceTokens, evaluations, patience } = options;
  return {
    steps: stepsOf(options),
    stepTokens: batchSequences * sequenceTokens,
    evaluations,
    patience,
    roundSteps: stepsOfRound(options),
    rates: (step) => ratesOf(step, options),
    batch: (training, step) => sequencesOfStep(training, step, options),
  };
}

interface TrainingRun<Sequence = RoutedSequence> {
  readonly files: {
    readonly checkpoint: string;
    /** Parameters with the least loss so far. */
    readonly best: string;
  };
  readonly checkpointMs: number;
  readonly signal: AbortSignal | undefined;
  readonly onProgress: ((progress: TuneProgress) => void) | undefined;
  /** Returns the data of a step and of those after it; called before each step. */
  readonly data: (step: number) => Promise<TuningData<Sequence>>;
  /** Losses of the teacher, when they are known already. */
  readonly teacher?: Evaluation | undefined;
}

/**
 * Trains to the last step, or until the loss no longer falls. The best parameters are in `files.best` afterwards.
 *
 * @returns what was measured
 */
export async function train<Sequence extends TextSequence>(
  trainer: Trainable<Sequence>,
  parameters: readonly Parameter[],
  plan: TrainingPlan<Sequence>,
  { files, checkpointMs, signal, onProgress, data, teacher: known }: TrainingRun<Sequence>,
): Promise<TuningHistory> {
  const { steps, roundSteps = steps } = plan;
  const writeBest = (): Promise<void> => writeArrays(files.best, arraysOf(parameters));
  const start = async (): Promise<TuningHistory> => {
    const { evaluation } = await data(0);
    const teacher = known ?? (await evaluate(trainer, "teacher", 0, evaluation));
    const first = await evaluate(trainer, "student", 0, evaluation);
    await writeBest();
    return { teacher, steps: [], evaluations: [first] };
  };
  let history = (await readCheckpoint(files.checkpoint, trainer.optimizer)) ?? (await start());
  const firstStep = history.steps.length;
  let [savedMs, savedStep, stepMs] = [performance.now(), -1, 0];
  const save = async (): Promise<void> => {
    if (savedStep === history.steps.length) return;
    const { optimizer } = trainer;
    const metadata = { steps: JSON.stringify(optimizer.steps), history: JSON.stringify(history) };
    await writeArrays(files.checkpoint, optimizer.tensors, metadata);
    [savedMs, savedStep] = [performance.now(), history.steps.length];
  };
  const measure = async (): Promise<Evaluation | undefined> => {
    const done = history.steps.length;
    const isDue = done > 0 && isMeasured(done, steps, plan.evaluations);
    if (!isDue || history.evaluations.at(-1)?.step === done) return undefined;
    const measured = await evaluate(trainer, "student", done, (await data(done - 1)).evaluation);
    if (measured.mean < bestOf(history).mean) await writeBest();
    history = { ...history, evaluations: [...history.evaluations, measured] };
    return measured;
  };
  try {
    await measure(); // an evaluation that the process before did not finish
    for (let step = firstStep; step < steps && !isStuck(history, plan.patience); step++) {
      // A new router is trained with the parameters between two steps: a resumed process needs them again.
      if (step % roundSteps === 0) await save();
      const { training } = await data(step);
      const startMs = performance.now();
      const figures = await trainer.step(plan.batch(training, step), plan.rates(step), step);
      stepMs += performance.now() - startMs;
      history = { ...history, steps: [...history.steps, figures] };
      const evaluation = await measure();
      if (performance.now() - savedMs >= checkpointMs) await save();
      const msPerStep = stepMs / (step + 1 - firstStep);
      onProgress?.({
        ...figures,
        step: step + 1,
        steps,
        tokensPerS: (plan.stepTokens * 1000) / msPerStep,
        etaMs: msPerStep * (steps - step - 1),
        evaluation,
      });
    }
  } catch (error) {
    // An aborted step has changed nothing, and an aborted evaluation is repeated.
    if (signal?.aborted) await save();
    throw error;
  }
  await save();
  return history;
}

/** Fills the parameters from a file of the best ones. */
export async function restoreParameters(path: string, parameters: readonly Parameter[]): Promise<void> {
  await withFile(path, (file) => restoreArrays(file, arraysOf(parameters)));
}

function arraysOf(parameters: readonly Parameter[]): readonly (readonly [string, Float32Array])[] {
  return parameters.map(({ key, values }) => [key, values]);
}

/** Fills the optimizer from a checkpoint. @returns what was measured; `undefined` without a checkpoint */
async function readCheckpoint(path: string, optimizer: Optimizer): Promise<TuningHistory | undefined> {
  if (!existsSync(path)) return undefined;
  return withFile(path, async (file): Promise<TuningHistory> => {
    optimizer.restoreSteps(JSON.parse(file.metadata.get("steps") ?? "{}"));
    await restoreArrays(file, optimizer.tensors);
    return JSON.parse(file.metadata.get("history") ?? "{}");
  });
}

/** Returns the number of steps between two trainings of the router. */
export function stepsOfRound(options: ResolvedTuneOptions): number {
  return Math.ceil(stepsOf(options) / options.rounds);
}

/**
 * Predicts the time and memory of a tuning by running one batch, from which nothing is learned.
 *
 * @param sequences - as many as run together
 * @param numEvaluated - sequences of an evaluation
 */
export async function estimateTuning(
  trainer: Trainer,
  sequences: readonly RoutedSequence[],
  options: ResolvedTuneOptions,
  { trainedParameters, numEvaluated }: { readonly trainedParameters: number; readonly numEvaluated: number },
): Promise<TuneEstimate> {
  const microMs = await secondRunMs(() => trainer.gradients(sequences));
  const { rss } = process.memoryUsage();
  trainer.optimizer.clear();
  const steps = stepsOf(options);
  const { batchSequences, microSequences, sequenceTokens, evaluations } = options;
  const stepMs = microMs * (batchSequences / microSequences) + OPTIMIZER_MS * trainedParameters;
  const evaluationMs = FORWARD_SHARE * microMs * Math.ceil(numEvaluated / microSequences);
  return {
    trainedParameters,
    steps,
    tokensPerS: (microSequences * sequenceTokens * 1000) / microMs,
    ms: steps * stepMs + (evaluations + 2) * evaluationMs,
    // Two running means of each parameter, and its gradient, part of which is allocated already.
    memoryBytes: rss + 3 * 4 * trainedParameters,
  };
}

/** Runs twice, since the first run also builds graphs and allocates memory. @returns the time of the second run */
export async function secondRunMs(run: () => Promise<unknown>): Promise<number> {
  await run();
  const start = performance.now();
  await run();
  return performance.now() - start;
}

async function evaluate<Sequence extends TextSequence>(
  trainer: Trainable<Sequence>,
  model: "student" | "teacher",
  step: number,
  sequences: readonly Sequence[],
): Promise<Evaluation> {
  return evaluationOf(step, sequences, await trainer.losses(sequences, model));
}

/** Averages losses of sequences by kind of text. */
export function evaluationOf(
  step: number,
  sequences: readonly Pick<TextSequence, "domain">[],
  all: readonly number[],
): Evaluation {
  const losses = Array.from({ length: Math.max(...sequences.map(({ domain }) => domain)) + 1 }, (_, domain) =>
    mean(all.filter((__, index) => sequences[index]?.domain === domain)),
  );
  return { step, losses, mean: mean(losses) };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Returns whether the last `patience` evaluations were all no better than an earlier one. */
function isStuck(history: Pick<TuningHistory, "evaluations">, patience: number): boolean {
  return patience > 0 && history.evaluations.length - 1 - history.evaluations.indexOf(bestOf(history)) >= patience;
}

/** Returns whether losses are measured after a step. @param step - counts from 1 */
function isMeasured(step: number, steps: number, evaluations: number): boolean {
  return Math.floor((step * evaluations) / steps) > Math.floor(((step - 1) * evaluations) / steps);
}

function ratesOf(step: number, options: ResolvedTuneOptions): Rates {
  const { method, learningRate, weightDecay, warmUpSteps } = options;
  const matrices = learningRate * learningRateShare(step, stepsOf(options), warmUpSteps, LAST_RATE_SHARE);
  return method === "lora"
    ? { matrices, vectors: matrices * VECTOR_SHARE, weightDecay: 0 }
    : { matrices, vectors: matrices, weightDecay };
}

// A model in training beside its teacher.

const MAX_GRADIENT_NORM = 1;

interface TrainerSettings {
  readonly sequenceTokens: number;
  readonly microSequences: number;
  readonly labelShare: number;
  readonly threads: number | undefined;
  readonly signal: AbortSignal | undefined;
  /** Whether the teacher's states are kept, because sequences are learned from again. @default false */
  readonly keepsTaught?: boolean | undefined;
}

export class Trainer {
  readonly #student: Decoder;
  readonly #teacher: Decoder;
  readonly #pool: GraphPool;
  readonly #settings: TrainerSettings;
  readonly optimizer: Optimizer;
  readonly #weights: { readonly student: DecoderWeights; readonly teacher: DecoderWeights };
  /** The teacher's states by a sequence's tokens. */
  readonly #taught = new WeakMap<Int32Array, Float32Array>();

  constructor(
    config: ModelConfig,
    weights: { readonly student: DecoderWeights; readonly teacher: DecoderWeights },
    { parameters, composed }: Trained,
    settings: TrainerSettings,
  ) {
    this.#pool = new GraphPool(config, settings.sequenceTokens, settings.threads);
    this.#student = new Decoder(
      weights.student,
      this.#pool,
      new Set([...parameters, ...composed].map(({ key }) => key)),
    );
    this.#teacher = new Decoder(weights.teacher, this.#pool);
    this.#settings = settings;
    this.#weights = weights;
    this.optimizer = new Optimizer(parameters, composed);
  }

  /** Learns from sequences whose number is a multiple of `microSequences`. */
  async step(sequences: readonly RoutedSequence[], rates: Rates): Promise<StepFigures> {
    const figures = await this.gradients(sequences);
    return { ...figures, gradientNorm: this.optimizer.step(rates, MAX_GRADIENT_NORM) };
  }

  /** Adds up the gradients of a step in the optimizer. */
  async gradients(sequences: readonly RoutedSequence[]): Promise<Omit<StepFigures, "gradientNorm">> {
    const { microSequences, sequenceTokens } = this.#settings;
    const weight = 1 / (sequences.length * (sequenceTokens - 1));
    let [divergence, crossEntropy] = [0, 0];
    this.optimizer.clear();
    for (let from = 0; from < sequences.length; from += microSequences) {
      const micro = await this.#addGradients(sequences.slice(from, from + microSequences), weight);
      divergence += micro.divergence;
      crossEntropy += micro.crossEntropy;
    }
    return { divergence, crossEntropy };
  }

  /** Returns the mean cross-entropy of each sequence's tokens, in nats. */
  async losses(sequences: readonly RoutedSequence[], model: "student" | "teacher"): Promise<readonly number[]> {
    const { microSequences, sequenceTokens, signal } = this.#settings;
    const decoder = model === "student" ? this.#student : this.#teacher;
    const losses: number[] = [];
    for (let from = 0; from < sequences.length; from += microSequences) {
      signal?.throwIfAborted();
      const some = sequences.slice(from, from + microSequences);
      const batch = batchOf(some, microSequences);
      const { hidden } = await decoder.forward(model === "student" ? batch : withExpert(batch, 0), false);
      const { ids } = labelsOf(batch, sequenceTokens, 1);
      const rows = await crossEntropies(this.#pool, hidden, decoder.weights, ids);
      some.forEach((_, i) => {
        const predicted = rows.subarray(i * sequenceTokens, (i + 1) * sequenceTokens - 1);
        losses.push(predicted.reduce((sum, loss) => sum + loss, 0) / predicted.length);
      });
    }
    return losses;
  }

  /** Returns the divergence of each expert's next tokens from the teacher's, `[tokens, numExperts]` per sequence. */
  async divergences(
    sequences: readonly Pick<RoutedSequence, "tokenIds">[],
    numExperts: number,
  ): Promise<readonly Float32Array[]> {
    const { microSequences, sequenceTokens, labelShare, signal } = this.#settings;
    const costs = sequences.map(({ tokenIds }) => new Float32Array(tokenIds.length * numExperts));
    for (let from = 0; from < sequences.length; from += microSequences) {
      const some = sequences.slice(from, from + microSequences);
      const routed = some.map(({ tokenIds }) => ({ tokenIds, experts: new Uint16Array(tokenIds.length), domain: 0 }));
      const batch = batchOf(routed, microSequences);
      const labels = { ...labelsOf(batch, sequenceTokens, 1), labelShare };
      const { hidden: teacher } = await this.#teacher.forward(batch, false);
      for (let expert = 0; expert < numExperts; expert++) {
        signal?.throwIfAborted();
        const { hidden: student } = await this.#student.forward(withExpert(batch, expert), false);
        const { divergences } = await distillRows(this.#pool, { student, teacher }, this.#weights, labels);
        costs.slice(from, from + some.length).forEach((own, place) => {
          const rows = divergences.subarray(place * sequenceTokens, (place + 1) * sequenceTokens);
          rows.forEach((divergence, row) => (own[row * numExperts + expert] = divergence));
        });
      }
    }
    return costs;
  }

  async dispose(): Promise<void> {
    await this.#pool.dispose();
  }

  /** Returns the teacher's states of a batch of sequences. */
  async #teach(sequences: readonly RoutedSequence[], batch: Batch): Promise<Float32Array> {
    const known = sequences.flatMap(({ tokenIds }) => this.#taught.get(tokenIds) ?? []);
    const width = this.#weights.teacher.finalNorm.values.length * this.#settings.sequenceTokens;
    if (known.length === sequences.length) {
      const states = new Float32Array(known.length * width);
      known.forEach((own, place) => states.set(own, place * width));
      return states;
    }
    const { hidden } = await this.#teacher.forward(withExpert(batch, 0), false);
    if (this.#settings.keepsTaught === true) {
      sequences.forEach(({ tokenIds }, place) => {
        this.#taught.set(tokenIds, hidden.slice(place * width, (place + 1) * width));
      });
    }
    return hidden;
  }

  /** Adds the gradients of sequences that run together. @param weight - of each token */
  async #addGradients(
    sequences: readonly RoutedSequence[],
    weight: number,
  ): Promise<Omit<StepFigures, "gradientNorm">> {
    const { sequenceTokens, labelShare, signal } = this.#settings;
    signal?.throwIfAborted();
    const batch = batchOf(sequences);
    const teacher = await this.#teach(sequences, batch);
    signal?.throwIfAborted();
    const pass = await this.#student.forward(batch, true);
    signal?.throwIfAborted();
    const labels = { ...labelsOf(batch, sequenceTokens, weight), labelShare };
    const rows = await distillRows(this.#pool, { student: pass.hidden, teacher }, this.#weights, labels);
    this.optimizer.add(this.#weights.student.finalNorm.key, rows.normGradient);
    signal?.throwIfAborted();
    await this.#student.backward(pass, rows.gradient, (key, gradient) => this.optimizer.add(key, gradient));
    return rows;
  }
}

function withExpert(batch: Batch, expert: number): Batch {
  return { ...batch, experts: new Uint16Array(batch.experts.length).fill(expert) };
}
