// Changes of low rank in training: one for all text, or one that all kinds of text share beside one of each kind.

import { Optimizer, type Parameter, type Rates } from "../tuning/parameters.ts";
import type { StepFigures } from "../tuning/options.ts";
import type { Trainable } from "../tuning/train.ts";
import { batchOf, labelsOf, type TextSequence } from "../tuning/tuning-data.ts";
import { copyAdapter, rankOf, stackAdapters, unstack, type Adapter } from "./adapter.ts";
import type { AdaptedModel, RowLabels } from "./adapted-model.ts";
import { breathe, lossesOfTokens, meanLoss } from "./token-losses.ts";

const MAX_GRADIENT_NORM = 1;

/** Changes that are trained together. */
export interface Parts {
  readonly shared: Adapter;
  /** Further ranks of each kind of text; none when all text has the same change. */
  readonly own: readonly Adapter[];
}

export class AdapterTrainer implements Trainable<TextSequence> {
  readonly optimizer: Optimizer;
  readonly parameters: readonly Parameter[];
  readonly #parts: Parts;
  readonly #model: AdaptedModel;
  readonly #signal: AbortSignal | undefined;

  constructor(model: AdaptedModel, parts: Parts, signal?: AbortSignal) {
    this.#model = model;
    this.#signal = signal;
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

  /** Returns the whole change of a kind of text, as it is now. */
  expertOf(kind: number): Adapter {
    const { shared, own } = this.#parts;
    const further = own[kind];
    return further ? stackAdapters([shared, further]) : copyAdapter(shared);
  }

  async step(sequences: readonly TextSequence[], rates: Rates): Promise<StepFigures> {
    const crossEntropy = await this.gradients(sequences);
    // The divergence from a teacher is part of the gradient only.
    return { divergence: 0, crossEntropy, gradientNorm: this.optimizer.step(rates, MAX_GRADIENT_NORM) };
  }

  /** Adds up the gradients of a step in the optimizer. @returns the mean cross-entropy */
  async gradients(sequences: readonly TextSequence[]): Promise<number> {
    const { sequences: together, sequenceTokens } = this.#model.settings;
    const weight = 1 / (sequences.length * (sequenceTokens - 1));
    let sum = 0;
    this.optimizer.clear();
    for (const [kind, own] of this.#byExpert(sequences)) {
      for (let from = 0; from < own.length; from += together) {
        this.#signal?.throwIfAborted();
        const some = own.slice(from, from + together);
        const batch = batchOf(some.map(unrouted), together);
        const labels = labelsOf(batch, sequenceTokens, weight);
        labels.weights.fill(0, some.length * sequenceTokens);
        const losses = await this.#addGradients(kind, batch.tokenIds, labels);
        losses.forEach((loss, row) => (sum += loss * labels.weights[row]!));
        await breathe();
      }
    }
    return sum;
  }

  async losses(sequences: readonly TextSequence[], model: "student" | "teacher"): Promise<readonly number[]> {
    const known = new Map<TextSequence, number>();
    for (const [kind, own] of this.#byExpert(sequences)) {
      const adapters = model === "student" ? [this.expertOf(kind)] : [];
      const rows = await lossesOfTokens(this.#model, own, { adapters, signal: this.#signal });
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

  async #addGradients(kind: number, tokenIds: Int32Array, labels: RowLabels): Promise<Float32Array> {
    const { shared, own } = this.#parts;
    const further = own[kind];
    const whole = further ? stackAdapters([shared, further]) : shared;
    const { losses, gradients } = await this.#model.gradients(whole, tokenIds, labels);
    for (const factor of whole) {
      const gradient = gradients.get(factor.key)!;
      if (!further) this.optimizer.add(factor.key, gradient);
      else {
        const [before, rank] = [rankOf(shared), rankOf(further)];
        this.optimizer.add(factor.key, unstack(factor, gradient, { before: 0, rank: before }));
        this.optimizer.add(ownKey(kind, factor.key), unstack(factor, gradient, { before, rank }));
      }
    }
    return losses;
  }
}

function ownKey(kind: number, key: string): string {
  return `kind ${kind}/${key}`;
}

function unrouted(sequence: TextSequence) {
  return { ...sequence, experts: new Uint16Array(sequence.tokenIds.length) };
}
