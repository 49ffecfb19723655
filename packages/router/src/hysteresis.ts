import type { PreGatingRouter, RouterState } from "@readme-moe/core";
import { hystereticRoute } from "./choose.ts";

/** The inner router's state, and the last token's expert. */
class HystereticState implements RouterState {
  readonly inner: RouterState;
  expert: number | undefined;

  constructor(inner: RouterState) {
    this.inner = inner;
  }

  get numTokens(): number {
    return this.inner.numTokens;
  }
}

/**
 * A router that stays with the previous expert unless another's logit is more than `margin` above it.
 *
 * @param margin - in logits, 0 and up
 * @throws {RangeError} when `margin` is negative or no number; later, when `router` gives no logits
 */
export function withHysteresis(router: PreGatingRouter, margin: number): PreGatingRouter {
  if (!(margin >= 0)) throw new RangeError(`Expected \`margin\` to be a number from 0 up, got \`${margin}\``);
  return {
    numExperts: router.numExperts,
    chunkTokens: router.chunkTokens,
    start: () => new HystereticState(router.start()),
    async route(inputs) {
      const states = inputs.map(({ state }) => ownState(state));
      const inner = inputs.map(({ tokenIds }, index) => ({
        state: (states[index] as HystereticState).inner,
        tokenIds,
      }));
      const routes = await router.route(inner);
      return routes.map(({ logits, experts: plain }, index) => {
        if (logits.length !== plain.length * router.numExperts) {
          throw new RangeError("Expected a router with logits, hysteresis compares them");
        }
        const state = states[index] as HystereticState;
        const experts = hystereticRoute(logits, router.numExperts, margin, state.expert);
        state.expert = experts.at(-1) ?? state.expert;
        return { experts, logits };
      });
    },
    release: (state) => router.release(ownState(state).inner),
    dispose: () => router.dispose(),
  };
}

function ownState(state: RouterState): HystereticState {
  if (state instanceof HystereticState) return state;
  throw new TypeError("Expected `state` to be made by this router's start()");
}
