/**
 * The share of the learning rate at a step: up in a line over the first `warmupSteps`, then down along a cosine to
 * `floor` at the last.
 * @param step - from 0 to `steps - 1`
 */
export function learningRateShare(step: number, steps: number, warmupSteps: number, floor = 0): number {
  if (step < warmupSteps) return (step + 1) / warmupSteps;
  const progress = (step - warmupSteps) / Math.max(1, steps - warmupSteps);
  return floor + (1 - floor) * 0.5 * (1 + Math.cos(Math.PI * progress));
}

/**
 * Shortens gradients in place, all by the same factor, to a common length of at most `maxNorm`.
 * @returns the length before
 */
export function clipGradients(gradients: readonly Float32Array[], maxNorm: number): number {
  let squares = 0;
  for (const gradient of gradients) {
    for (let i = 0; i < gradient.length; i++) squares += (gradient[i] as number) ** 2;
  }
  const norm = Math.sqrt(squares);
  if (norm <= maxNorm) return norm;
  for (const gradient of gradients) {
    for (let i = 0; i < gradient.length; i++) gradient[i] = (gradient[i] as number) * (maxNorm / norm);
  }
  return norm;
}
