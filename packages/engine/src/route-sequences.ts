import type { PreGatingRouter } from "@readme-moe/core";
import type { Sequence } from "./sequence.ts";

export interface RoutingListeners {
  readonly now: () => number;
  readonly onRouted: (sequence: Sequence, position: number, experts: Uint16Array, durationMs: number) => void;
  readonly onFailed: (sequence: Sequence, error: unknown) => void;
}

/** Experts of the tokens that have none yet, in one call for all sequences of a router. */
export async function routeSequences(
  sequences: readonly Sequence[],
  routerOf: ReadonlyMap<Sequence, PreGatingRouter>,
  { now, onRouted, onFailed }: RoutingListeners,
): Promise<void> {
  for (const router of new Set(sequences.map((sequence) => routerOf.get(sequence)))) {
    if (!router) continue;
    const members = sequences.filter((sequence) => routerOf.get(sequence) === router);
    const startMs = now();
    try {
      const inputs = members.map((sequence) => ({ state: sequence.routerState, tokenIds: sequence.unroutedIds }));
      const routes = await router.route(inputs);
      const durationMs = now() - startMs;
      members.forEach((sequence, index) => {
        const experts = routes[index]?.experts ?? new Uint16Array();
        const position = sequence.experts.length;
        for (const expert of experts) sequence.experts.push(expert);
        onRouted(sequence, position, experts, durationMs);
      });
    } catch (error) {
      for (const sequence of members) onFailed(sequence, error);
    }
  }
}
