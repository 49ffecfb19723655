// Some tokens run through a model's layers, a few layers at a time, so that memory holds those alone.

import { anglesOf } from "../angles.ts";
import { describeModel, type DescribedModel, type InputStatistics } from "../describe-model.ts";
import type { DecoderDescription, LayerDescription } from "../description.ts";
import type { Kernel } from "../kernel.ts";
import { KV_PAGE_TOKENS } from "../kv/page-tokens.ts";
import { openKernel, type KernelChoice } from "../open-kernel.ts";
import { layOut, packedFile } from "../pack/packed-file.ts";
import type { PackedTensor } from "../pack/packed-tensor.ts";
import { encodeStep, type StepRows } from "../step-request.ts";
import { describePiece } from "./layer-piece.ts";

/** Options of `calibrateModel`. */
export interface CalibrateOptions extends KernelChoice {
  readonly threads: number;
  /** Weights of the layers that are in memory together; at least one layer is. @default 64 MiB */
  readonly pieceBytes?: number | undefined;
}

const PIECE_BYTES = 64 * 2 ** 20;
/** Rows of one step; a longer sequence is a step of its own. */
const STEP_ROWS = 512;

/**
 * Measures what a dense model's products take in on some tokens: in int8, which gives the same bits in every build, so that the weights
 * that are packed by it are the same everywhere. Computed when it is asked for, layer after layer, and kept.
 *
 * @param sequences - tokens, `[tokens]` each, at most as many as the model's context
 */
export function calibrateModel(
  model: DescribedModel,
  sequences: readonly (readonly number[])[],
  options: CalibrateOptions,
): InputStatistics {
  const walk = new LayerWalk(model, sequences, options);
  return { inputSquares: (product) => walk.inputSquares(product) };
}

class LayerWalk {
  readonly #model: DescribedModel;
  readonly #whole: DecoderDescription;
  readonly #sequences: readonly (readonly number[])[];
  readonly #options: CalibrateOptions;
  readonly #squares = new Map<string, Float32Array>();
  /** Rows of all sequences behind the layers so far, `[tokens, hiddenSize]`. */
  #stream: Float32Array | undefined;
  #nextLayer = 0;
  /** Calls wait for each other. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(model: DescribedModel, sequences: readonly (readonly number[])[], options: CalibrateOptions) {
    this.#model = model;
    this.#whole = describeModel(model, "int8");
    this.#sequences = sequences;
    this.#options = options;
  }

  inputSquares(product: string): Promise<Float32Array> {
    const result = this.#last.then(() => this.#find(product));
    this.#last = result.catch(() => undefined);
    return result;
  }

  async #find(product: string): Promise<Float32Array> {
    for (;;) {
      const found = this.#squares.get(product);
      if (found) return found;
      if (this.#nextLayer === this.#whole.layers.length) throw new RangeError(`No layer has the product ${product}`);
      await this.#advance();
    }
  }

  async #advance(): Promise<void> {
    this.#stream ??= await embed(this.#model, this.#sequences.flat());
    const { threads, pieceBytes = PIECE_BYTES } = this.#options;
    const layers = pieceOf(this.#whole.layers.slice(this.#nextLayer), pieceBytes);
    const description = describePiece(this.#whole, layers, this.#stream);
    const maxPositions = Math.max(...this.#sequences.map(({ length }) => length));
    const sizes = { threads, maxRows: Math.max(STEP_ROWS, maxPositions), maxPositions };
    const kernel = openKernel(await inMemory(description), sizes, this.#options);
    try {
      this.#run(kernel, layers, description.vocabSize);
    } finally {
      await kernel.close();
    }
    this.#nextLayer += layers.length;
  }

  /** Runs all sequences through the layers of an open piece. */
  #run(kernel: Kernel, layers: readonly LayerDescription[], vocabSize: number): void {
    const { config } = this.#model;
    const maxPositions = Math.max(...this.#sequences.map(({ length }) => length));
    const numPages = STEP_ROWS + Math.ceil(maxPositions / KV_PAGE_TOKENS);
    kernel.setAngles(0, 0, anglesOf(config.rope, config.headSize, 0, maxPositions));
    const pages = kernel.openPages(numPages, true);
    try {
      let firstRow = 0;
      for (const lengths of stepsOf(this.#sequences.map(({ length }) => length))) {
        const rows = rowsOf(lengths, firstRow);
        const numRows = lengths.reduce((sum, length) => sum + length, 0);
        const limits = { vocabSize, maxRows: numRows, maxPositions, numPages, numFullRows: numRows };
        const results = roomOf(numRows, vocabSize, layers);
        kernel.step(pages, encodeStep(rows, 1, limits), results);
        this.#take(results, layers, firstRow, numRows, vocabSize);
        firstRow += numRows;
      }
    } finally {
      pages.close();
    }
  }

  /** Takes rows of the stream out of logits, and adds up the inputs' squares by product. */
  #take(
    { fullLogits, inputSquares }: Pick<ReturnType<typeof roomOf>, "fullLogits" | "inputSquares">,
    layers: readonly LayerDescription[],
    firstRow: number,
    numRows: number,
    vocabSize: number,
  ): void {
    const { hiddenSize } = this.#whole;
    for (let row = 0; row < numRows; row++) {
      const from = row * vocabSize;
      this.#stream?.set(fullLogits.subarray(from, from + hiddenSize), (firstRow + row) * hiddenSize);
    }
    let place = 0;
    for (const [index, layer] of layers.entries()) {
      for (const [product, numIn] of productsOf(`layers.${this.#nextLayer + index}`, layer)) {
        const known = this.#squares.get(product);
        const squares = inputSquares.slice(place, place + numIn);
        this.#squares.set(product, known ? squares.map((square, i) => square + (known[i] as number)) : squares);
        place += numIn;
      }
    }
  }
}

