/**
 * Measures after a first run that does not count: memory is taken, and code compiled, before anything does.
 *
 * @param warmUp - before the first measurement only; one that fails is tried again at the next
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
