// Statistics of a text that fitting needs: sums over tokens of neuron activations h and FFN targets t.

import type { Matrix } from "../linear-algebra/matrix.ts";

export interface Moments {
  count: number;
  /** Upper triangle of h hᵀ, row after row: `[neurons · (neurons + 1) / 2]`, see `rowStart`. */
  readonly gram: Float32Array;
  readonly cross: Float32Array; // h tᵀ, `[intermediateSize, hiddenSize]`
  readonly neuronSums: Float64Array;
  readonly targetSums: Float64Array;
  /** Sum of |t|². */
  targetSquares: number;
}

/** Returns the index at which a row of an upper triangle begins. */
export function rowStart(row: number, size: number): number {
  return (row * (2 * size - row + 1)) / 2;
}

export function emptyMoments(numNeurons: number, hiddenSize: number): Moments {
  return {
    count: 0,
    gram: new Float32Array(rowStart(numNeurons, numNeurons)),
    cross: new Float32Array(numNeurons * hiddenSize),
    neuronSums: new Float64Array(numNeurons),
    targetSums: new Float64Array(hiddenSize),
    targetSquares: 0,
  };
}

/** Moments of any precision, such as a batch's outputs of `momentsGraph`; those without `gram` add nothing to it. */
type MomentSums = {
  readonly [Name in Exclude<keyof Moments, "gram">]: Moments[Name] extends number ? number : Numbers;
} & {
  readonly gram?: Numbers;
};

export function addMoments(to: Moments, sums: MomentSums): void {
  to.count += sums.count;
  to.targetSquares += sums.targetSquares;
  for (const name of ["cross", "neuronSums", "targetSums"] as const) addInto(to[name], sums[name]);
  if (sums.gram) addInto(to.gram, sums.gram);
}

/** Adds up the moments of several texts. */
export function pooled(moments: readonly Moments[]): Moments {
  const [only] = moments;
  if (only && moments.length === 1) return only;
  const all = emptyMoments(only?.neuronSums.length ?? 0, only?.targetSums.length ?? 0);
  for (const one of moments) addMoments(all, one);
  return all;
}

type Numbers = Float32Array | Float64Array | Int32Array | Uint8Array;

/** Adds `values` to sums of the same length, element by element. */
export function addInto(to: Numbers, values: Numbers): void {
  for (let i = 0; i < to.length; i++) to[i]! += values[i]!;
}

/** Least squares with a bias. All moments are about the means, which the bias accounts for. */
export interface FitProblem {
  readonly gram: Matrix; // [neurons, neurons]
  readonly cross: Matrix; // [neurons, hiddenSize]
  readonly neuronMeans: Float64Array;
  readonly targetMeans: Float64Array;
  /** Mean of |t - its mean|². */
  readonly targetVariance: number;
  /** Variance of the layer's whole target, including what other neurons already produce; errors are relative to it. */
  readonly wholeVariance: number;
}

/**
 * Mixes an expert's own text with some text of all experts, which also lowers its error on unseen text of its own kind.
 *
 * @param ownShare - weight of `own`, from 0 to 1; `all` has the rest
 */
export function fitProblem(own: Moments, all: Moments, ownShare: number): FitProblem {
  const weights = [
    { of: own, weight: ownShare / own.count },
    { of: all, weight: (1 - ownShare) / all.count },
  ].filter(({ weight }) => weight > 0);
  const mix = (pick: (moments: Moments) => Float32Array | Float64Array, size: number): Float64Array => {
    const result = new Float64Array(size);
    for (const { of, weight } of weights) {
      const values = pick(of);
      for (let i = 0; i < size; i++) result[i]! += weight * values[i]!;
    }
    return result;
  };
  const numNeurons = own.neuronSums.length;
  const hiddenSize = own.targetSums.length;
  const neuronMeans = mix(({ neuronSums }) => neuronSums, numNeurons);
  const targetMeans = mix(({ targetSums }) => targetSums, hiddenSize);
  const cross = mix((moments) => moments.cross, numNeurons * hiddenSize);
  subtractOuter(cross, neuronMeans, targetMeans);
  const meanSquares = weights.reduce((sum, { of, weight }) => sum + weight * of.targetSquares, 0);
  const targetVariance = meanSquares - targetMeans.reduce((sum, mean) => sum + mean * mean, 0);
  return {
    gram: { rows: numNeurons, columns: numNeurons, data: covariances(weights, neuronMeans) },
    cross: { rows: numNeurons, columns: hiddenSize, data: cross },
    neuronMeans,
    targetMeans,
    targetVariance,
    wholeVariance: targetVariance,
  };
}

/** Mixes Gram matrices, and makes the whole symmetric matrix about the means of their upper triangles. */
function covariances(
  weights: readonly { readonly of: Moments; readonly weight: number }[],
  means: Float64Array,
): Float64Array {
  const size = means.length;
  const whole = new Float64Array(size * size);
  for (let row = 0; row < size; row++) {
    const start = rowStart(row, size) - row;
    for (let column = row; column < size; column++) {
      let value = -means[row]! * means[column]!;
      for (const { of, weight } of weights) value += weight * of.gram[start + column]!;
      whole[row * size + column] = value;
      whole[column * size + row] = value;
    }
  }
  return whole;
}

function subtractOuter(from: Float64Array, a: Float64Array, b: Float64Array): void {
  a.forEach((factor, i) => {
    const start = i * b.length;
    for (let j = 0; j < b.length; j++) from[start + j]! -= factor * b[j]!;
  });
}
