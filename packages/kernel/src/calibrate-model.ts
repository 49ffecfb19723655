// Runs tokens through a model's layers, a few layers at a time, so that memory holds only those.

import type { InputStatistics } from "@readme-moe/model";
import { type DescribedModel, describeModel } from "./describe-model.ts";
import { type DecoderDescription, expertsOf, type LayerDescription } from "./description.ts";
import { LayerPiece, productsOf } from "./layer-piece.ts";
import type { KernelChoice } from "./open-kernel.ts";

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
    const stream = (this.#stream ??= await embed(this.#model, await this.#read()));
    const { config } = this.#model;
    const { pieceBytes = PIECE_BYTES, ...options } = this.#options;
    const from = this.#nextLayer;
    const to = from + numLayersOf(this.#whole.layers.slice(from), pieceBytes);
    const maxPositions = Math.max(...stream.sequences.map(({ tokenIds }) => tokenIds.length));
    const sizes = { maxRows: Math.max(STEP_ROWS, maxPositions), maxPositions, kvPrecision: "fp16" as const };
    const piece = await LayerPiece.open(this.#whole, config, { ...options, ...sizes, from, to });
    try {
      let firstRow = 0;
      for (const sequences of stepsOf(stream.sequences)) {
        const numRows = numTokensOf(sequences);
        const rows = stream.rows.subarray(firstRow * config.hiddenSize, (firstRow + numRows) * config.hiddenSize);
        const inputSquares = new Float32Array(numInputsOf(piece.layers));
        const lengths = sequences.map(({ tokenIds, experts }) => ({ numTokens: tokenIds.length, experts }));
        piece.run(rows, lengths, { inputSquares });
        this.#add(inputSquares, piece.layers);
        firstRow += numRows;
      }
    } finally {
      await piece.close();
    }
    this.#nextLayer = to;
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
}

/** Counts the first layers that fit a piece, at least one. */
function numLayersOf(layers: readonly LayerDescription[], pieceBytes: number): number {
  let bytes = 0;
  const end = layers.findIndex((layer) => (bytes += bytesOfLayer(layer)) > pieceBytes);
  return end === -1 ? layers.length : Math.max(1, end);
}

function numInputsOf(layers: readonly LayerDescription[]): number {
  return layers.flatMap((layer) => productsOf("", layer)).reduce((sum, [, numIn]) => sum + numIn, 0);
}

function bytesOfLayer(layer: LayerDescription): number {
  const { query, key, value, outputGate, attentionOutput, shared } = layer;
  const ffns = shared ? [shared, ...expertsOf(layer)] : expertsOf(layer);
  const products = [
    query,
    key,
    value,
    outputGate,
    attentionOutput,
    ...ffns.flatMap(({ gate, up, down }) => [gate, up, down]),
  ];
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
  return { sequences, rows };
}
