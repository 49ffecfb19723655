// Changes of low rank in training: one for all text, or one that all kinds of text share beside one of each kind.

import { setImmediate as nextTurn } from "node:timers/promises";
import type { Model } from "@readme-moe/model";
import { learningRateShare } from "../autodiff/adam.ts";
import { addInto } from "../experts/moments.ts";
import { shuffled } from "../random.ts";
import { type DecoderWeights, type Weight, WeightReader } from "../tuning/weights.ts";
import type { StepFigures, TuneEstimate } from "../tuning/options.ts";
import { ComposedWeight, Optimizer, type Parameter, type Rates } from "../tuning/parameters.ts";
import { secondRunMs, type Trainable, type TrainingPlan } from "../tuning/train.ts";
import { batchOf, labelsOf, type TextSequence } from "../tuning/tuning-data.ts";
import {
  copyAdapter,
  stackAdapters,
  type Adapter,
  AdaptedModel,
  lossesOfTokens,
  meanLoss,
  newAdapter,
} from "./adapted-model.ts";
import { changedProducts } from "./model-graph.ts";
import type { ResolvedLoraOptions } from "./options.ts";

const MAX_GRADIENT_NORM = 1;

/** Changes that are trained together. */
interface Parts {
  readonly shared: Adapter;
  /** Further ranks of each kind of text; none when all text has the same change. */
  readonly own: readonly Adapter[];
}

/** Options of an `AdapterTrainer`. */
interface AdapterTrainerOptions {
  readonly signal?: AbortSignal | undefined;
  /** Parts of a step's sequences whose gradients are summed on their own, then in their order. @default 1 */
  readonly shards?: number | undefined;
  /** Computes the gradients of a step's shards. @default here */
  readonly compute?: ComputeStep | undefined;
}

export class AdapterTrainer implements Trainable<TextSequence> {
  readonly optimizer: Optimizer;
  readonly parameters: readonly Parameter[];
  /** Whole change of each kind of text; one of all text. */
  readonly #wholes: readonly Adapter[];
  readonly #model: AdaptedModel;
  readonly #options: AdapterTrainerOptions;

  constructor(model: AdaptedModel, parts: Parts, options: AdapterTrainerOptions = {}) {
    this.#model = model;
    this.#options = options;
    const own = parts.own.map((adapter, kind) =>
      adapter.map((factor): Weight => ({ ...factor, key: ownKey(kind, factor.key) })),
    );
    this.#wholes = own.length > 0 ? own.map((further) => stackAdapters([parts.shared, further])) : [parts.shared];
    this.parameters = [...parts.shared, ...own.flat()].map((factor) => ({ ...factor, isVector: false }));
    this.optimizer = new Optimizer(this.parameters);
  }

  /** Goes on from the parameters and means of another training of the same parts. */
  continueFrom({ optimizer }: AdapterTrainer): void {
    this.optimizer.restoreSteps(optimizer.steps);
    const own = this.optimizer.tensors;
    for (const [name, values] of optimizer.tensors) own.get(name)?.set(values);
  }

  /** Takes the values of parameters from another machine. @throws {TypeError} unless all that are given are known */
  setValues(values: ReadonlyMap<string, Float32Array>): void {
    const known = new Map(this.parameters.map((parameter) => [parameter.key, parameter.values]));
    for (const [key, given] of values) {
      const own = known.get(key);
      if (own?.length !== given.length) throw new TypeError("Expected values of the training's parameters, got others");
      own.set(given);
    }
  }

