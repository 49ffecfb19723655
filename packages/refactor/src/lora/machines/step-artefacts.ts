// Parameters and gradients of a step, as artefacts and back.

import { arrayOf, type Artefact } from "../../tasks/artefact.ts";
import type { ShardGradients } from "../step-shards.ts";

/** Name of the loss among a shard's gradients; no parameter has it. */
const CROSS_ENTROPY = "crossEntropy";

export function gradientsArtefact({ crossEntropy, gradients }: ShardGradients): Artefact {
  return new Map<string, Float32Array | Float64Array>([[CROSS_ENTROPY, Float64Array.of(crossEntropy)], ...gradients]);
}

export function readGradients(artefact: Artefact): ShardGradients {
  const [crossEntropy = NaN] = arrayOf(artefact, CROSS_ENTROPY, "f64");
  const names = [...artefact.keys()].filter((name) => name !== CROSS_ENTROPY);
  return { crossEntropy, gradients: readValues(artefact, names) };
}

/** Reads arrays by name. @throws {TypeError} when one is not float32 */
export function readValues(
  artefact: Artefact,
  names: Iterable<string> = artefact.keys(),
): ReadonlyMap<string, Float32Array> {
  return new Map(Array.from(names, (name) => [name, arrayOf(artefact, name, "f32")]));
}
