// Runs of a draft head with what they cost, and its keys and values by sequence.

import { type CostModel, DEFAULT_COST_MODEL, predictStepMs, refineCostModel } from "@readme-moe/core";
import {
  describeDraftHead,
  encodeStep,
  GrowingAngles,
  type Kernel,
  type KernelChoice,
  KernelKv,
  KV_BLOCK_TOKENS,
  kvBytesPerToken,
  type KvPrecision,
  type KvSlot,
  layOut,
  openCachedKernel,
  precisionOf,
} from "@readme-moe/kernel";
import { type DraftHead, findDraftHead, type Model, type Precision } from "@readme-moe/model";
import type { ResolvedEngineOptions } from "../engine-options.ts";
import { kvPrecisionOf } from "../memory-sizes.ts";

/** Rows of a sequence that run together: pairs of the model's states at a token and the token that follows it. */
export interface HeadRows {
  readonly slot: KvSlot;
  readonly tokenIds: readonly number[];
  /** The model's states `[rows, layers * hiddenSize]`; or one state of the head itself, `[hiddenSize]`. */
  readonly states: Float32Array;
  /** Whether the token that follows the last one is wanted. */
  readonly isWanted: boolean;
}

/** The token that a head expects behind a sequence. */
export interface HeadOutput {
  readonly tokenId: number;
  readonly probability: number;
  /** State with which the head continues, `[hiddenSize]`. */
  readonly state: Float32Array;
}

export interface HeadRunnerOptions extends KernelChoice {
  readonly precision: Precision;
  readonly kvPrecision: KvPrecision;
  readonly threads: number;
  readonly cacheFolder: string;
  /** Number of positions of all sequences together, a multiple of 64. */
  readonly capacityTokens: number;
  readonly onCacheFailure?: ((reason: string) => void) | undefined;
  /** Clock in ms. */
  readonly now: () => number;
}

/** Memory for keys and values of a head, at most. */
const KV_BYTES = 64 << 20;

/** Counts the positions that a head has keys and values of, if the engine has so many. */
export function headKvTokens({ config }: DraftHead, kvPrecision: KvPrecision, engineTokens = Infinity): number {
  const blocks = Math.floor(Math.min(engineTokens, KV_BYTES / kvBytesPerToken(config, kvPrecision)) / KV_BLOCK_TOKENS);
  return Math.max(1, blocks) * KV_BLOCK_TOKENS;
}

/** Counts the memory of a head: its weights, and at most so many keys and values. */
export function headSizes(head: DraftHead, precision: Precision, kvPrecision: KvPrecision): number {
  const kvBytes = headKvTokens(head, kvPrecision) * kvBytesPerToken(head.config, kvPrecision);
  return layOut(describeDraftHead(head, precision)).numBytes + kvBytes;
}

/** Counts the memory of the head that an engine with these options would open; 0 without one. */
export async function draftHeadBytes(
  model: Model,
  { speculation, draftHead, kvPrecision, ...options }: ResolvedEngineOptions,
): Promise<number> {
  const head = speculation ? await findDraftHead(model, draftHead) : undefined;
  if (!head) return 0;
  const precision = precisionOf(model, options.precision);
  await head.close();
  return headSizes(head, precision, kvPrecisionOf(precision, kvPrecision));
}

/** Largest number of rows of a call. */
const HEAD_ROWS = 256;

/** Runs a draft head. The kernel of the model reads the embeddings of its tokens. */
export class HeadRunner {
  readonly head: DraftHead;
  readonly kv: KernelKv;
  readonly #kernel: Kernel;
  readonly #model: Kernel;
  readonly #angles: GrowingAngles;
  readonly #now: () => number;
  #cost: CostModel = DEFAULT_COST_MODEL;
  #spentMs = 0;

  private constructor(head: DraftHead, model: Kernel, kernel: Kernel, options: HeadRunnerOptions) {
    const { capacityTokens, kvPrecision, now } = options;
    this.head = head;
    this.#model = model;
    this.#kernel = kernel;
    this.#now = now;
    this.#angles = new GrowingAngles(kernel, head.config);
    this.kv = new KernelKv(kernel, { shape: head.config, precision: kvPrecision, capacityTokens });
  }

  /** Opens a head's kernel; the caller closes the head. @param model - kernel of the model @throws {ReadMeError} */
  static async open(head: DraftHead, model: Kernel, modelKey: string, options: HeadRunnerOptions): Promise<HeadRunner> {
    const { precision, threads, cacheFolder, onCacheFailure } = options;
    const description = describeDraftHead(head, precision);
    const key = head.fingerprint(cacheFolder).then((fingerprint) => `${fingerprint} ${precision} ${modelKey}`);
    const sizes = { threads, maxRows: HEAD_ROWS, maxPositions: head.config.contextTokens };
    const cache = { key, cacheFolder, modelPath: head.path, onCacheFailure };
    const { kernel } = await openCachedKernel(description, sizes, { ...options, ...cache });
    try {
      const runner = new HeadRunner(head, model, kernel, options);
      runner.#rehearse();
      return runner;
    } catch (error) {
      await kernel.close();
      throw error;
    }
  }

  /** Time of all runs so far. */
  get spentMs(): number {
    return this.#spentMs;
  }

