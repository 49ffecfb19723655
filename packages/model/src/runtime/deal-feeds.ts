import { runningSums, type Feeds } from "./attention-feeds.ts";
import type { GraphTensor } from "./session.ts";

/** Deals a step's tokens to their experts, as the graph's `ExpertDeal` takes it. @param sequences - in the order of their tokens */
export function dealFeeds(sequences: readonly { readonly experts: ArrayLike<number> }[], numExperts: number): Feeds {
  const tokens = tokensByExpert(sequences, numExperts);
  const feeds: Record<string, GraphTensor> = { ...rowsByExpert(tokens) };
  tokens.forEach((own, expert) => {
    feeds[`is_active.${expert}`] = { data: Uint8Array.of(own.length > 0 ? 1 : 0), dims: [1] };
  });
  return feeds;
}

/** The same for a graph that runs all experts: one without tokens gets the first one, whose result nobody takes. */
export function dealToAllFeeds(
  sequences: readonly { readonly experts: ArrayLike<number> }[],
  numExperts: number,
): Feeds {
  return rowsByExpert(tokensByExpert(sequences, numExperts), [0]);
}

function tokensByExpert(
  sequences: readonly { readonly experts: ArrayLike<number> }[],
  numExperts: number,
): readonly (readonly number[])[] {
  const tokens = Array.from({ length: numExperts }, (): number[] => []);
  let token = 0;
  for (const { experts } of sequences) {
    for (const expert of Array.from(experts)) tokens[expert]?.push(token++);
  }
  return tokens;
}

function rowsByExpert(tokens: readonly (readonly number[])[], insteadOfNone: readonly number[] = []): Feeds {
  const rows = tokens.map((own) => (own.length > 0 ? own : insteadOfNone));
  const firstRows = runningSums(rows.map(({ length }) => length));
  const inverse = new BigInt64Array(tokens.reduce((sum, { length }) => sum + length, 0));
  tokens.forEach((own, expert) =>
    own.forEach((token, place) => {
      inverse[token] = BigInt((firstRows[expert] as number) + place);
    }),
  );
  const feeds: Record<string, GraphTensor> = { inverse: { data: inverse, dims: [inverse.length] } };
  rows.forEach((own, expert) => {
    feeds[`expert_tokens.${expert}`] = { data: BigInt64Array.from(own, BigInt), dims: [own.length] };
  });
  return feeds;
}
