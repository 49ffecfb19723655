import type { Matrix } from "../linear-algebra/matrix.ts";

/**
 * Sums over tokens of what a layer's neurons do (`h`, `[intermediateSize]`) and of what its FFN should put out (`t`,
 * `[hiddenSize]`): all that fitting needs to know of a text.
 */
export interface Moments {
  count: number;
  /** h hᵀ on the diagonal and right of it, row after row: `[neurons · (neurons + 1) / 2]`, see `rowStart`. */
  readonly gram: Float32Array;
  readonly cross: Float32Array; // h tᵀ, `[intermediateSize, hiddenSize]`
  readonly neuronSums: Float64Array;
  readonly targetSums: Float64Array;
  /** Of |t|². */
  targetSquares: number;
}

/** Where a row of a matrix without what is left of its diagonal begins. */
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

/** What a graph of `momentsGraph` gives of a batch. */
export interface MomentSums {
  readonly count: number;
  readonly gram: Float32Array;
  readonly cross: Float32Array;
  readonly neuronSums: Float32Array;
  readonly targetSums: Float32Array;
  readonly targetSquares: number;
}

export function addMoments(to: Moments, sums: MomentSums | Moments): void {
  to.count += sums.count;
  addInto(to.gram, sums.gram);
  addInto(to.cross, sums.cross);
  addInto(to.neuronSums, sums.neuronSums);
  addInto(to.targetSums, sums.targetSums);
  to.targetSquares += sums.targetSquares;
}

/** Number by number, to sums of the same length. */
export function addInto(to: Float32Array | Float64Array, values: Float32Array | Float64Array): void {
  for (let i = 0; i < to.length; i++) to[i] = (to[i] as number) + (values[i] as number);
}

/** Least squares with a bias: all moments are about the means, which the bias takes care of. */
export interface FitProblem {
  readonly gram: Matrix; // [neurons, neurons]
  readonly cross: Matrix; // [neurons, hiddenSize]
  readonly neuronMeans: Float64Array;
  readonly targetMeans: Float64Array;
  /** Mean of |t - its mean|². */
  readonly targetVariance: number;
  /** The same of the layer's whole target, where other neurons already put out a part: what errors are relative to. */
  readonly wholeVariance: number;
}

/**
 * An expert's problem: mostly its own text, and some of everybody's, which makes it better on its own unseen text, too.
 *
 * @param ownShare - the weight of `own`, from 0 to 1; the rest is `all`'s
 */
export function fitProblem(own: Moments, all: Moments, ownShare: number): FitProblem {
  const weights = [
    { of: own, weight: ownShare / own.count },
    { of: all, weight: (1 - ownShare) / all.count },
  ].filter(({ weight }) => weight > 0);
  const mix = (pick: (moments: Moments) => ArrayLike<number>, size: number): Float64Array => {
    const result = new Float64Array(size);
    for (const { of, weight } of weights) {
      const values = pick(of);
      for (let i = 0; i < size; i++) result[i] = (result[i] as number) + weight * (values[i] as number);
    }
    return result;
  };
  const numNeurons = own.neuronSums.length;
  const hiddenSize = own.targetSums.length;
  const neuronMeans = mix(({ neuronSums }) => neuronSums, numNeurons);
  const targetMeans = mix(({ targetSums }) => targetSums, hiddenSize);
  const gram = wholeGram(
    mix((moments) => moments.gram, own.gram.length),
    numNeurons,
  );
  const cross = mix((moments) => moments.cross, numNeurons * hiddenSize);
  subtractOuter(gram, neuronMeans, neuronMeans);
  subtractOuter(cross, neuronMeans, targetMeans);
  const meanSquares = weights.reduce((sum, { of, weight }) => sum + weight * of.targetSquares, 0);
  const targetVariance = meanSquares - targetMeans.reduce((sum, mean) => sum + mean * mean, 0);
  return {
    gram: { rows: numNeurons, columns: numNeurons, data: gram },
    cross: { rows: numNeurons, columns: hiddenSize, data: cross },
    neuronMeans,
    targetMeans,
    targetVariance,
    wholeVariance: targetVariance,
  };
}

/** Also what is left of the diagonal. */
function wholeGram(half: Float64Array, size: number): Float64Array {
  const whole = new Float64Array(size * size);
  for (let row = 0; row < size; row++) {
    const start = rowStart(row, size) - row;
    for (let column = row; column < size; column++) {
      const value = half[start + column] as number;
      whole[row * size + column] = value;
      whole[column * size + row] = value;
    }
  }
  return whole;
}

/** Of a Gram matrix as in `Moments`. */
export function diagonalOf(half: Float32Array, size: number): Float64Array {
  return Float64Array.from({ length: size }, (_, row) => half[rowStart(row, size)] as number);
}

function subtractOuter(from: Float64Array, a: Float64Array, b: Float64Array): void {
  for (let i = 0; i < a.length; i++) {
    const factor = a[i] as number;
    const start = i * b.length;
    for (let j = 0; j < b.length; j++) from[start + j] = (from[start + j] as number) - factor * (b[j] as number);
  }
}