/** A layer's products with the length of what they take in, in the order of `StepResults.inputSquares`. */
function productsOf(name: string, { query, attentionOutput, up, down }: LayerDescription) {
  return [
    [`${name}.attention.qkv`, query.numIn],
    [`${name}.attention.output`, attentionOutput.numIn],
    [`${name}.ffn.gate_up`, up.numIn],
    [`${name}.ffn.down`, down.numIn],
  ] as const;
}

/** The first layers, as many as fit a piece. */
function pieceOf(layers: readonly LayerDescription[], pieceBytes: number): readonly LayerDescription[] {
  let bytes = 0;
  const end = layers.findIndex((layer) => (bytes += bytesOfLayer(layer)) > pieceBytes);
  return end === -1 ? layers : layers.slice(0, Math.max(1, end));
}

function bytesOfLayer({ query, key, value, attentionOutput, gate, up, down }: LayerDescription): number {
  const products: readonly (PackedTensor | undefined)[] = [query, key, value, attentionOutput, gate, up, down];
  return products.reduce((sum, product) => sum + (product?.weightBytes ?? 0), 0);
}

/** Deals sequences into steps, by their lengths. */
function stepsOf(lengths: readonly number[]): number[][] {
  const steps: number[][] = [];
  let numRows = Infinity;
  for (const length of lengths) {
    if (numRows + length > STEP_ROWS) {
      steps.push([]);
      numRows = 0;
    }
    steps.at(-1)?.push(length);
    numRows += length;
  }
  return steps;
}

/** Rows of sequences that lie one after the other, from row `firstRow` of the stream on, with all their logits. */
function rowsOf(lengths: readonly number[], firstRow: number): StepRows[] {
  let [row, page, place] = [firstRow, 0, 0];
  return lengths.map((length): StepRows => {
    const numPages = Math.ceil(length / KV_PAGE_TOKENS);
    const tokens = Array.from({ length }, (_, index) => index);
    const rows = {
      tokenIds: tokens.map((index) => row + index),
      position: 0,
      pages: Array.from({ length: numPages }, (_, index) => page + index),
      logitsOf: tokens,
      fullPlaces: tokens.map((index) => place + index),
    };
    row += length;
    page += numPages;
    place += length;
    return rows;
  });
}

function roomOf(numRows: number, vocabSize: number, layers: readonly LayerDescription[]) {
  const numInputs = layers.flatMap((layer) => productsOf("", layer)).reduce((sum, [, numIn]) => sum + numIn, 0);
  return {
    candidateIds: new Int32Array(numRows),
    logits: new Float32Array(2 * numRows),
    sums: new Float64Array(2 * numRows),
    fullLogits: new Float32Array(numRows * vocabSize),
    inputSquares: new Float32Array(numInputs),
  };
}

async function embed({ weights, config }: DescribedModel, tokenIds: readonly number[]): Promise<Float32Array> {
  const { store, name } = weights.embedding;
  const stream = new Float32Array(tokenIds.length * config.hiddenSize);
  for (const [index, id] of tokenIds.entries()) {
    stream.set(await store.readFloats(name, { from: id, to: id + 1 }), index * config.hiddenSize);
  }
  return stream;
}

async function inMemory(description: DecoderDescription): Promise<Uint8Array> {
  const bytes = new Uint8Array(layOut(description).numBytes);
  let end = 0;
  for await (const piece of packedFile(description)) {
    bytes.set(piece, end);
    end += piece.byteLength;
  }
  return bytes;
}
