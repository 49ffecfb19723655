// A model in training beside its teacher.

import type { ModelConfig } from "@readme-moe/model";
import { Decoder, type Batch } from "./decoder/decoder.ts";
import type { DecoderWeights } from "./decoder/decoder-weights.ts";
import { GraphPool } from "./decoder/graph-pool.ts";
import { crossEntropies, distillRows } from "./decoder/head.ts";
import type { StepFigures } from "./options.ts";
import type { Trained } from "./choose-parameters.ts";
import { Optimizer, type Rates } from "./parameters.ts";
import { batchOf, labelsOf, type RoutedSequence } from "./tuning-data.ts";

const MAX_GRADIENT_NORM = 1;

export interface TrainerSettings {
  readonly sequenceTokens: number;
  readonly microSequences: number;
  readonly labelShare: number;
  readonly threads: number | undefined;
  readonly signal: AbortSignal | undefined;
}

export class Trainer {
  readonly #student: Decoder;
  readonly #teacher: Decoder;
  readonly #pool: GraphPool;
  readonly #settings: TrainerSettings;
  readonly optimizer: Optimizer;
  readonly #weights: { readonly student: DecoderWeights; readonly teacher: DecoderWeights };

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

  /** Adds the gradients of sequences that run together. @param weight - of each token */
  async #addGradients(
    sequences: readonly RoutedSequence[],
    weight: number,
  ): Promise<Omit<StepFigures, "gradientNorm">> {
    const { sequenceTokens, labelShare, signal } = this.#settings;
    signal?.throwIfAborted();
    const batch = batchOf(sequences);
    const { hidden: teacher } = await this.#teacher.forward(withExpert(batch, 0), false);
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
