// Runs tokens through a model's layers, a few layers at a time, so that memory holds only those.

import type { InputStatistics } from "@readme-moe/model";
import { type DescribedModel, describeModel } from "./describe-model.ts";
import { type DecoderDescription, expertsOf, type LayerDescription } from "./description.ts";
import type { Kernel } from "./kernel.ts";
import { KV_PAGE_TOKENS } from "./kv/page-pool.ts";
import { type KernelChoice, openKernel } from "./open-kernel.ts";
import { packedFloats, packIdentity } from "./pack/pack-tables.ts";
import { fill, layOut, packedFile } from "./pack/packed-file.ts";
import { bytesOf, type PackedTensor } from "./pack/block-types.ts";
import { anglesOf, encodeStep, type StepRows } from "./step-request.ts";

/** Options of `calibrateModel`. */
export interface CalibrateOptions extends KernelChoice {
  readonly threads: number;
  /** Size of the weights of layers in memory, with at least one layer. @default 64 MiB */
  readonly pieceBytes?: number | undefined;
}

const PIECE_BYTES = 64 * 2 ** 20;
/** Number of rows of one step; a longer sequence is one step. */
const STEP_ROWS = 512;

/** A text of the calibration. */
export interface CalibrationTokens {
  /** Tokens, at most as many as the model's context. */
  readonly tokenIds: readonly number[];
  /** Expert of each token. @default 0 */
  readonly experts?: ArrayLike<number> | undefined;
}

/**
 * Measures the inputs of a model's products on some tokens. Runs in int8, which gives the same bits in every build, so
 * that the weights that are packed by the measures are the same everywhere. Computed on demand, layer after layer, and
 * kept.
 *
 * @param sequences - called when the first layer runs
 */
export function calibrateModel(
  model: DescribedModel,
  sequences: () => Promise<readonly CalibrationTokens[]>,
  options: CalibrateOptions,
): InputStatistics {
  const walk = new LayerWalk(model, sequences, options);
  return { inputSquares: (product) => walk.inputSquares(product) };
}

class LayerWalk {
  readonly #model: DescribedModel;
  readonly #whole: DecoderDescription;
  readonly #read: () => Promise<readonly CalibrationTokens[]>;
  readonly #options: CalibrateOptions;
  readonly #squares = new Map<string, Float32Array>();
  /** Rows of all sequences after the layers so far. */
  #stream: Stream | undefined;
  #nextLayer = 0;
  /** Last call, for which the next one waits. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(model: DescribedModel, read: () => Promise<readonly CalibrationTokens[]>, options: CalibrateOptions) {
    this.#model = model;
    this.#whole = describeModel(model, "int8");
    this.#read = read;
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
    this.#stream ??= await embed(this.#model, await this.#read());
    const { threads, pieceBytes = PIECE_BYTES } = this.#options;
    const layers = pieceOf(this.#whole.layers.slice(this.#nextLayer), pieceBytes);
    const description = describePiece(this.#whole, layers, this.#stream.rows);
    const { maxPositions } = this.#stream;
    const sizes = { threads, maxRows: Math.max(STEP_ROWS, maxPositions), maxPositions };
    const bytes = await fill(new Uint8Array(layOut(description).numBytes), packedFile(description));
    const kernel = openKernel(bytes, sizes, this.#options);
    try {
      this.#run(kernel, layers, description, this.#stream);
    } finally {
      await kernel.close();
    }
    this.#nextLayer += layers.length;
  }

  /** Runs all sequences through the layers of an open piece. */
  #run(kernel: Kernel, layers: readonly LayerDescription[], description: DecoderDescription, stream: Stream): void {
    const { config } = this.#model;
    const { vocabSize } = description;
    const { maxPositions } = stream;
    const numPages = STEP_ROWS + Math.ceil(maxPositions / KV_PAGE_TOKENS);
    for (const [place, set] of angleSetsOf(layers).entries()) {
      kernel.setAngles(place, 0, anglesOf(config.ropes[set]!, config.rotatedSize, 0, maxPositions));
    }
    const pages = kernel.openPages(numPages, "fp16");
    try {
      let firstRow = 0;
      for (const sequences of stepsOf(stream.sequences)) {
        const numRows = numTokensOf(sequences);
        const results = roomOf(numRows, vocabSize, layers);
        kernel.step(pages, encodeStep(rowsOf(sequences, firstRow), 1, numRows), results);
        for (let row = 0; row < numRows; row++) {
          const from = row * vocabSize;
          const own = results.fullLogits.subarray(from, from + config.hiddenSize);
          stream.rows.set(own, (firstRow + row) * config.hiddenSize);
        }
        this.#add(results.inputSquares, layers);
        firstRow += numRows;
      }
    } finally {
      pages.close();
    }
  }

  #add(inputSquares: Float32Array, layers: readonly LayerDescription[]): void {
    let place = 0;
    for (const [index, layer] of layers.entries()) {
      for (const [product, numIn] of productsOf(`layers.${this.#nextLayer + index}`, layer)) {
        const known = this.#squares.get(product);
        const squares = inputSquares.slice(place, place + numIn);
        this.#squares.set(product, known ? squares.map((square, i) => square + known[i]!) : squares);
        place += numIn;
      }
    }
  }
}

