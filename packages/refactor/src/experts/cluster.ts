// Groups of texts by the neurons that they need: better experts than kinds of text, where kinds are mixed.

import { topNeurons } from "./select.ts";

/** What a text's tokens put out in each neuron: squares of activation times column norm, of all layers, `[layers][neurons]`. */
export type NeuronEnergy = readonly Float32Array[];

export interface Clusters {
  /** Of each text. */
  readonly assignment: readonly number[];
  /** Share of all energy that each text's own cluster keeps, from the start on; it never falls. */
  readonly kept: readonly number[];
}

/**
 * k-means with masks for means: a cluster keeps, in each layer, the `size` neurons with the most energy over its texts, and
 * a text goes to the cluster that keeps most of its own. Never worse than it began.
 *
 * @param texts - each layer's energies of each text; they are scaled to sum to 1 in every layer
 * @param initial - cluster of each text, such as its kind
 */
export function clusterTexts(
  texts: readonly NeuronEnergy[],
  initial: readonly number[],
  numClusters: number,
  size: number,
  maxRounds = 20,
): Clusters {
  const scaled = texts.map((layers) => layers.map(toShares));
  let assignment = spread(scaled, initial, numClusters);
  const kept: number[] = [];
  for (let round = 0; ; round++) {
    const masks = Array.from({ length: numClusters }, (_, cluster) =>
      masksOf(
        scaled.filter((_text, index) => assignment[index] === cluster),
        size,
      ),
    );
    kept.push(mean(scaled.map((text, index) => keptBy(text, masks[assignment[index] as number]))));
    if (round === maxRounds) break;
    const next = scaled.map((text, index) => {
      const shares = masks.map((mask) => keptBy(text, mask));
      const own = assignment[index] as number;
      const best = shares.indexOf(Math.max(...shares));
      return (shares[best] as number) > (shares[own] as number) ? best : own;
    });
    if (next.every((cluster, index) => cluster === assignment[index])) break;
    assignment = next;
  }
  return { assignment, kept };
}

/** More clusters than there are at first: the texts that the largest one keeps least of begin another. */
function spread(texts: readonly NeuronEnergy[], initial: readonly number[], numClusters: number): readonly number[] {
  const assignment = initial.map((cluster) => cluster % numClusters);
  const sizeOf = (cluster: number): number => assignment.filter((own) => own === cluster).length;
  for (let cluster = 0; cluster < numClusters; cluster++) {
    if (sizeOf(cluster) > 0) continue;
    const largest = Array.from({ length: numClusters }, (_, other) => sizeOf(other));
    const from = largest.indexOf(Math.max(...largest));
    const members = assignment.flatMap((own, index) => (own === from ? [index] : []));
    if (members.length < 2) break;
    const masks = masksOf(
      members.map((index) => texts[index] as NeuronEnergy),
      Math.ceil((texts[0]?.[0]?.length ?? 0) / 2),
    );
    const byFit = members.toSorted(
      (a, b) => keptBy(texts[a] as NeuronEnergy, masks) - keptBy(texts[b] as NeuronEnergy, masks) || a - b,
    );
    for (const index of byFit.slice(0, members.length >> 1)) assignment[index] = cluster;
  }
  return assignment;
}

function masksOf(texts: readonly NeuronEnergy[], size: number): readonly Int32Array[] | undefined {
  const [first] = texts;
  return first?.map((energies, layer) => {
    const sums = new Float64Array(energies.length);
    for (const text of texts)
      text[layer]?.forEach((energy, neuron) => (sums[neuron] = (sums[neuron] as number) + energy));
    return topNeurons(sums, size);
  });
}

/** Mean over layers of the share that `masks` keep; nothing where a cluster has no text. */
function keptBy(text: NeuronEnergy, masks: readonly Int32Array[] | undefined): number {
  if (masks === undefined) return 0;
  return mean(
    masks.map((neurons, layer) => neurons.reduce((sum, neuron) => sum + (text[layer]?.[neuron] as number), 0)),
  );
}

function toShares(energies: Float32Array): Float32Array {
  const sum = energies.reduce((total, energy) => total + energy, 0);
  return sum > 0 ? energies.map((energy) => energy / sum) : energies;
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
