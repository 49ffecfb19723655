/** How AdamW steps: weight decay apart from the gradient (Loshchilov and Hutter). */
export interface AdamOptions {
  readonly learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  /** Per step, of the learning rate. */
  readonly weightDecay: number;
}

/** Running means of gradients and their squares, as long as the values that they belong to; zeros at first. */
export interface AdamMoments {
  readonly first: Float32Array;
  readonly second: Float32Array;
}

/** Updates `values` in place. @param step - counts from 1 */
export function adamStep(
  values: Float32Array,
  gradient: Float32Array,
  { first, second }: AdamMoments,
  step: number,
  { learningRate, beta1, beta2, epsilon, weightDecay }: AdamOptions,
): void {
  const rate = learningRate / (1 - beta1 ** step);
  const secondBias = 1 / (1 - beta2 ** step);
  const kept = 1 - learningRate * weightDecay;
  for (let i = 0; i < values.length; i++) {
    const slope = gradient[i] as number;
    const mean = (first[i] as number) + (1 - beta1) * (slope - (first[i] as number));
    const square = (second[i] as number) + (1 - beta2) * (slope * slope - (second[i] as number));
    first[i] = mean;
    second[i] = square;
    values[i] = (values[i] as number) * kept - (rate * mean) / (Math.sqrt(square * secondBias) + epsilon);
  }
}

/**
 * Updates the rows `ids` of a table in place. A row steps only when a batch touches it, and counts its own steps, so
 * that a batch costs as much as the rows it has: rows of rare tokens do not drift with old momentum in between.
 *
 * @param gradient - `[ids, width]`
 * @param steps - how often each row of the table was updated; counted up here
 */
export function adamRows(
  table: Float32Array,
  ids: Int32Array,
  gradient: Float32Array,
  moments: AdamMoments,
  steps: Float32Array,
  options: AdamOptions,
): void {
  const width = table.length / steps.length;
  ids.forEach((id, index) => {
    const [from, to] = [id * width, (id + 1) * width];
    const own = { first: moments.first.subarray(from, to), second: moments.second.subarray(from, to) };
    const slope = gradient.subarray(index * width, (index + 1) * width);
    const step = (steps[id] as number) + 1;
    steps[id] = step;
    adamStep(table.subarray(from, to), slope, own, step, options);
  });
}
