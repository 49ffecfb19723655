// A few layers as a separate model, whose "tokens" are rows of the residual stream and whose "logits" are its outputs.

import type { DecoderDescription, LayerDescription } from "../description.ts";
import { bytesOf, nothing, PANEL, wholePanels, type PackedTensor } from "../pack/packed-tensor.ts";

/** Lists the sets of angles that layers use. A piece numbers them anew, by their place in this list. */
export function angleSetsOf(layers: readonly LayerDescription[]): readonly number[] {
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
export function describePiece(
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
    head: identity(vocabSize, hiddenSize),
  };
}

function streamTable(stream: Float32Array, numOut: number, numIn: number): PackedTensor {
  return floats("float-table", { numOut, numIn, weightBytes: numOut * numIn * 4 }, async function* () {
    yield bytesOf(stream);
    yield new Uint8Array((numOut * numIn - stream.length) * 4);
  });
}

/** Makes a product that copies each input to the output of the same number; further outputs are 0. */
function identity(numOut: number, numIn: number): PackedTensor {
  const weightBytes = wholePanels(numOut) * PANEL * numIn * 4;
  return floats("float", { numOut, numIn, weightBytes }, async function* () {
    for (let panel = 0; panel < wholePanels(numOut); panel++) {
      const packed = new Float32Array(numIn * PANEL);
      for (let i = panel * PANEL; i < Math.min(numIn, (panel + 1) * PANEL); i++) packed[i * PANEL + (i % PANEL)] = 1;
      yield bytesOf(packed);
    }
  });
}

function floats(
  format: "float-table" | "float",
  sizes: Pick<PackedTensor, "numOut" | "numIn" | "weightBytes">,
  weights: () => AsyncIterable<Uint8Array>,
): PackedTensor {
  return {
    format,
    ...sizes,
    scaleBytes: 0,
    biasBytes: 0,
    block: 32,
    hasMinimums: false,
    parts: () => ({ weights, scales: nothing, bias: nothing }),
  };
}
