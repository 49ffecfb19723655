/**
 * Measures after a warm-up that is not counted, in which memory is allocated and code compiled.
 *
 * @param warmUp - runs before the first measurement; repeated before the next one when it fails
 */
export function afterWarmUp<Result>(
  warmUp: () => Promise<unknown>,
  measure: () => Promise<Result>,
): () => Promise<Result> {
  let isWarm = false;
  return async () => {
    if (!isWarm) await warmUp();
    isWarm = true;
    return measure();
  };
}
