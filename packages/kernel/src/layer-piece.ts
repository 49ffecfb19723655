// A few layers of a model in a kernel of their own: rows of the residual stream go in and come out.

import { angleSetsOf, type DecoderDescription, expertsOf, type LayerDescription } from "./description.ts";
import type { Kernel, KernelPages, KernelSizes, LayerStates } from "./kernel.ts";
import type { KvPrecision } from "./kv/kv-shape.ts";
import { KV_PAGE_TOKENS } from "./kv/page-pool.ts";
import { type KernelChoice, openKernel } from "./open-kernel.ts";
import { packedFloats } from "./pack/pack-tables.ts";
import { fill, layOut, packedFile } from "./pack/packed-file.ts";
import { type Angles, anglesOf, encodeStep, type StepRows } from "./step-request.ts";

/** Sequence of rows, from its first position on. */
export interface PieceSequence {
  readonly numTokens: number;
  /** Expert of each token. @default 0 */
  readonly experts?: ArrayLike<number> | undefined;
}

/** Arrays for what a run computes on its way. */
export interface PieceStates extends Partial<Readonly<Record<Exclude<LayerStates, "stream">, Float32Array>>> {
  /** The stream without the outputs of the last layer's FFN, `[rows, hiddenSize]`. */
  readonly attended?: Float32Array | undefined;
  /** See `StepResults`. */
  readonly inputSquares?: Float32Array | undefined;
}

/** Options of `LayerPiece.open`. */
export interface PieceOptions extends KernelChoice, Omit<KernelSizes, "expertsFromByte"> {
  /** Range of the layers. */
  readonly from: number;
  readonly to: number;
  readonly kvPrecision: KvPrecision;
}

/** Open layers. Calls block their thread. */
export class LayerPiece {
  readonly layers: readonly LayerDescription[];
  readonly #kernel: Kernel;
  readonly #pages: KernelPages;

  private constructor(layers: readonly LayerDescription[], kernel: Kernel, pages: KernelPages) {
    this.layers = layers;
    this.#kernel = kernel;
    this.#pages = pages;
  }

  /** Packs layers of a model into memory. @param whole - the model that `config` is of */
  static async open(
    whole: DecoderDescription,
    config: Angles,
    { from, to, kvPrecision, ...sizes }: PieceOptions,
  ): Promise<LayerPiece> {
    const layers = whole.layers.slice(from, to);
    const description = describePiece(whole, layers);
    const bytes = await fill(new Uint8Array(layOut(description).numBytes), packedFile(description));
    const kernel = openKernel(bytes, sizes, sizes);
    try {
      for (const [place, set] of usedAngleSets(layers).entries()) {
        kernel.setAngles(place, 0, anglesOf(config, set, 0, sizes.maxPositions));
      }
      const numPages = sizes.maxRows + Math.ceil(sizes.maxPositions / KV_PAGE_TOKENS);
      return new LayerPiece(layers, kernel, kernel.openPages(numPages, kvPrecision));
    } catch (error) {
      await kernel.close();
      throw error;
    }
  }

  /**
   * Runs whole sequences through the layers, with at most `maxRows` rows together.
   *
   * @param rows - of the stream, one sequence after another, `[rows, hiddenSize]`; replaced by those behind the layers
   * @throws {RangeError} when rows and sequences do not fit
   */
  run(rows: Float32Array, sequences: readonly PieceSequence[], states: PieceStates = {}): void {
    const numRows = sequences.reduce((sum, { numTokens }) => sum + numTokens, 0);
    const results = {
      candidateIds: new Int32Array(numRows),
      logits: new Float32Array(2 * numRows),
      sums: new Float64Array(2 * numRows),
      fullLogits: new Float32Array(0),
      inputSquares: states.inputSquares,
    };
    const kernel = this.#kernel;
    kernel.beginStep(this.#pages, encodeStep(stepRows(sequences), 1), results);
    kernel.writeStream(rows);
    kernel.runLayers(0, this.layers.length);
    if (states.attended) kernel.readStates("stream", states.attended);
    if (states.update) kernel.readStates("update", states.update);
    if (states.gated) kernel.readStates("gated", states.gated);
    kernel.endStep();
    kernel.readStates("stream", rows);
  }

  /** Frees the memory. */
  async close(): Promise<void> {
    this.#pages.close();
    await this.#kernel.close();
  }
}

/** Lists a layer's products with the lengths of their inputs, in the order of `StepResults.inputSquares`. */
export function productsOf(
  name: string,
  layer: LayerDescription,
): readonly (readonly [product: string, numIn: number])[] {
  const { query, latent, attentionOutput, shared } = layer;
  const hiddenSize = (latent?.queryLow ?? query).numIn;
  const ofExperts = expertsOf(layer).flatMap(({ down }, expert): [string, number][] => [
    [`${name}.ffn.${expert}`, hiddenSize],
    [`${name}.ffn.${expert}.down`, down.numIn],
  ]);
  return [
    [`${name}.attention.qkv`, hiddenSize],
    [`${name}.attention.output`, attentionOutput.numIn],
    [`${name}.ffn`, hiddenSize],
    ...(shared ? [[`${name}.ffn.down`, shared.down.numIn] as const] : []),
    ...ofExperts,
  ];
}

/** Lists the sets of angles that layers use. A piece numbers them anew, by their place in this list. */
function usedAngleSets(layers: readonly LayerDescription[]): readonly number[] {
  return Array.from(new Set(layers.flatMap(angleSetsOf))).sort((a, b) => a - b);
}

/** Describes layers as a model with one token, whose embedding and logit mean nothing. */
function describePiece(whole: DecoderDescription, layers: readonly LayerDescription[]): DecoderDescription {
  const { hiddenSize } = whole;
  const angleSets = usedAngleSets(layers);
  const numbered = (set: number | undefined): number | undefined =>
    set === undefined ? undefined : angleSets.indexOf(set);
  const noFloats = { numOut: 1, numIn: hiddenSize, weightBytes: hiddenSize * 4 };
  return {
    ...whole,
    vocabSize: 1,
    numLogits: undefined,
    embeddingScale: 1,
    logitScale: 1,
    embedding: packedFloats("float-table", noFloats, async function* () {
      yield new Uint8Array(noFloats.weightBytes);
    }),
    layers: layers.map((layer) => ({
      ...layer,
      angleSet: numbered(layer.angleSet),
      queryAngleSet: numbered(layer.queryAngleSet),
    })),
    finalNorm: undefined,
    head: undefined,
  };
}

/** Makes the rows of a step. All logits are wanted, so that the last layer is computed for all rows. */
function stepRows(sequences: readonly PieceSequence[]): StepRows[] {
  let page = 0;
  return sequences.map(({ numTokens, experts }): StepRows => {
    const numPages = Math.ceil(numTokens / KV_PAGE_TOKENS);
    const tokenIds = new Int32Array(numTokens);
    const pages = Array.from({ length: numPages }, () => page++);
    return { tokenIds, experts, position: 0, pages, logitsOf: Array.from(tokenIds.keys()) };
  });
}
