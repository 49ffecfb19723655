// A draft head in training: gradients of sequences, and accepted drafts of held-out ones.

import { seededRandom } from "@readme-moe/core";
import { floatOutput, type Feeds, type GraphTensor } from "../graphs/session.ts";
import { SessionPool } from "../graphs/staged-session.ts";
import { gradientName } from "../autodiff/tape.ts";
import { pickRows } from "../linear-algebra/matrix.ts";
import { normals } from "../random.ts";
import type { StepFigures } from "../tuning/options.ts";
import { Optimizer, type Parameter, type Rates } from "../tuning/parameters.ts";
import type { Trainable } from "../tuning/train.ts";
import { weightFeeds } from "../tuning/weights.ts";
import { headGraph, type HeadShape, headWeights, TAPS } from "./head-graph.ts";
import { type ModelRows, readModelRows, type RowSequence } from "./model-rows.ts";
import type { AcceptedByKind } from "./options.ts";
import { type ChosenOutputs, type DraftVocabulary, sampleOutputs } from "./vocabulary.ts";

const MAX_GRADIENT_NORM = 1;
/** Longest chain of drafts that is measured. */
const CHAIN = 4;
/** Size of the first outputs of attention and FFN relative to their usual one. */
const START_SHARE = 0.1;
/** Outputs beside the candidates of a sequence for which a training step computes logits. */
const OTHER_OUTPUTS = 1024;

/** Parts of a model that its head uses as they are, and the sizes of its states. */
export interface HeadSource {
  /** `[vocabSize, hiddenSize]` */
  readonly embedding: Float32Array;
  readonly embeddingScale: number;
  /** Rows of the model's head for the draft vocabulary, `[vocabulary, hiddenSize]`. */
  readonly head: Float32Array;
  /** Scales of the norm in front of it. */
  readonly finalNorm: Float32Array;
  /** Mean magnitude of each state, `[TAPS * hiddenSize]`. */
  readonly magnitudes: Float32Array;
  readonly vocabulary: DraftVocabulary;
}

export interface TrainerOptions {
  readonly drafts: number;
  readonly draftDecay: number;
  readonly sequenceTokens: number;
  readonly threads: number | undefined;
  readonly signal: AbortSignal | undefined;
}

/**
 * Makes the parameters of a new head. Its stream begins with the last tapped state, with numbers about 1 in size, and
 * its logits with a deviation of about 1, since those of the model's own norm would be confident and wrong. Columns of
 * `fc.weight` are of states that are divided by their magnitudes: `divideColumns` makes the weights of a file.
 */
export function newParameters(
  shape: HeadShape,
  { finalNorm, head, magnitudes }: Pick<HeadSource, "finalNorm" | "head" | "magnitudes">,
  seed: number,
): readonly Parameter[] {
  const random = seededRandom(seed);
  const { hiddenSize, vocabulary } = shape;
  const squares = head.reduce((sum, weight, at) => sum + (weight * finalNorm[at % hiddenSize]!) ** 2, 0);
  const deviation = Math.sqrt(squares / vocabulary) || 1;
  const last = magnitudes.subarray((TAPS - 1) * hiddenSize);
  const mean = last.reduce((sum, value) => sum + value, 0) / hiddenSize;
  const start = (name: string, [rows = 0, columns = 0]: readonly number[]): Float32Array => {
    if (name === "norm.weight") return finalNorm.map((scale) => scale / deviation);
    if (columns === 0) return new Float32Array(rows).fill(1);
    if (name !== "fc.weight") {
      const share = /\.(?:o|down)_proj\./.test(name) ? START_SHARE : 1;
      return normals(rows * columns, share / Math.sqrt(columns), random);
    }
    const values = new Float32Array(rows * columns);
    last.forEach((magnitude, row) => (values[row * columns + columns - rows + row] = magnitude / mean));
    return values;
  };
  return Array.from(headWeights(shape), ([key, sizes]) => ({
    key,
    shape: sizes,
    values: start(key, sizes),
    isVector: sizes.length === 1,
  }));
}

