// Routers without a network.

import { integerOption, type PreGatingRouter, type RouterState } from "@readme-moe/core";

class CountedState implements RouterState {
  numTokens = 0;
}

/** Sends every token to one expert: for dense models (expert 0), and for callers who know the domain. */
export function fixedRouter(numExperts: number, expert: number): PreGatingRouter {
  integerOption("numExperts", numExperts, 1, 65_536);
  integerOption("expert", expert, 0, numExperts - 1);
  return ruleRouter(numExperts, () => expert);
}

/**
 * A router that is a function.
 * @param rule - gets a token's id and position, gives its expert in `[0, numExperts)`
 */
export function ruleRouter(numExperts: number, rule: (tokenId: number, position: number) => number): PreGatingRouter {
  integerOption("numExperts", numExperts, 1, 65_536);
  return {
    numExperts,
    start: () => new CountedState(),
    route: async (inputs) =>
      inputs.map(({ state, tokenIds }) => {
        if (!(state instanceof CountedState))
          throw new TypeError("Expected `state` to be made by this router's start()");
        const experts = Uint16Array.from({ length: tokenIds.length }, (_, index) =>
          integerOption("rule(…)", rule(tokenIds[index] as number, state.numTokens + index), 0, numExperts - 1),
        );
        state.numTokens += tokenIds.length;
        return { experts, logits: new Float32Array(0) };
      }),
    release: () => undefined,
    dispose: async () => undefined,
  };
}
