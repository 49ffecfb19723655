// From the router's logits to experts: pure functions over plain data.

/**
 * The expert with the largest logit of each token; the lower index among equals.
 * @param logits - `[tokens, numExperts]`
 */
export function argmaxRoute(logits: Float32Array, numExperts: number): Uint16Array {
  return Uint16Array.from({ length: logits.length / numExperts }, (_, token) =>
    argmax(logits.subarray(token * numExperts, (token + 1) * numExperts)),
  );
}

/**
 * Stays with the previous token's expert unless another's logit is more than `margin` above it: fewer changes of
 * expert, and so fewer loads and larger batches, for a little quality. `margin` 0 is the plain choice, except that
 * equals stay.
 *
 * @param previous - the expert before the first token; `undefined` at the start of a sequence
 */
export function hystereticRoute(
  logits: Float32Array,
  numExperts: number,
  margin: number,
  previous: number | undefined,
): Uint16Array {
  let current = previous;
  return Uint16Array.from({ length: logits.length / numExperts }, (_, token) => {
    const scores = logits.subarray(token * numExperts, (token + 1) * numExperts);
    const best = argmax(scores);
    const gain = current === undefined ? Infinity : (scores[best] as number) - (scores[current] as number);
    if (gain > margin) current = best;
    return current as number;
  });
}

function argmax(scores: Float32Array): number {
  let best = 0;
  for (let index = 1; index < scores.length; index++) {
    if ((scores[index] as number) > (scores[best] as number)) best = index;
  }
  return best;
}
