import type { PreGatingRouter } from "@readme-moe/core";
import type { Sequence } from "./sequence.ts";

/** How sequences are routed, and who hears of it. */
export interface RoutingOptions {
  /** Whether a router takes at most its `chunkTokens`; the first sequences come first, and what is left waits for the next time. */
  readonly isInChunks: boolean;
  readonly now: () => number;
  readonly onRouted: (sequence: Sequence, position: number, experts: Uint16Array, durationMs: number) => void;
  readonly onFailed: (sequence: Sequence, error: unknown) => void;
}

/** Routes tokens that have no expert yet, in one call for all sequences of a router. */
export async function routeSequences(
  sequences: readonly Sequence[],
  routerOf: ReadonlyMap<Sequence, PreGatingRouter>,
  { isInChunks, now, onRouted, onFailed }: RoutingOptions,
): Promise<void> {
  for (const router of new Set(sequences.map((sequence) => routerOf.get(sequence)))) {
    if (!router) continue;
    const parts = partsOf(
      sequences.filter((sequence) => routerOf.get(sequence) === router),
      isInChunks ? router.chunkTokens : undefined,
    );
    const members = parts.map(({ sequence }) => sequence);
    const startMs = now();
    try {
      const routes = await router.route(
        parts.map(({ sequence, tokenIds }) => ({ state: sequence.routerState, tokenIds })),
      );
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

/** Takes the next tokens of sequences, `most` together; those that none are left for are not among them. */
function partsOf(sequences: readonly Sequence[], most = Infinity) {
  const parts: { readonly sequence: Sequence; readonly tokenIds: readonly number[] }[] = [];
  let left = most;
  for (const sequence of sequences) {
    if (left === 0) break;
    const tokenIds = sequence.unroutedIds(left);
    left -= tokenIds.length;
    parts.push({ sequence, tokenIds });
  }
  return parts;
}
