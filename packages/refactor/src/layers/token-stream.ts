// Texts that pass through a model layer by layer: hidden states of many sequences of equal length, laid end to end.

import type { Model, ModelConfig } from "@readme-moe/model";
import { pickRows } from "../linear-algebra/matrix.ts";

/** Range of sequences that run together, all of one domain. */
export interface Batch {
  readonly domain: number;
  readonly firstSequence: number;
  readonly numSequences: number;
}

export class TokenStream {
  readonly sequenceTokens: number;
  /** Sequences of equal length; those of a domain are contiguous. */
  readonly sequences: readonly Int32Array[];
  readonly domains: readonly number[];
  readonly hiddenSize: number;
  readonly batches: readonly Batch[];

  constructor(config: ModelConfig, domains: readonly (readonly Int32Array[])[], batchTokens: number) {
    this.sequences = domains.flat();
    this.domains = domains.flatMap((sequences, domain) => sequences.map(() => domain));
    this.sequenceTokens = this.sequences[0]?.length ?? 0;
    this.hiddenSize = config.hiddenSize;
    this.batches = cutBatches(this.domains, Math.max(1, Math.floor(batchTokens / this.sequenceTokens)));
  }

  get numTokens(): number {
    return this.sequences.length * this.sequenceTokens;
  }

  /** Finds the tokens `[from, to)` of a batch in the whole stream. */
  tokenRange({ firstSequence, numSequences }: Batch): readonly [from: number, to: number] {
    return [firstSequence * this.sequenceTokens, (firstSequence + numSequences) * this.sequenceTokens];
  }

  /** Makes a view of a batch's part of states `[tokens, size]`. */
  view(states: Float32Array, batch: Batch, size: number): Float32Array {
    const [from, to] = this.tokenRange(batch);
    return states.subarray(from * size, to * size);
  }

  /** Copies the states `[tokens, …]` of some sequences, in their order. */
  pick(states: Float32Array, sequences: readonly number[]): Float32Array {
    return pickRows(states, sequences, states.length / this.sequences.length);
  }

  /** Looks up the embeddings of all tokens, `[tokens, hiddenSize]`. */
  async embed({ weights, config }: Pick<Model, "weights" | "config">): Promise<Float32Array> {
    const { store, name } = weights.embedding;
    const { hiddenSize } = this;
    const states = new Float32Array(this.numTokens * hiddenSize);
    const table = await store.readFloats(name);
    this.sequences.forEach((sequence, index) =>
      states.set(pickRows(table, sequence, hiddenSize), index * this.sequenceTokens * hiddenSize),
    );
    return config.embeddingScale === 1 ? states : states.map((value) => value * config.embeddingScale);
  }
}

function cutBatches(domains: readonly number[], perBatch: number): readonly Batch[] {
  const batches: Batch[] = [];
  for (let start = 0; start < domains.length;) {
    const domain = domains[start]!;
    let end = start + 1;
    while (end < domains.length && end - start < perBatch && domains[end] === domain) end++;
    batches.push({ domain, firstSequence: start, numSequences: end - start });
    start = end;
  }
  return batches;
}

/** Rows of successive batches of one domain. */
export class GatheredRows {
  readonly #sizes: ModelConfig;
  readonly #neurons: Float32Array;
  readonly #target: Float32Array;
  #domain = 0;
  #numRows = 0;

  constructor(sizes: ModelConfig, numRows: number) {
    this.#sizes = sizes;
    this.#neurons = new Float32Array(numRows * sizes.intermediateSize);
    this.#target = new Float32Array(numRows * sizes.hiddenSize);
  }

  hasRoom(domain: number, numRows: number): boolean {
    const isSame = this.#numRows === 0 || domain === this.#domain;
    return isSame && (this.#numRows + numRows) * this.#sizes.hiddenSize <= this.#target.length;
  }

  add(domain: number, neurons: Float32Array, target: Float32Array): void {
    const { intermediateSize, hiddenSize } = this.#sizes;
    this.#domain = domain;
    this.#neurons.set(neurons, this.#numRows * intermediateSize);
    this.#target.set(target, this.#numRows * hiddenSize);
    this.#numRows += target.length / hiddenSize;
  }

  /** Returns the rows so far, and begins anew. */
  take(): { readonly domain: number; readonly neurons: Float32Array; readonly target: Float32Array } {
    const { intermediateSize, hiddenSize } = this.#sizes;
    const neurons = this.#neurons.subarray(0, this.#numRows * intermediateSize);
    const target = this.#target.subarray(0, this.#numRows * hiddenSize);
    this.#numRows = 0;
    return { domain: this.#domain, neurons, target };
  }
}
