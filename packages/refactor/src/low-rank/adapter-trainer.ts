// One expert of low rank in training, and losses of sequences with given experts.

import { Optimizer, type Rates } from "../tuning/parameters.ts";
import type { StepFigures } from "../tuning/options.ts";
import type { Trainable } from "../tuning/train.ts";
import { batchOf, labelsOf, type TextSequence } from "../tuning/tuning-data.ts";
import type { Adapter } from "./adapter.ts";
import type { AdaptedModel } from "./adapted-model.ts";

const MAX_GRADIENT_NORM = 1;

export class AdapterTrainer implements Trainable<TextSequence> {
  readonly optimizer: Optimizer;
  readonly adapter: Adapter;
  readonly #model: AdaptedModel;
  readonly #signal: AbortSignal | undefined;

  constructor(model: AdaptedModel, adapter: Adapter, signal?: AbortSignal) {
    this.#model = model;
    this.#signal = signal;
    this.adapter = adapter;
    this.optimizer = new Optimizer(adapter);
  }

  /** Goes on from the parameters and means of another training. */
  continueFrom({ optimizer }: AdapterTrainer): void {
    this.optimizer.restoreSteps(optimizer.steps);
    const own = this.optimizer.tensors;
    for (const [name, values] of optimizer.tensors) own.get(name)?.set(values);
  }

  /** Learns from sequences whose number is a multiple of those that run together. */
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
    for (let from = 0; from < sequences.length; from += together) {
      this.#signal?.throwIfAborted();
      const batch = unrouted(sequences.slice(from, from + together));
      const labels = labelsOf(batch, sequenceTokens, weight);
      const { losses, gradients } = await this.#model.gradients(this.adapter, batch.tokenIds, labels);
      for (const [key, gradient] of gradients) this.optimizer.add(key, gradient);
      losses.forEach((loss, row) => (sum += loss * labels.weights[row]!));
      await breathe();
    }
    return sum;
  }

  async losses(sequences: readonly TextSequence[], model: "student" | "teacher"): Promise<readonly number[]> {
    const rows = await lossesOfTokens(this.#model, sequences, {
      adapters: model === "student" ? [this.adapter] : [],
      signal: this.#signal,
    });
    return rows.map(meanLoss);
  }
}

/** Experts of a run over sequences. */
export interface LossOptions {
  /** None for the dense model, one for all tokens, or several with a choice for each token. */
  readonly adapters: readonly Adapter[];
  /** Chooses the expert of each token of a sequence, 0 for none; for several adapters. */
  readonly route?: ((sequence: TextSequence) => Uint16Array) | undefined;
  readonly signal: AbortSignal | undefined;
}

/** Returns the loss of each token's next one for each sequence; the last token's is of no token, and 0. */
export async function lossesOfTokens(
  model: AdaptedModel,
  sequences: readonly TextSequence[],
  { adapters, route, signal }: LossOptions,
): Promise<readonly Float32Array[]> {
  const { sequences: together, sequenceTokens } = model.settings;
  const result: Float32Array[] = [];
  for (let from = 0; from < sequences.length; from += together) {
    signal?.throwIfAborted();
    const some = sequences.slice(from, from + together);
    const routed = some.map((sequence) => ({ ...sequence, experts: route?.(sequence) ?? noExperts(sequence) }));
    const { tokenIds, experts } = batchOf(routed, together);
    const { ids } = labelsOf({ tokenIds, experts }, sequenceTokens, 1);
    const rows = route
      ? await model.routedLosses(tokenIds, ids, { adapters, routes: experts })
      : await model.losses(tokenIds, ids, adapters[0]);
    some.forEach((_, place) => {
      const own = rows.slice(place * sequenceTokens, (place + 1) * sequenceTokens);
      own[sequenceTokens - 1] = 0;
      result.push(own);
    });
    await breathe();
  }
  return result;
}

/** Averages the losses of a sequence's tokens except the last one. */
export function meanLoss(rows: Float32Array): number {
  return rows.reduce((sum, loss) => sum + loss, 0) / (rows.length - 1);
}

function unrouted(sequences: readonly TextSequence[]) {
  return batchOf(sequences.map((sequence) => ({ ...sequence, experts: noExperts(sequence) })));
}

function noExperts({ tokenIds }: TextSequence): Uint16Array {
  return new Uint16Array(tokenIds.length);
}

/** Makes a break: runs block their thread, and neither signals nor timers would be handled. */
function breathe(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
