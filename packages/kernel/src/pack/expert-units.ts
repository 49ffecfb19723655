// Units of experts in the packed file. A unit is one layer of one expert, one range of bytes.

import type { DecoderDescription, ExpertDescription } from "../description.ts";
import { aligned, layOut, UNIT_BYTES } from "./packed-file.ts";
import type { PackedTensor } from "./packed-tensor.ts";

/** A range of the packed file. */
export interface ByteRange {
  readonly start: number;
  readonly bytes: number;
}

/** All experts of a packed file. */
export interface ExpertUnits {
  readonly numExperts: number;
  /** Size of one unit, by layer; experts of a layer have the same size. */
  readonly layerBytes: readonly number[];
  /** Offset of the first unit, after the weights that all tokens share. */
  readonly fromByte: number;
  /** Returns the range of a unit. */
  rangeOf(layer: number, expert: number): ByteRange;
}

/** Finds the units of a description whose layers all have experts. @throws {TypeError} for others */
export function expertUnits(description: DecoderDescription): ExpertUnits {
  const { numExperts = 1, layers } = description;
  const { places } = layOut(description);
  const layerBytes = layers.map(({ experts = [] }) => {
    const [first] = experts;
    if (!first) throw new TypeError("Expected a model with experts in every layer");
    return bytesOf(first);
  });
  const rangeOf = (layer: number, expert: number): ByteRange => {
    const gate = layers[layer]?.experts?.[expert]?.gate;
    const place = gate && places.get(gate);
    if (!place) throw new RangeError(`Expected a layer and an expert that are there, got ${layer} and ${expert}`);
    return { start: place.weights * UNIT_BYTES, bytes: layerBytes[layer] as number };
  };
  return { numExperts, layerBytes, fromByte: rangeOf(0, 0).start, rangeOf };
}

function bytesOf({ gate, up, down }: ExpertDescription): number {
  return [gate, up, down].reduce((sum, tensor) => sum + wholeBytes(tensor), 0);
}

function wholeBytes({ weightBytes, scaleBytes, biasBytes }: PackedTensor): number {
  return [weightBytes, scaleBytes, biasBytes].reduce((sum, bytes) => sum + aligned(bytes), 0);
}