  /** Returns the whole change of a kind of text, as it is now. */
  expertOf(kind: number): Adapter {
    return copyAdapter(this.#wholeOf(kind));
  }

  async step(sequences: readonly TextSequence[], rates: Rates, step?: number): Promise<StepFigures> {
    const crossEntropy = await this.gradients(sequences, step);
    // The divergence from a teacher is part of the gradient only.
    return { divergence: 0, crossEntropy, gradientNorm: this.optimizer.step(rates, MAX_GRADIENT_NORM) };
  }

  /** Adds up the gradients of a step in the optimizer, shard by shard. @returns the mean cross-entropy */
  async gradients(sequences: readonly TextSequence[], step = 0): Promise<number> {
    const { shards = 1, compute = computeHere } = this.#options;
    const cut = cutShards(sequences, shards);
    const here = (shard: number): Promise<ShardGradients> => this.shardGradients(cut[shard] ?? [], sequences.length);
    const computed = await compute({ step, values: () => this.#valuesOf(sequences), here });
    let sum = 0;
    this.optimizer.clear();
    for (const shard of cut.keys()) {
      const { crossEntropy, gradients } = await computed.read(shard);
      sum += crossEntropy;
      for (const [key, gradient] of gradients) this.optimizer.add(key, gradient);
    }
    await computed.end();
    return sum;
  }

  /**
   * Computes the gradients of some sequences of a step.
   *
   * @param stepSequences - number of all sequences of the step
   */
  async shardGradients(sequences: readonly TextSequence[], stepSequences: number): Promise<ShardGradients> {
    const { sequences: together, sequenceTokens } = this.#model.settings;
    const weight = 1 / (stepSequences * (sequenceTokens - 1));
    const gradients = new Map<string, Float32Array>();
    const sumOf = ({ key, values }: Weight): Float32Array => {
      const sum = gradients.get(key) ?? new Float32Array(values.length);
      gradients.set(key, sum);
      return sum;
    };
    let crossEntropy = 0;
    for (const [kind, own] of this.#byExpert(sequences)) {
      for (let from = 0; from < own.length; from += together) {
        this.#options.signal?.throwIfAborted();
        const some = own.slice(from, from + together);
        const batch = batchOf(some.map(unrouted), together);
        const labels = labelsOf(batch, sequenceTokens, weight);
        labels.weights.fill(0, some.length * sequenceTokens);
        const whole = this.#wholeOf(kind);
        const { losses, gradients: slopes } = await this.#model.gradients(whole, batch.tokenIds, labels);
        for (const factor of whole) {
          const slope = slopes.get(factor.key)!;
          if (factor instanceof ComposedWeight) factor.addGradient(slope, sumOf);
          else addInto(sumOf(factor), slope);
        }
        losses.forEach((loss, row) => (crossEntropy += loss * labels.weights[row]!));
        await nextTurn();
      }
    }
    return { crossEntropy, gradients };
  }

  async losses(sequences: readonly TextSequence[], model: "student" | "teacher"): Promise<readonly number[]> {
    const known = new Map<TextSequence, number>();
    for (const [kind, own] of this.#byExpert(sequences)) {
      const adapters = model === "student" ? [this.expertOf(kind)] : [];
      const rows = await lossesOfTokens(this.#model, own, { adapters, signal: this.#options.signal });
      own.forEach((sequence, index) => known.set(sequence, meanLoss(rows[index]!)));
    }
    return sequences.map((sequence) => known.get(sequence)!);
  }

  #wholeOf(kind: number): Adapter {
    return this.#wholes[Math.min(kind, this.#wholes.length - 1)]!;
  }

  /** Groups sequences that have the same change. */
  #byExpert(sequences: readonly TextSequence[]): ReadonlyMap<number, readonly TextSequence[]> {
    const groups = new Map<number, TextSequence[]>();
    for (const sequence of sequences) {
      const kind = this.#wholes.length > 1 ? sequence.domain : 0;
      const group = groups.get(kind) ?? [];
      groups.set(kind, group);
      group.push(sequence);
    }
    return groups;
  }

  /** Lists what the gradients of some sequences depend on. */
  #valuesOf(sequences: readonly TextSequence[]): ReadonlyMap<string, Float32Array> {
    const kinds = [...this.#byExpert(sequences).keys()];
    const isUsed = (key: string): boolean => !isOwnKey(key) || kinds.some((kind) => key.startsWith(ownKey(kind, "")));
    return new Map(this.parameters.filter(({ key }) => isUsed(key)).map(({ key, values }) => [key, values]));
  }
}

const OWN = "kind ";

function ownKey(kind: number, key: string): string {
  return `${OWN}${kind}/${key}`;
}

function isOwnKey(key: string): boolean {
  return key.startsWith(OWN);
}

function unrouted(sequence: TextSequence) {
  return { ...sequence, experts: new Uint16Array(sequence.tokenIds.length) };
}

// Which text each part of a training learns from, and at which rate. The rate depends on the share of the text that was
// learned from: it is constant at first and falls afterwards, also of experts that go on from a common one.

const LAST_RATE_SHARE = 0.05;

/**
 * Text of a training. `"first"` is the first part of all kinds, `"rest"` the rest, and `"all"` both, with steps of one
 * kind each. The text of one kind is learned from as a whole, or its rest alone.
 */
export type Course = "first" | "rest" | "all" | { readonly kind: number; readonly isRest: boolean };

export interface Schedule {
  /** Steps on the first part of all kinds of text; a multiple of `numKinds`. */
  readonly firstSteps: number;
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

// Shards of a step: parts of its sequences whose gradients are summed on their own, here or on other machines.

export interface ShardGradients {
  /** Sum of the weighted cross-entropies of the shard's tokens. */
  readonly crossEntropy: number;
  /** Gradients by the keys of parameters. */
  readonly gradients: ReadonlyMap<string, Float32Array>;
}

/** One step, whose gradients are wanted. */
export interface WantedStep {
  /** Number of the step, from 0. */
  readonly step: number;
  /** Lists the parameters that the gradients depend on, by key. */
  readonly values: () => ReadonlyMap<string, Float32Array>;
  /** Computes a shard on this machine. */
  readonly here: (shard: number) => Promise<ShardGradients>;
}

export interface ComputedStep {
  /** Called once for each shard, in their order. */
  readonly read: (shard: number) => Promise<ShardGradients>;
  /** Called when all shards are read. */
  readonly end: () => Promise<void>;
}

/** Computes the gradients of a step, here or on other machines. */
export type ComputeStep = (wanted: WantedStep) => Promise<ComputedStep>;

/** Computes each shard when it is read. */
export async function computeHere({ here }: WantedStep): Promise<ComputedStep> {
  return { read: here, end: () => Promise.resolve() };
}

/** Cuts sequences into `count` runs of equal length; `count` divides their number. */
export function cutShards<Sequence>(sequences: readonly Sequence[], count: number): readonly (readonly Sequence[])[] {
  const size = sequences.length / count;
  return Array.from({ length: count }, (_, shard) => sequences.slice(shard * size, (shard + 1) * size));
}

// Predicts the time and memory of a training of experts by running a few sequences, from which nothing is learned.

/** Time of a forward pass relative to one with gradients; measured. */
const FORWARD_SHARE = 0.45;

interface LoraAmount {
  readonly schedule: Schedule;
  readonly options: ResolvedLoraOptions;
  readonly trainedParameters: number;
  readonly numEvaluated: number;
}

export async function estimateLoras(
  model: AdaptedModel,
  adapter: Adapter,
  training: readonly TextSequence[],
  { schedule, options, trainedParameters, numEvaluated }: LoraAmount,
): Promise<TuneEstimate> {
  const { sequences, sequenceTokens } = model.settings;
  const tokenIds = new Int32Array(sequences * sequenceTokens);
  for (let place = 0; place < sequences; place++) {
    tokenIds.set(training[place % training.length]!.tokenIds, place * sequenceTokens);
  }
  const labels = labelsOf({ tokenIds }, sequenceTokens, 1);
  const msPerToken = (await secondRunMs(() => model.gradients(adapter, tokenIds, labels))) / tokenIds.length;
  const { firstSteps, numKinds } = schedule;
  const stepTokens = options.batchSequences * sequenceTokens;
  const rivalSteps = totalSteps(schedule) - (options.sharing === "start" ? firstSteps : 0);
  const steps = totalSteps(schedule) + (options.rival ? rivalSteps : 0);
  const routerTokens = Math.min(training.length * sequenceTokens, options.routerTokens * numKinds);
  const rounds = (options.evaluations + 1) * (firstSteps > 0 ? 2 : 1) + (options.rival ? 3 : 2);
  const forwardTokens = routerTokens * (numKinds + 1) + (numEvaluated / 2) * sequenceTokens * rounds;
  return {
    trainedParameters: trainedParameters * numKinds,
    steps,
    tokensPerS: 1000 / msPerToken,
    ms: msPerToken * (steps * stepTokens + FORWARD_SHARE * forwardTokens),
    // Each expert, and two running means and the gradient of the one that is trained.
    memoryBytes: process.memoryUsage().rss + 4 * trainedParameters * (numKinds + 3),
  };
}

// A dense model and the changes of it that are trained: the same on every machine that has the model and the options.

/** Distance of the seeds of changes that are trained together. */
const SEED_STEP = 7919;

export interface TrainingModel {
  readonly adapted: AdaptedModel;
  readonly weights: DecoderWeights;
  /** Makes a change of a rank that changes nothing yet, the same for the same place. */
  readonly newChange: (rank: number, place: number) => Adapter;
  readonly dispose: () => Promise<void>;
}

/** Reads a model for training. */
export async function openTrainingModel(
  model: Pick<Model, "config" | "weights">,
  { microSequences, sequenceTokens, alpha, rank, teacherShare, attention, seed, frozen }: ResolvedLoraOptions,
  threads: number | undefined,
): Promise<TrainingModel> {
  const reader = new WeightReader(frozen, threads);
  const weights = await reader.read(model, true);
  const products = changedProducts(attention);
  const settings = { sequences: microSequences, sequenceTokens, scale: alpha / rank, teacherShare, threads };
  const adapted = new AdaptedModel(model.config, weights, settings);
  return {
    adapted,
    weights,
    newChange: (ranks, place) => newAdapter(weights, { products, rank: ranks, seed: (seed + place * SEED_STEP) >>> 0 }),
    dispose: async () => {
      await adapted.dispose();
      reader.close();
    },
  };
}

/** Makes the changes that a course trains; those of several kinds are of other random numbers. */
export function changesOf(
  course: Course,
  { newChange }: Pick<TrainingModel, "newChange">,
  { rank, sharedRank, numKinds }: Pick<ResolvedLoraOptions, "rank" | "sharedRank"> & { readonly numKinds: number },
): Parts {
  if (course !== "all") return { shared: copyAdapter(newChange(rank, 0)), own: [] };
  return {
    shared: newChange(sharedRank, 0),
    own: Array.from({ length: numKinds }, (_, kind) => newChange(rank - sharedRank, kind + 1)),
  };
}
