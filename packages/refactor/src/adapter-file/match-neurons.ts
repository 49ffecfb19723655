// Which of the dense model's neurons an expert's are: those whose rows are the same or, after tuning, nearest.

import { seededRandom } from "@readme-moe/core";

const PROJECTED = 24;
const CANDIDATES = 4;
const SEED = 1;

/** Neurons by what they multiply their inputs with. */
export interface Neurons {
  readonly count: number;
  readonly gate: Float32Array; // [count, hiddenSize]
  readonly up: Float32Array; // [count, hiddenSize]
}

/** A dense layer's neurons, ready to be found. */
export interface NeuronIndex {
  readonly dense: Neurons;
  readonly hiddenSize: number;
  readonly byStart: ReadonlyMap<string, readonly number[]>;
  /** Made when first needed. */
  readonly projected: () => Float32Array;
}

export function neuronIndex(dense: Neurons, hiddenSize: number): NeuronIndex {
  const byStart = new Map<string, number[]>();
  for (let neuron = 0; neuron < dense.count; neuron++) {
    const key = startOf(dense, neuron, hiddenSize);
    const known = byStart.get(key);
    if (known) known.push(neuron);
    else byStart.set(key, [neuron]);
  }
  let projected: Float32Array | undefined;
  return { dense, hiddenSize, byStart, projected: () => (projected ??= projections(dense, hiddenSize)) };
}

/**
 * @param expert - rows of another model of the same layer
 * @returns the dense neuron of each of the expert's; all different. `undefined` where there are more than dense ones
 */
export function matchNeurons(expert: Neurons, index: NeuronIndex): Int32Array | undefined {
  if (expert.count > index.dense.count) return undefined;
  const result = new Int32Array(expert.count).fill(-1);
  const taken = new Uint8Array(index.dense.count);
  const take = (neuron: number, dense: number): void => {
    result[neuron] = dense;
    taken[dense] = 1;
  };
  for (let neuron = 0; neuron < expert.count; neuron++) {
    const found = index.byStart
      .get(startOf(expert, neuron, index.hiddenSize))
      ?.find((dense) => taken[dense] === 0 && distance(expert, neuron, index, dense) === 0);
    if (found !== undefined) take(neuron, found);
  }
  const others = Array.from(result.keys()).filter((neuron) => result[neuron] === -1);
  if (others.length === 0) return result;
  const projected = projections(expert, index.hiddenSize);
  for (const neuron of others) take(neuron, nearest(expert, neuron, projected, index, taken));
  return result;
}

/** Of those that are free: the nearest of the few that look nearest in fewer dimensions. */
function nearest(
  expert: Neurons,
  neuron: number,
  projected: Float32Array,
  index: NeuronIndex,
  taken: Uint8Array,
): number {
  const own = projected.subarray(neuron * PROJECTED, (neuron + 1) * PROJECTED);
  const others = index.projected();
  const best: { readonly dense: number; readonly square: number }[] = [];
  for (let dense = 0; dense < index.dense.count; dense++) {
    if (taken[dense] === 1) continue;
    let square = 0;
    for (let i = 0; i < PROJECTED; i++) square += ((own[i] as number) - (others[dense * PROJECTED + i] as number)) ** 2;
    if (best.length === CANDIDATES && square >= (best.at(-1)?.square as number)) continue;
    best.push({ dense, square });
    best.sort((a, b) => a.square - b.square);
    best.length = Math.min(best.length, CANDIDATES);
  }
  const exact = best.map(({ dense }) => ({ dense, square: distance(expert, neuron, index, dense) }));
  return exact.reduce((a, b) => (b.square < a.square ? b : a)).dense;
}

function startOf({ gate, up }: Neurons, neuron: number, hiddenSize: number): string {
  const at = neuron * hiddenSize;
  return `${gate[at]} ${gate[at + 1]} ${up[at]} ${up[at + 1]}`;
}

function distance(expert: Neurons, neuron: number, { dense, hiddenSize }: NeuronIndex, other: number): number {
  let sum = 0;
  for (const kind of ["gate", "up"] as const) {
    const [a, b] = [expert[kind], dense[kind]];
    for (let i = 0, x = neuron * hiddenSize, y = other * hiddenSize; i < hiddenSize; i++) {
      sum += ((a[x + i] as number) - (b[y + i] as number)) ** 2;
    }
  }
  return sum;
}

/** Random signs in place of coordinates, the same for all: near stays near. */
function projections({ count, gate, up }: Neurons, hiddenSize: number): Float32Array {
  const random = seededRandom(SEED);
  const signs = Float32Array.from({ length: 2 * hiddenSize * PROJECTED }, () => (random() < 0.5 ? -1 : 1));
  const result = new Float32Array(count * PROJECTED);
  for (let neuron = 0; neuron < count; neuron++) {
    const own = result.subarray(neuron * PROJECTED, (neuron + 1) * PROJECTED);
    for (const [part, rows] of [gate, up].entries()) {
      for (let i = 0; i < hiddenSize; i++) {
        const value = rows[neuron * hiddenSize + i] as number;
        const from = (part * hiddenSize + i) * PROJECTED;
        for (let k = 0; k < PROJECTED; k++) own[k] = (own[k] as number) + value * (signs[from + k] as number);
      }
    }
  }
  return result;
}
