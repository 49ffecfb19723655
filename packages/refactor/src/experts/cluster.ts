// Groups texts by the neurons that they use. Where kinds of text are mixed, the groups make better experts than the
// kinds.

import { topNeurons } from "./select.ts";

/** Energies of a text, `[layers][neurons]`: squared activations times the squared column norm, summed over tokens. */
export type NeuronEnergy = readonly Float32Array[];

export interface Clusters {
  /** Cluster of each text. */
  readonly assignment: readonly number[];
  /** Share of all energy that each text's own cluster keeps, from the first round on; it never falls. */
  readonly kept: readonly number[];
}

/** Neurons that a cluster keeps in each layer; `undefined` for a cluster without texts. */
type Masks = readonly Int32Array[] | undefined;

const MAX_ROUNDS = 20;

/**
 * Runs k-means with masks as means: a cluster keeps, in each layer, the `size` neurons with the most energy over its
 * texts, and a text joins the cluster that keeps most of its own energy. The result is never worse than the start.
 *
 * @param texts - energies of each text; scaled here to sum to 1 in every layer
 * @param initial - cluster of each text at the start, such as its kind
 */
export function clusterTexts(
  texts: readonly NeuronEnergy[],
  initial: readonly number[],
  { numClusters, size }: { readonly numClusters: number; readonly size: number },
): Clusters {
  const scaled = texts.map((layers) => layers.map(toShares));
  let assignment = fillClusters(scaled, initial, numClusters);
  const kept: number[] = [];
  for (let round = 0; ; round++) {
    const masks = Array.from({ length: numClusters }, (_, cluster) =>
      masksOf(
        scaled.filter((_text, index) => assignment[index] === cluster),
        size,
      ),
    );
    const shares = scaled.map((text) => masks.map((mask) => keptBy(text, mask)));
    const own = shares.map((row, index) => row[assignment[index] ?? 0] ?? 0);
    kept.push(mean(own));
    if (round === MAX_ROUNDS) break;
    const next = assignment.map((cluster, index) => {
      const row = shares[index] ?? [];
      const most = Math.max(...row);
      return most > (own[index] ?? 0) ? row.indexOf(most) : cluster;
    });
    if (next.every((cluster, index) => cluster === assignment[index])) break;
    assignment = next;
  }
  return { assignment, kept };
}

/** Starts each empty cluster with those texts of the largest cluster that it keeps least of. */
function fillClusters(
  texts: readonly NeuronEnergy[],
  initial: readonly number[],
  numClusters: number,
): readonly number[] {
  const assignment = initial.map((cluster) => cluster % numClusters);
  for (let cluster = 0; cluster < numClusters; cluster++) {
    const sizes = Array.from({ length: numClusters }, (_, one) => assignment.filter((own) => own === one).length);
    if (sizes[cluster] !== 0) continue;
    const largest = sizes.indexOf(Math.max(...sizes));
    const members = texts.flatMap((text, index) => (assignment[index] === largest ? [{ text, index }] : []));
    if (members.length < 2) break;
    const masks = masksOf(
      members.map(({ text }) => text),
      Math.ceil((texts[0]?.[0]?.length ?? 0) / 2),
    );
    const byFit = members.toSorted((a, b) => keptBy(a.text, masks) - keptBy(b.text, masks) || a.index - b.index);
    for (const { index } of byFit.slice(0, members.length >> 1)) assignment[index] = cluster;
  }
  return assignment;
}

function masksOf(texts: readonly NeuronEnergy[], size: number): Masks {
  const [first] = texts;
  return first?.map((energies, layer) => {
    const sums = new Float64Array(energies.length);
    for (const text of texts) text[layer]?.forEach((energy, neuron) => (sums[neuron]! += energy));
    return topNeurons(sums, size);
  });
}

/** Returns the mean over layers of the share that `masks` keep. */
function keptBy(text: NeuronEnergy, masks: Masks): number {
  if (masks === undefined) return 0;
  return mean(masks.map((neurons, layer) => neurons.reduce((sum, neuron) => sum + (text[layer]?.[neuron] ?? 0), 0)));
}

function toShares(energies: Float32Array): Float32Array {
  const sum = energies.reduce((total, energy) => total + energy, 0);
  return sum > 0 ? energies.map((energy) => energy / sum) : energies;
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
