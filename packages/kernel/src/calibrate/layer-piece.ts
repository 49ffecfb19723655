// A few layers as a separate model, whose "tokens" are rows of the residual stream and whose "logits" are its outputs.

import type { DecoderDescription, LayerDescription } from "../description.ts";
import { packedFloats, packIdentity } from "../pack/pack-identity.ts";
import { bytesOf, type PackedTensor } from "../pack/packed-tensor.ts";

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
    head: packIdentity(vocabSize, hiddenSize),
  };
}

function streamTable(stream: Float32Array, numOut: number, numIn: number): PackedTensor {
  return packedFloats("float-table", { numOut, numIn, weightBytes: numOut * numIn * 4 }, async function* () {
    yield bytesOf(stream);
    yield new Uint8Array((numOut * numIn - stream.length) * 4);
  });
}
