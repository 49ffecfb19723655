import type { Draft } from "@readme-moe/core";
import type { Sequence } from "../sequence.ts";

/**
 * Routes drafts, in one call for all sequences of a router. States hold the tokens of drafts afterwards, until
 * they are rewound.
 *
 * @returns the experts of each sequence's draft; none where the router has failed
 */
export async function routeDrafts(
  drafts: readonly { readonly sequence: Sequence; readonly draft: Draft }[],
): Promise<ReadonlyMap<Sequence, readonly number[]>> {
  const routes = new Map<Sequence, readonly number[]>();
  for (const router of new Set(drafts.map(({ sequence }) => sequence.router))) {
    const own = drafts.filter(({ sequence }) => sequence.router === router);
    try {
      const inputs = own.map(({ sequence, draft }) => ({ state: sequence.routerState, tokenIds: draft.tokenIds }));
      const routed = await router.route(inputs);
      for (const [index, { sequence }] of own.entries()) {
        routes.set(sequence, Array.from(routed[index]?.experts ?? []));
      }
    } catch {
      // The sequences go on without drafts. Their own tokens meet the router's failure, if it lasts.
    }
  }
  return routes;
}
