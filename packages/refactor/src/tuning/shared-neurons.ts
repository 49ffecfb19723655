// Neurons of the dense model that experts have in common. They have one change that the tokens of all experts train.

import { matchNeurons } from "../delta/neurons.ts";
import { matrix } from "../linear-algebra/matrix.ts";
import { Products } from "../linear-algebra/products.ts";
import type { DecoderWeights, Weight } from "./decoder/decoder-weights.ts";

/** The dense model's neuron of each row of the experts, `[layers][experts]`. */
export type ExpertNeurons = readonly (readonly Int32Array[])[];

const GATE = "expert.gate.weight";

/**
 * Finds the dense neuron of each row. Rows may have been tuned before: they differ from their own neuron far less than
 * from all others.
 *
 * @throws {RangeError} for experts that are wider than the dense FFN
 */
export async function findExpertNeurons(
  { student, teacher }: { readonly student: DecoderWeights; readonly teacher: DecoderWeights },
  { threads, signal }: { readonly threads?: number | undefined; readonly signal?: AbortSignal | undefined },
): Promise<ExpertNeurons> {
  const products = await Products.open(threads);
  try {
    const layers: Int32Array[][] = [];
    for (const [index, { experts }] of student.layers.entries()) {
      const dense = matrixOf(teacher.layers[index]!.experts[0]!.get(GATE)!);
      const own: Int32Array[] = [];
      for (const expert of experts) {
        signal?.throwIfAborted();
        const neurons = await matchNeurons(products, matrixOf(expert.get(GATE)!), dense);
        if (!neurons) throw new RangeError(`Expected experts of at most ${dense.rows} neurons, got wider ones`);
        own.push(neurons);
      }
      layers.push(own);
    }
    return layers;
  } finally {
    await products.dispose();
  }
}

/** Returns the share of the experts' rows whose neuron another expert of the layer has, too. */
export function shareInCommon(neurons: ExpertNeurons): number {
  let [common, all] = [0, 0];
  for (const experts of neurons) {
    const counts = new Map<number, number>();
    for (const own of experts) for (const neuron of own) counts.set(neuron, (counts.get(neuron) ?? 0) + 1);
    for (const own of experts) {
      all += own.length;
      common += own.filter((neuron) => counts.get(neuron)! > 1).length;
    }
  }
  return common / all;
}

function matrixOf({ shape: [rows = 0, columns = 0], values }: Weight): ReturnType<typeof matrix> {
  return matrix(rows, columns, values);
}
