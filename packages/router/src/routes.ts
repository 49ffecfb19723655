// Routes: from a router's logits to experts, and the statistics of the experts that were chosen.

import type { PreGatingRouter, RouterState } from "@readme-moe/core";

/**
 * Chooses the expert with the largest logit for each token; the lower index among equals.
 * @param logits - `[tokens, numExperts]`
 */
export function argmaxRoute(logits: Float32Array, numExperts: number): Uint16Array {
  return Uint16Array.from({ length: logits.length / numExperts }, (_, token) =>
    argmax(logits.subarray(token * numExperts, (token + 1) * numExperts)),
  );
}

/**
 * Keeps the previous token's expert unless another expert's logit is more than `margin` above it. Fewer changes of
 * expert mean fewer loads and larger batches, for a little quality. With `margin` 0 the choice is that of
 * `argmaxRoute`, except that the previous expert wins among equals.
 *
 * @param previous - expert of the token before the first one; `undefined` at the start of a sequence
 */
export function hystereticRoute(
  logits: Float32Array,
  numExperts: number,
  margin: number,
  previous: number | undefined,
): Uint16Array {
  let current = previous ?? -1;
  return Uint16Array.from({ length: logits.length / numExperts }, (_, token) => {
    const scores = logits.subarray(token * numExperts, (token + 1) * numExperts);
    const best = argmax(scores);
    const gain = (scores[best] ?? 0) - (scores[current] ?? 0);
    if (current < 0 || gain > margin) current = best;
    return current;
  });
}

function argmax(scores: Float32Array): number {
  let [best, most] = [0, -Infinity];
  for (const [index, score] of scores.entries()) if (score > most) [best, most] = [index, score];
  return best;
}

/** The inner router's state, and the experts of its tokens. */
class HystereticState implements RouterState {
  readonly inner: RouterState;
  readonly experts: number[] = [];

  constructor(inner: RouterState) {
    this.inner = inner;
  }

  get numTokens(): number {
    return this.inner.numTokens;
  }
}

/**
 * Wraps a router so that it keeps the previous expert unless another's logit is more than `margin` above it.
 *
 * @param margin - in logits, from 0
 * @throws {RangeError} if `margin` is negative or no number; when routing, if `router` returns no logits
 */
export function withHysteresis(router: PreGatingRouter, margin: number): PreGatingRouter {
  if (!(margin >= 0)) throw new RangeError(`Expected \`margin\` to be a number from 0 up, got \`${margin}\``);
  const { numExperts, chunkTokens } = router;
  return {
    numExperts,
    chunkTokens,
    start: () => new HystereticState(router.start()),
    async route(inputs) {
      const states = inputs.map(({ state }) => ownState(state));
      const inner = inputs.map(({ state, tokenIds }) => ({ state: ownState(state).inner, tokenIds }));
      const routes = await router.route(inner);
      return routes.map(({ logits, experts: plain }, index) => {
        if (logits.length !== plain.length * numExperts) {
          throw new RangeError("Expected a router with logits, hysteresis compares them");
        }
        const state = states[index];
        const experts = hystereticRoute(logits, numExperts, margin, state?.experts.at(-1));
        for (const expert of experts) state?.experts.push(expert);
        return { experts, logits };
      });
    },
    rewind:
      router.rewind &&
      ((state, numTokens) => {
        const own = ownState(state);
        router.rewind?.(own.inner, numTokens);
        own.experts.length = numTokens;
      }),
    release: (state) => router.release(ownState(state).inner),
    dispose: () => router.dispose(),
  };
}

function ownState(state: RouterState): HystereticState {
  if (state instanceof HystereticState) return state;
  throw new TypeError("Expected `state` to be made by this router's start()");
}

/** Statistics of a text's routes. */
export interface RouteStatistics {
  /** Share of tokens of each expert; the shares sum to 1. */
  readonly shares: readonly number[];
  /** Share of tokens that keep the expert of the token before, among those with one before; 1 if there are none. */
  readonly locality: number;
}

/** Computes the statistics of routes. @param routes - experts of each sequence's tokens */
export function routeStatistics(routes: readonly ArrayLike<number>[], numExperts: number): RouteStatistics {
  const counts = new Float64Array(numExperts);
  let [numTokens, numFollowing, numKept] = [0, 0, 0];
  for (const route of routes) {
    const experts = Array.from(route);
    for (const [token, expert] of experts.entries()) {
      counts[expert] = (counts[expert] ?? 0) + 1;
      if (token > 0 && expert === experts[token - 1]) numKept++;
    }
    numTokens += experts.length;
    numFollowing += Math.max(0, experts.length - 1);
  }
  return {
    shares: Array.from(counts, (count) => count / numTokens),
    locality: numFollowing > 0 ? numKept / numFollowing : 1,
  };
}
