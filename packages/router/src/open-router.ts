// The routers that a caller can choose: the model's own, one expert for every token, or a rule.

import { expertIndex, integerOption, ReadMeError, type PreGatingRouter, type RouterState } from "@readme-moe/core";
import type { PromptModel } from "@readme-moe/model";
import { KernelRouter, type RouterOptions } from "./kernel-router.ts";

/** A choice of router: the model's own router, or one expert for every token, by name or index. */
export type ExpertChoice = "router" | (string & {}) | number;

/**
 * Opens a router.
 *
 * @param choice - @default the model's router if it has one, its expert if it has only one
 * @throws {RangeError} if there is no such expert; lists the experts
 * @throws {ReadMeError} `ERR_MODEL_INVALID` if the router is chosen or needed, and the model has none
 */
export async function openRouter(
  model: Pick<PromptModel, "path" | "experts" | "router" | "fingerprint">,
  choice?: ExpertChoice,
  options: RouterOptions = {},
): Promise<PreGatingRouter> {
  const { names } = model.experts;
  if (choice !== undefined && choice !== "router") return fixedRouter(names.length, expertIndex(names, choice));
  if (model.router) return KernelRouter.open(model, options);
  if (choice === undefined && names.length === 1) return fixedRouter(1, 0);
  const message = `${model.path}: has no router; choose one of its experts (${names.join(", ")})`;
  throw new ReadMeError("ERR_MODEL_INVALID", message);
}

/** Creates a router that sends every token to one expert: for dense models (expert 0), or if the domain is known. */
export function fixedRouter(numExperts: number, expert: number): PreGatingRouter {
  integerOption("numExperts", numExperts, 1, 65_536);
  integerOption("expert", expert, 0, numExperts - 1);
  return ruleRouter(numExperts, () => expert);
}

class CountedState implements RouterState {
  numTokens = 0;
}

/**
 * Creates a router from a function.
 * @param rule - returns the expert, in `[0, numExperts)`, of a token with this id at this position
 */
export function ruleRouter(numExperts: number, rule: (tokenId: number, position: number) => number): PreGatingRouter {
  integerOption("numExperts", numExperts, 1, 65_536);
  return {
    numExperts,
    start: () => new CountedState(),
    route: async (inputs) =>
      inputs.map(({ state, tokenIds }) => {
        if (!(state instanceof CountedState)) {
          throw new TypeError("Expected `state` to be made by this router's start()");
        }
        const experts = Uint16Array.from(tokenIds, (tokenId, index) =>
          integerOption("rule(…)", rule(tokenId, state.numTokens + index), 0, numExperts - 1),
        );
        state.numTokens += tokenIds.length;
        return { experts, logits: new Float32Array(0) };
      }),
    rewind: (state, numTokens) => {
      if (!(state instanceof CountedState)) throw new TypeError("Expected `state` to be made by this router's start()");
      state.numTokens = integerOption("numTokens", numTokens, 0, state.numTokens);
    },
    release: () => undefined,
    dispose: async () => undefined,
  };
}

/** Chooses the experts of whole sequences, in one call. @param sequences - token ids, at least one each */
export async function routeWhole(
  router: PreGatingRouter,
  sequences: readonly ArrayLike<number>[],
): Promise<readonly Uint16Array[]> {
  const inputs = sequences.map((tokenIds) => ({ state: router.start(), tokenIds }));
  try {
    return (await router.route(inputs)).map(({ experts }) => experts);
  } finally {
    for (const { state } of inputs) router.release(state);
  }
}
