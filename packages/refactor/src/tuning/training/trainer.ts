// A model in training beside its teacher: what one step does.

import { Decoder } from "../decoder/decoder.ts";
import type { DecoderWeights } from "../decoder/decoder-weights.ts";
import { GraphPool } from "../decoder/graph-pool.ts";
import { crossEntropies, distillRows } from "../decoder/head.ts";
import type { ModelConfig } from "@readme-moe/model";
import { Optimizer, type Rates } from "./optimizer.ts";
import { batchOf, labelsOf, type RoutedSequence } from "./sequences.ts";
import type { Parameter } from "./trainable.ts";

const MAX_GRADIENT_NORM = 1;

export interface TrainerSettings {
  readonly sequenceTokens: number;
  readonly microSequences: number;
  readonly labelShare: number;
  readonly threads: number | undefined;
  readonly signal: AbortSignal | undefined;
}

/** Means over the tokens of a step, in nats. */
export interface StepFigures {
  /** Of the student from its teacher. */
  readonly divergence: number;
  readonly crossEntropy: number;
  /** Length of the gradient before clipping. */
  readonly gradientNorm: number;
}

export class Trainer {
  readonly #student: Decoder;
  readonly #teacher: Decoder;
  readonly #pool: GraphPool;
  readonly #settings: TrainerSettings;
  readonly optimizer: Optimizer;
  readonly #finalNorm: string;

  constructor(
    config: ModelConfig,
    weights: { readonly student: DecoderWeights; readonly teacher: DecoderWeights },
    parameters: readonly Parameter[],
    settings: TrainerSettings,
  ) {
    this.#pool = new GraphPool(config, settings.sequenceTokens, settings.threads);
    this.#student = new Decoder(weights.student, this.#pool, new Set(parameters.map(({ key }) => key)));
    this.#teacher = new Decoder(weights.teacher, this.#pool);
    this.#settings = settings;
    this.#finalNorm = weights.student.finalNorm.key;
    this.optimizer = new Optimizer(parameters);
  }

  /** Learns from sequences whose number is a multiple of `microSequences`. */
  async step(sequences: readonly RoutedSequence[], rates: Rates): Promise<StepFigures> {
    const figures = await this.gradients(sequences);
    return { ...figures, gradientNorm: this.optimizer.step(rates, MAX_GRADIENT_NORM) };
  }

  /** Adds up a step's gradients in the optimizer. */
  async gradients(sequences: readonly RoutedSequence[]): Promise<Omit<StepFigures, "gradientNorm">> {
    const { microSequences, sequenceTokens } = this.#settings;
    const weight = 1 / (sequences.length * (sequenceTokens - 1));
    let [divergence, crossEntropy] = [0, 0];
    this.optimizer.clear();
    for (let from = 0; from < sequences.length; from += microSequences) {
      const micro = await this.#micro(sequences.slice(from, from + microSequences), weight);
      divergence += micro.divergence;
      crossEntropy += micro.crossEntropy;
    }
    return { divergence, crossEntropy };
  }

  /** Cross-entropies of each sequence's tokens in nats, their mean; by the student or by its teacher. */
  async losses(sequences: readonly RoutedSequence[], who: "student" | "teacher"): Promise<readonly number[]> {
    const { microSequences, sequenceTokens, signal } = this.#settings;
    const decoder = who === "student" ? this.#student : this.#teacher;
    const losses: number[] = [];
    for (let from = 0; from < sequences.length; from += microSequences) {
      signal?.throwIfAborted();
      const some = sequences.slice(from, from + microSequences);
      const batch = batchOf(some, microSequences);
      const own = who === "student" ? batch : { ...batch, experts: new Uint16Array(batch.experts.length) };
      const { hidden } = await decoder.forward(own, false);
      const { ids } = labelsOf(batch, sequenceTokens, 1);
      const rows = await crossEntropies(this.#pool, hidden, decoder.weights, ids);
      some.forEach((_, i) => {
        const predicted = rows.subarray(i * sequenceTokens, (i + 1) * sequenceTokens - 1);
        losses.push(predicted.reduce((sum, loss) => sum + loss, 0) / predicted.length);
      });
    }
    return losses;
  }

  /** How far each expert's next tokens are from the teacher's, of each sequence `[tokens, numExperts]`, in nats. */
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
      const labels = labelsOf(batch, sequenceTokens, 1);
      const taught = await this.#teacher.forward(batch, false);
      for (let expert = 0; expert < numExperts; expert++) {
        signal?.throwIfAborted();
        const { hidden } = await this.#student.forward({ ...batch, experts: batch.experts.map(() => expert) }, false);
        const inputs = this.#headInputs(hidden, taught.hidden);
        const { divergences } = await distillRows(this.#pool, inputs, labels, labelShare);
        some.forEach((_, place) => {
          const own = costs[from + place] as Float32Array;
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

  #headInputs(student: Float32Array, teacher: Float32Array): Parameters<typeof distillRows>[1] {
    return {
      student: { states: student, weights: this.#student.weights },
      teacher: { states: teacher, weights: this.#teacher.weights },
    };
  }

  async #micro(sequences: readonly RoutedSequence[], weight: number): Promise<Omit<StepFigures, "gradientNorm">> {
    const { sequenceTokens, labelShare, signal } = this.#settings;
    signal?.throwIfAborted();
    const batch = batchOf(sequences);
    const taught = await this.#teacher.forward({ ...batch, experts: new Uint16Array(batch.experts.length) }, false);
    signal?.throwIfAborted();
    const pass = await this.#student.forward(batch, true);
    signal?.throwIfAborted();
    const inputs = this.#headInputs(pass.hidden, taught.hidden);
    const rows = await distillRows(this.#pool, inputs, labelsOf(batch, sequenceTokens, weight), labelShare);
    this.optimizer.add(this.#finalNorm, rows.normGradient);
    signal?.throwIfAborted();
    await this.#student.backward(pass, rows.gradient, (key, gradient) => this.optimizer.add(key, gradient));
    return rows;
  }
}
