import type { PreGatingRouter } from "@readme-moe/core";

/**
 * The same router, which takes so many tokens in a call.
 *
 * @param calls - gets how many tokens each call had
 */
export function inChunks(
  router: PreGatingRouter,
  chunkTokens: number | undefined,
  calls: number[] = [],
): PreGatingRouter {
  return {
    numExperts: router.numExperts,
    chunkTokens,
    start: () => router.start(),
    route: (inputs) => {
      calls.push(inputs.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0));
      return router.route(inputs);
    },
    release: (state) => router.release(state),
    dispose: async () => undefined,
  };
}