  /** Predicts the time of a run of some rows. */
  msPerRun(numRows: number): number {
    return predictStepMs(this.#cost, workOf(numRows));
  }

  /**
   * Runs rows and appends them to their slots, which must have room.
   * @returns one output for each sequence, `undefined` where none is wanted or no number came out
   */
  run(sequences: readonly HeadRows[]): readonly (HeadOutput | undefined)[] {
    const outputs: (HeadOutput | undefined)[] = [];
    let call: HeadRows[] = [];
    let numRows = 0;
    const flush = (): void => {
      if (call.length > 0) outputs.push(...this.#runCall(call));
      [call, numRows] = [[], 0];
    };
    for (const rows of sequences) {
      if (numRows > 0 && numRows + rows.tokenIds.length > HEAD_ROWS) flush();
      let from = 0;
      const width = rows.states.length / rows.tokenIds.length;
      for (; rows.tokenIds.length - from > HEAD_ROWS; from += HEAD_ROWS) this.#runCall([partOf(rows, from, width)]);
      call.push(from === 0 ? rows : partOf(rows, from, width));
      numRows += rows.tokenIds.length - from;
    }
    flush();
    return outputs;
  }

  async close(): Promise<void> {
    this.kv.dispose();
    await this.#kernel.close();
  }

  #runCall(sequences: readonly HeadRows[]): readonly (HeadOutput | undefined)[] {
    const startMs = this.#now();
    const { hiddenSize } = this.head.config;
    const rows = sequences.map(({ slot, tokenIds, isWanted }) => {
      const { numTokens: position, pages } = this.kv.pageSlot(slot);
      this.#angles.reach(position + tokenIds.length);
      const logitsOf = isWanted ? [tokenIds.length - 1] : [];
      return { tokenIds: new Int32Array(tokenIds.length), position, pages, logitsOf };
    });
    const numRows = rows.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
    const numWanted = rows.reduce((sum, { logitsOf }) => sum + logitsOf.length, 0);
    const results = {
      candidateIds: new Int32Array(numWanted),
      logits: new Float32Array(2 * numWanted),
      sums: new Float64Array(2 * numWanted),
      fullLogits: new Float32Array(0),
    };
    this.#kernel.beginStep(this.kv.pages, encodeStep(rows, 1), results);
    this.#kernel.writeStream(this.#inputsOf(sequences, numRows));
    this.#kernel.runLayers(0, 1);
    this.#kernel.endStep();
    const states = new Float32Array(numWanted > 0 ? numRows * hiddenSize : 0);
    if (numWanted > 0) this.#kernel.readStates("stream", states);
    let [wanted, end] = [0, 0];
    const outputs = sequences.map(({ slot, tokenIds, isWanted }) => {
      this.kv.advance(slot, tokenIds.length);
      end += tokenIds.length;
      if (!isWanted) return undefined;
      const [largest = NaN, sum = NaN] = results.sums.subarray(2 * wanted);
      const probability = Math.exp((results.logits[wanted] ?? NaN) - largest) / sum;
      const tokenId = this.head.tokenIds[results.candidateIds[wanted++] ?? 0] ?? 0;
      const state = states.slice((end - 1) * hiddenSize, end * hiddenSize);
      return probability >= 0 ? { tokenId, probability, state } : undefined;
    });
    this.#measure(numRows, this.#now() - startMs);
    return outputs;
  }

  /** Measures runs of one row and of several, after one that reads the head's pages for the first time. */
  #rehearse(): void {
    const slot = this.kv.admit(REHEARSED.length * Math.max(...REHEARSED));
    if (!slot) return;
    const width = this.head.layers.length * this.head.config.hiddenSize;
    for (const [index, numRows] of REHEARSED.entries()) {
      const states = new Float32Array(numRows * width).fill(1);
      this.#runCall([{ slot, tokenIds: Array.from({ length: numRows }, () => 0), states, isWanted: true }]);
      if (index === 0) this.#cost = DEFAULT_COST_MODEL;
    }
    this.kv.release(slot);
  }

  /** Puts the embedding of each token in front of its states. */
  #inputsOf(sequences: readonly HeadRows[], numRows: number): Float32Array {
    const { hiddenSize } = this.head.config;
    const embeddings = new Float32Array(numRows * hiddenSize);
    this.#model.readEmbeddings(Int32Array.from(sequences.flatMap(({ tokenIds }) => tokenIds)), embeddings);
    const numStates = sequences.reduce((sum, { states }) => sum + states.length, 0) / numRows;
    const inputs = new Float32Array(numRows * (hiddenSize + numStates));
    let row = 0;
    for (const { tokenIds, states } of sequences) {
      for (let i = 0; i < tokenIds.length; i++, row++) {
        const at = row * (hiddenSize + numStates);
        inputs.set(embeddings.subarray(row * hiddenSize, (row + 1) * hiddenSize), at);
        inputs.set(states.subarray(i * numStates, (i + 1) * numStates), at + hiddenSize);
      }
    }
    return inputs;
  }

  #measure(numRows: number, durationMs: number): void {
    this.#spentMs += durationMs;
    // Rows of a prompt take less time each than those of many sequences.
    if (numRows <= MEASURED_ROWS) this.#cost = refineCostModel(this.#cost, { work: workOf(numRows), durationMs });
  }
}

const MEASURED_ROWS = 32;
const REHEARSED = [1, 1, 4, 1, 8];

function workOf(tokens: number): Parameters<typeof predictStepMs>[1] {
  return { tokens, distinctExperts: 1, cachedTokens: 0, missingBytes: 0 };
}

/** Takes up to `HEAD_ROWS` rows from one on. Only the last ones give an output. */
function partOf({ slot, tokenIds, states, isWanted }: HeadRows, from: number, width: number): HeadRows {
  const to = Math.min(tokenIds.length, from + HEAD_ROWS);
  return {
    slot,
    tokenIds: tokenIds.slice(from, to),
    states: states.subarray(from * width, to * width),
    isWanted: isWanted && to === tokenIds.length,
  };
}
