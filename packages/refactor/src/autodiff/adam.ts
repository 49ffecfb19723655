// AdamW with a learning rate schedule and gradient clipping.

/** Settings of AdamW, which applies weight decay apart from the gradient (Loshchilov and Hutter). */
export interface AdamOptions {
  readonly learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  /** Weight decay of each step, relative to the learning rate. */
  readonly weightDecay: number;
}

/** Rates of the means that all trainings use. */
export const ADAM = { beta1: 0.9, beta2: 0.98, epsilon: 1e-8 } as const;

/** Running means of gradients and of their squares, as long as their values; zeros at first. */
export interface AdamMoments {
  readonly first: Float32Array;
  readonly second: Float32Array;
}

export function zeroMoments(length: number): AdamMoments {
  return { first: new Float32Array(length), second: new Float32Array(length) };
}

/** Trained array and its moments. */
interface AdamState extends AdamMoments {
  readonly values: Float32Array;
  /** Number of the step, from 1. */
  readonly step: number;
}

/** Updates `values` and the moments in place. */
export function adamStep(
  { values, first, second, step }: AdamState,
  gradient: Float32Array,
  { learningRate, beta1, beta2, epsilon, weightDecay }: AdamOptions,
): void {
  const rate = learningRate / (1 - beta1 ** step);
  const secondBias = 1 / (1 - beta2 ** step);
  const kept = 1 - learningRate * weightDecay;
  for (let i = 0; i < values.length; i++) {
    const slope = gradient[i]!;
    const mean = first[i]! + (1 - beta1) * (slope - first[i]!);
    const square = second[i]! + (1 - beta2) * (slope * slope - second[i]!);
    first[i] = mean;
    second[i] = square;
    values[i] = values[i]! * kept - (rate * mean) / (Math.sqrt(square * secondBias) + epsilon);
  }
}

/** Trained table whose rows step apart from each other. */
interface AdamTable extends AdamMoments {
  readonly values: Float32Array;
  /** Steps of each row so far; counted up by `adamRows`. */
  readonly steps: Float32Array;
}

/** Gradients of some rows of a table. */
export interface RowGradients {
  readonly ids: Int32Array;
  /** `[ids, width]` */
  readonly gradient: Float32Array;
}

/**
 * Updates some rows of a table in place. Only the rows of a batch step, and each counts its own steps: a batch costs as
 * much as its rows, and rows of rare tokens do not drift with old momentum in between.
 */
export function adamRows(table: AdamTable, { ids, gradient }: RowGradients, options: AdamOptions): void {
  const { values, first, second, steps } = table;
  const width = values.length / steps.length;
  ids.forEach((id, index) => {
    const [from, to] = [id * width, (id + 1) * width];
    const step = steps[id]! + 1;
    steps[id] = step;
    const row = {
      values: values.subarray(from, to),
      first: first.subarray(from, to),
      second: second.subarray(from, to),
    };
    adamStep({ ...row, step }, gradient.subarray(index * width, (index + 1) * width), options);
  });
}

/**
 * Returns the share of the learning rate at a step: it rises linearly over the first `warmupSteps`, then falls along a
 * cosine to `floor` at the last step.
 *
 * @param step - from 0 to `steps - 1`
 */
export function learningRateShare(step: number, steps: number, warmupSteps: number, floor = 0): number {
  if (step < warmupSteps) return (step + 1) / warmupSteps;
  const progress = (step - warmupSteps) / Math.max(1, steps - warmupSteps);
  return floor + (1 - floor) * 0.5 * (1 + Math.cos(Math.PI * progress));
}

/**
 * Scales gradients in place by one common factor, so that their joint norm is at most `maxNorm`.
 *
 * @returns the norm before
 */
export function clipGradients(gradients: readonly Float32Array[], maxNorm: number): number {
  let squares = 0;
  for (const gradient of gradients) {
    for (let i = 0; i < gradient.length; i++) squares += gradient[i]! ** 2;
  }
  const norm = Math.sqrt(squares);
  if (norm <= maxNorm) return norm;
  const factor = maxNorm / norm;
  for (const gradient of gradients) {
    for (let i = 0; i < gradient.length; i++) gradient[i]! *= factor;
  }
  return norm;
}