/** The residual stream of all sequences, one after another. */
interface Stream {
  readonly sequences: readonly CalibrationTokens[];
  /** `[tokens, hiddenSize]` */
  readonly rows: Float32Array;
  /** Length of the longest sequence. */
  readonly maxPositions: number;
}

/** Lists a layer's products with the lengths of their inputs, in the order of `StepResults.inputSquares`. */
function productsOf(name: string, layer: LayerDescription) {
  const { query, attentionOutput, shared } = layer;
  const hiddenSize = query.numIn;
  const ofExperts = expertsOf(layer).flatMap(({ down }, expert) => [
    [`${name}.ffn.${expert}`, hiddenSize] as const,
    [`${name}.ffn.${expert}.down`, down.numIn] as const,
  ]);
  return [
    [`${name}.attention.qkv`, hiddenSize],
    [`${name}.attention.output`, attentionOutput.numIn],
    [`${name}.ffn`, hiddenSize],
    ...(shared ? [[`${name}.ffn.down`, shared.down.numIn] as const] : []),
    ...ofExperts,
  ] as const;
}

/** Takes as many of the first layers as fit a piece. */
function pieceOf(layers: readonly LayerDescription[], pieceBytes: number): readonly LayerDescription[] {
  let bytes = 0;
  const end = layers.findIndex((layer) => (bytes += bytesOfLayer(layer)) > pieceBytes);
  return end === -1 ? layers : layers.slice(0, Math.max(1, end));
}

function bytesOfLayer(layer: LayerDescription): number {
  const { query, key, value, attentionOutput, shared } = layer;
  const ffns = shared ? [shared, ...expertsOf(layer)] : expertsOf(layer);
  const products = [query, key, value, attentionOutput, ...ffns.flatMap(({ gate, up, down }) => [gate, up, down])];
  return products.reduce((sum, product) => sum + (product?.weightBytes ?? 0), 0);
}

function numTokensOf(sequences: readonly CalibrationTokens[]): number {
  return sequences.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
}

function stepsOf(sequences: readonly CalibrationTokens[]): CalibrationTokens[][] {
  const steps: CalibrationTokens[][] = [];
  let numRows = Infinity;
  for (const sequence of sequences) {
    const { length } = sequence.tokenIds;
    if (numRows + length > STEP_ROWS) {
      steps.push([]);
      numRows = 0;
    }
    steps.at(-1)?.push(sequence);
    numRows += length;
  }
  return steps;
}

/** Makes rows of successive sequences, from row `firstRow` of the stream on, with all their logits. */
function rowsOf(sequences: readonly CalibrationTokens[], firstRow: number): StepRows[] {
  let [row, page, place] = [firstRow, 0, 0];
  return sequences.map(({ tokenIds: { length }, experts }): StepRows => {
    const numPages = Math.ceil(length / KV_PAGE_TOKENS);
    const tokens = Array.from({ length }, (_, index) => index);
    const rows = {
      tokenIds: tokens.map((index) => row + index),
      experts,
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

async function embed({ weights, config }: DescribedModel, sequences: readonly CalibrationTokens[]): Promise<Stream> {
  const { store, name } = weights.embedding;
  const rows = new Float32Array(numTokensOf(sequences) * config.hiddenSize);
  for (const [index, id] of sequences.flatMap(({ tokenIds }) => tokenIds).entries()) {
    const row = await store.readFloats(name, { from: id, to: id + 1 });
    rows.set(
      row.map((value) => value * config.embeddingScale),
      index * config.hiddenSize,
    );
  }
  return { sequences, rows, maxPositions: Math.max(...sequences.map(({ tokenIds }) => tokenIds.length)) };
}

// A few layers as a separate model, whose "tokens" are rows of the residual stream and whose "logits" are its outputs.

/** Lists the sets of angles that layers use. A piece numbers them anew, by their place in this list. */
function angleSetsOf(layers: readonly LayerDescription[]): readonly number[] {
  const sets = layers.map(({ angleSet }) => angleSet).filter((set) => set !== undefined);
  return Array.from(new Set(sets)).sort((a, b) => a - b);
}

/**
 * Describes layers that map rows of the stream to rows of the stream.
 *
 * @param whole - the model of the layers
 * @param stream - `[numRows, hiddenSize]`: row i is looked up as token i
 * @returns a model whose first `hiddenSize` logits are the stream after its last layer
 */
function describePiece(
  whole: DecoderDescription,
  layers: readonly LayerDescription[],
  stream: Float32Array,
): DecoderDescription {
  const { hiddenSize } = whole;
  const angleSets = angleSetsOf(layers);
  const numbered = (set: number | undefined): number | undefined =>
    set === undefined ? undefined : angleSets.indexOf(set);
  const vocabSize = Math.max(stream.length / hiddenSize, hiddenSize);
  return {
    ...whole,
    vocabSize,
    numLogits: undefined,
    embeddingScale: 1,
    logitScale: 1,
    embedding: streamTable(stream, vocabSize, hiddenSize),
    layers: layers.map((layer) => ({ ...layer, angleSet: numbered(layer.angleSet) })),
    finalNorm: undefined,
    head: packIdentity(vocabSize, hiddenSize),
  };
}

function streamTable(stream: Float32Array, numOut: number, numIn: number): PackedTensor {
  return packedFloats("float-table", { numOut, numIn, weightBytes: numOut * numIn * 4 }, async function* () {
    yield bytesOf(stream);
    yield new Uint8Array((numOut * numIn - stream.length) * 4);
  });
}