/** Divides columns of rows by the magnitudes of states: of states themselves, or of `fc.weight`. */
export function divideColumns(values: Float32Array, magnitudes: Float32Array): Float32Array {
  return values.map((value, at) => value / magnitudes[at % magnitudes.length]!);
}

/** Computes the mean magnitude of each state over sequences; one that is always 0 counts as the mean of all. */
export async function magnitudesOf(sequences: readonly RowSequence[], width: number): Promise<Float32Array> {
  const sums = new Float64Array(width);
  for (const { file } of sequences) {
    const { states } = await readModelRows(file);
    for (let at = 0; at < states.length; at++) sums[at % width]! += Math.abs(states[at]!);
  }
  const count = sequences.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
  const mean = sums.reduce((sum, value) => sum + value, 0) / width / count;
  return Float32Array.from(sums, (sum) => Math.max(sum / count, mean / 1000) || 1);
}

export class HeadTrainer implements Trainable<RowSequence> {
  readonly optimizer: Optimizer;
  readonly #parameters: readonly Parameter[];
  readonly #shape: HeadShape;
  readonly #source: HeadSource;
  readonly #options: TrainerOptions;
  readonly #sessions: SessionPool;
  /** Accepted drafts in the last measurement. */
  accepted: AcceptedByKind = [];

  constructor(parameters: readonly Parameter[], shape: HeadShape, source: HeadSource, options: TrainerOptions) {
    this.#parameters = parameters;
    this.#shape = shape;
    this.#source = source;
    this.#options = options;
    this.#sessions = new SessionPool({ threads: options.threads });
    this.optimizer = new Optimizer(parameters);
  }

  async step(sequences: readonly RowSequence[], rates: Rates): Promise<StepFigures> {
    const loss = await this.gradients(sequences);
    return { divergence: 0, crossEntropy: loss, gradientNorm: this.optimizer.step(rates, MAX_GRADIENT_NORM) };
  }

  /** Adds up the gradients of a step in the optimizer. @returns the loss, a mean over tokens and drafts */
  async gradients(sequences: readonly RowSequence[]): Promise<number> {
    const { drafts } = this.#options;
    this.optimizer.clear();
    let loss = 0;
    for (const { tokenIds, file } of sequences) {
      this.#options.signal?.throwIfAborted();
      const weight = this.#weightOf(drafts) / sequences.length;
      const outputs = await this.#run(tokenIds, await readModelRows(file), { drafts, weight, hasGradients: true });
      loss += floatOutput(outputs, "loss")[0] ?? 0;
      for (const { key } of this.#parameters) this.optimizer.add(key, floatOutput(outputs, gradientName(key)));
    }
    return loss;
  }

  /** Returns the mean loss of each sequence's tokens and drafts, and measures accepted drafts. */
  async losses(sequences: readonly RowSequence[]): Promise<readonly number[]> {
    const counts = Array.from({ length: Math.max(...sequences.map(({ domain }) => domain)) + 1 }, () => ({
      rows: 0,
      right: new Float64Array(CHAIN),
    }));
    const losses: number[] = [];
    for (const { tokenIds, file, domain } of sequences) {
      this.#options.signal?.throwIfAborted();
      const rows = await readModelRows(file);
      const weight = this.#weightOf(CHAIN);
      const outputs = await this.#run(tokenIds, rows, { drafts: CHAIN, weight, hasGradients: false });
      losses.push(floatOutput(outputs, "loss")[0] ?? 0);
      const best = Array.from({ length: CHAIN }, (_, draft) => outputs[`best.${draft}`]!.data);
      const stride = rows.candidates.length / tokenIds.length;
      const { tokenIds: drafted } = this.#source.vocabulary;
      const counted = counts[domain]!;
      for (let row = 0; row < tokenIds.length - CHAIN; row++) {
        counted.rows++;
        for (let draft = 0; draft < CHAIN; draft++) {
          if (drafted[Number(best[draft]![row])] !== rows.candidates[(row + 1 + draft) * stride]) break;
          counted.right[draft]!++;
        }
      }
    }
    this.accepted = counts.map(({ rows, right }) => {
      let sum = 0;
      return Array.from(right, (count) => (sum += count / rows));
    });
    return losses;
  }

  async dispose(): Promise<void> {
    await this.#sessions.dispose();
  }

  /** Returns the weight of a row, so that a sequence's loss is a mean over rows and drafts. */
  #weightOf(drafts: number): number {
    const { draftDecay, sequenceTokens } = this.#options;
    const sum = Array.from({ length: drafts }, (_, draft) => draftDecay ** draft).reduce((a, b) => a + b);
    return 1 / (sum * (sequenceTokens - 1));
  }

