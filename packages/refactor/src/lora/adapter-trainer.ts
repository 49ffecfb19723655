// Changes of low rank in training: one for all text, or one that all kinds of text share beside one of each kind.

import { Optimizer, type Parameter, type Rates } from "../tuning/parameters.ts";
import type { StepFigures } from "../tuning/options.ts";
import type { Trainable } from "../tuning/train.ts";
import { batchOf, labelsOf, type TextSequence } from "../tuning/tuning-data.ts";
import { copyAdapter, rankOf, stackAdapters, unstack, type Adapter } from "./adapter.ts";
import type { AdaptedModel, RowLabels } from "./adapted-model.ts";
import { computeHere, cutShards, gradientSum, type ComputeStep, type ShardGradients } from "./step-shards.ts";
import { breathe, lossesOfTokens, meanLoss } from "./token-losses.ts";

const MAX_GRADIENT_NORM = 1;

/** Changes that are trained together. */
export interface Parts {
  readonly shared: Adapter;
  /** Further ranks of each kind of text; none when all text has the same change. */
  readonly own: readonly Adapter[];
}

/** Options of an `AdapterTrainer`. */
export interface AdapterTrainerOptions {
  readonly signal?: AbortSignal | undefined;
  /** Parts of a step's sequences whose gradients are summed on their own, then in their order. @default 1 */
  readonly shards?: number | undefined;
  /** Computes the gradients of a step's shards. @default here */
  readonly compute?: ComputeStep | undefined;
}

export class AdapterTrainer implements Trainable<TextSequence> {
  readonly optimizer: Optimizer;
  readonly parameters: readonly Parameter[];
  readonly #parts: Parts;
  readonly #model: AdaptedModel;
  readonly #options: AdapterTrainerOptions;

  constructor(model: AdaptedModel, parts: Parts, options: AdapterTrainerOptions = {}) {
    this.#model = model;
    this.#options = options;
    this.#parts = parts;
    this.parameters = [
      ...parts.shared,
      ...parts.own.flatMap((adapter, kind) => adapter.map((factor) => ({ ...factor, key: ownKey(kind, factor.key) }))),
    ];
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
    const { shared, own } = this.#parts;
    const further = own[kind];
    return further ? stackAdapters([shared, further]) : copyAdapter(shared);
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
    const gradients = gradientSum();
    let crossEntropy = 0;
    for (const [kind, own] of this.#byExpert(sequences)) {
      for (let from = 0; from < own.length; from += together) {
        this.#options.signal?.throwIfAborted();
        const some = own.slice(from, from + together);
        const batch = batchOf(some.map(unrouted), together);
        const labels = labelsOf(batch, sequenceTokens, weight);
        labels.weights.fill(0, some.length * sequenceTokens);
        const losses = await this.#addGradients(kind, batch.tokenIds, labels, gradients.add);
        losses.forEach((loss, row) => (crossEntropy += loss * labels.weights[row]!));
        await breathe();
      }
    }
    return { crossEntropy, gradients: gradients.sums };
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

  /** Groups sequences that have the same change. */
  #byExpert(sequences: readonly TextSequence[]): ReadonlyMap<number, readonly TextSequence[]> {
    const groups = new Map<number, TextSequence[]>();
    for (const sequence of sequences) {
      const kind = this.#parts.own.length > 0 ? sequence.domain : 0;
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

  async #addGradients(
    kind: number,
    tokenIds: Int32Array,
    labels: RowLabels,
    add: (key: string, gradient: Float32Array) => void,
  ): Promise<Float32Array> {
    const { shared, own } = this.#parts;
    const further = own[kind];
    const whole = further ? stackAdapters([shared, further]) : shared;
    const { losses, gradients } = await this.#model.gradients(whole, tokenIds, labels);
    for (const factor of whole) {
      const gradient = gradients.get(factor.key)!;
      if (!further) add(factor.key, gradient);
      else {
        const [before, rank] = [rankOf(shared), rankOf(further)];
        add(factor.key, unstack(factor, gradient, { before: 0, rank: before }));
        add(ownKey(kind, factor.key), unstack(factor, gradient, { before, rank }));
      }
    }
    return losses;
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
