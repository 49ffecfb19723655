import type { OverlapReport } from "./report.ts";

/**
 * Which share of their neurons experts have in common. Layers without expert neurons count as sharing all.
 *
 * @param layers - of each layer, each expert's neurons as rising indices; as many for all experts of a layer
 */
export function expertOverlap(layers: readonly (readonly Int32Array[])[]): OverlapReport {
  const matrices = layers.map((experts) => experts.map((one) => experts.map((other) => shareInCommon(one, other))));
  const first = matrices[0] ?? [];
  const mean = first.map((row, a) =>
    row.map((_, b) => matrices.reduce((sum, matrix) => sum + (matrix[a]?.[b] as number), 0) / matrices.length),
  );
  return { mean, layers: matrices };
}

function shareInCommon(one: Int32Array, other: Int32Array): number {
  if (one.length === 0) return 1;
  let common = 0;
  let place = 0;
  for (const neuron of one) {
    while (place < other.length && (other[place] as number) < neuron) place++;
    if (other[place] === neuron) common++;
  }
  return common / one.length;
}