  async #run(
    tokenIds: Int32Array,
    rows: ModelRows,
    { drafts, weight, hasGradients }: { drafts: number; weight: number; hasGradients: boolean },
  ): Promise<Feeds> {
    const chosen = sampleOutputs(this.#source.vocabulary, rows.candidates, {
      numOthers: hasGradients ? OTHER_OUTPUTS : Infinity,
      // The sequence's own seed, so that a resumed training draws the same outputs.
      seed: tokenIds.reduce((sum, id) => (Math.imul(sum, 31) + id) | 0, 1),
    });
    const outputs = chosen.places.length;
    const lengths = { tokens: tokenIds.length, drafts, outputs, decay: this.#options.draftDecay };
    const session = await this.#sessions.get(`${drafts} ${outputs} ${hasGradients}`, () =>
      headGraph(this.#shape, lengths, hasGradients),
    );
    const weights = weightFeeds([new Map(this.#parameters.map((parameter) => [parameter.key, parameter]))]);
    return session.run({ ...weights, ...headFeeds(this.#source, tokenIds, rows, { drafts, weight, chosen }) });
  }
}

/** Makes the inputs of a head's graph. @param weight - of each row */
export function headFeeds(
  source: HeadSource,
  tokenIds: Int32Array,
  { states, candidates, logits }: ModelRows,
  { drafts, weight, chosen }: { readonly drafts: number; readonly weight: number; readonly chosen: ChosenOutputs },
): Readonly<Record<string, GraphTensor>> {
  const { embedding, embeddingScale, head, magnitudes, vocabulary } = source;
  const numTokens = tokenIds.length;
  const width = magnitudes.length / TAPS;
  const numRows = numTokens + drafts - 1;
  const stride = candidates.length / numTokens;
  const embeddings = new Float32Array(numRows * width);
  embeddings.set(pickRows(embedding, tokenIds.subarray(1), width).map((value) => value * embeddingScale));
  const outputs = new Int32Array(vocabulary.tokenIds.length);
  chosen.places.forEach((place, output) => (outputs[place] = output));
  const ids = new BigInt64Array(numRows * stride);
  const shares = new Float32Array(numRows * stride);
  for (let row = 0; row < numTokens - 1; row++) {
    const from = (row + 1) * stride;
    const best = logits[from]!;
    let sum = 0;
    for (let i = 0; i < stride; i++) {
      const place = vocabulary.places[candidates[from + i]!]!;
      if (place === -1) continue;
      const share = Math.exp(logits[from + i]! - best);
      ids[row * stride + i] = BigInt(outputs[place]!);
      shares[row * stride + i] = share;
      sum += share;
    }
    if (sum === 0) continue;
    for (let i = row * stride; i < (row + 1) * stride; i++) shares[i]! *= weight / sum;
  }
  return {
    head: { data: pickRows(head, chosen.places, width), dims: [chosen.places.length, width] },
    corrections: { data: chosen.corrections, dims: [chosen.places.length] },
    states: {
      data: divideColumns(states, magnitudes),
      dims: [numTokens, magnitudes.length],
    },
    embeddings: { data: embeddings, dims: [numRows, width] },
    ids: { data: ids, dims: [numRows, stride] },
    shares: { data: shares, dims: [numRows, stride] },
  };
}
