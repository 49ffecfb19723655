// Units of experts in the packed file. A unit is one layer of one expert, one range of bytes.

import { expertsOf, type DecoderDescription, type ExpertDescription } from "../description.ts";
import { aligned, layOut, UNIT_BYTES } from "./packed-file.ts";
import type { PackedTensor } from "./block-types.ts";

/** A range of the packed file. */
export interface ByteRange {
  readonly start: number;
  readonly bytes: number;
}

/** All experts of a packed file. */
export interface ExpertUnits {
  /** Number of experts of each layer that has any. */
  readonly numExperts: number;
  /** Size of one unit, by layer, 0 in dense layers of a mixture; experts of a layer have the same size. */
  readonly layerBytes: readonly number[];
  /** Offset of the first unit, after the weights that all tokens share. */
  readonly fromByte: number;
  /** Returns the range of a unit. */
  rangeOf(layer: number, expert: number): ByteRange;
}

/**
 * Finds the units of a description whose layers all have experts that steps name, or of which some are mixtures and the
 * others dense.
 *
 * @throws {TypeError} for other descriptions
 */
export function expertUnits(description: DecoderDescription): ExpertUnits {
  const { layers } = description;
  const { places } = layOut(description);
  const mixtures = layers.flatMap(({ mixture }) => mixture ?? []);
  const counts = new Set(layers.map((layer) => expertsOf(layer).length).filter((count) => count > 0));
  const isEven =
    counts.size === 1 && layers.every(({ experts = [] }) => experts.length > 0 === (mixtures.length === 0));
  const [numExperts] = counts;
  if (!isEven || numExperts === undefined) {
    throw new TypeError("Expected a model with experts in every layer, or with mixtures of as many experts each");
  }
  const layerBytes = layers.map((layer) => {
    const [first] = expertsOf(layer);
    return first ? bytesOf(first) : 0;
  });
  const rangeOf = (layer: number, expert: number): ByteRange => {
    const experts = layers[layer] ? expertsOf(layers[layer]) : [];
    const place = experts[expert] && places.get(experts[expert].gate);
    if (!place) throw new RangeError(`Expected a layer and an expert that are there, got ${layer} and ${expert}`);
    return { start: place.weights * UNIT_BYTES, bytes: layerBytes[layer] ?? 0 };
  };
  const firstLayer = layers.findIndex((layer) => expertsOf(layer).length > 0);
  return { numExperts, layerBytes, fromByte: rangeOf(firstLayer, 0).start, rangeOf };
}

function bytesOf({ gate, up, down }: ExpertDescription): number {
  return [gate, up, down].reduce((sum, tensor) => sum + wholeBytes(tensor), 0);
}

function wholeBytes({ weightBytes, scaleBytes, biasBytes }: PackedTensor): number {
  return [weightBytes, scaleBytes, biasBytes].reduce((sum, bytes) => sum + aligned(bytes), 0);
}
