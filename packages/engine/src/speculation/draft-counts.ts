// Counts of drafts: of one sequence, and of all sequences of a request or an engine.

import type { DraftCounts, DraftsBySource, DraftSource, Usage } from "@readme-moe/core";

/** Counts of drafts, in total and by source. Plain data. */
export interface DraftTotals extends DraftCounts {
  readonly draftsBySource: DraftsBySource;
}

const SOURCES = ["prediction", "grammar", "context", "recycled", "model"] as const satisfies readonly DraftSource[];

export const NO_DRAFTS: DraftTotals = { draftedTokens: 0, acceptedDraftTokens: 0, draftsBySource: {} };

/** Counts a draft that has run. */
export function countDraft(totals: DraftTotals, source: DraftSource, counts: DraftCounts): DraftTotals {
  const draftsBySource = { ...totals.draftsBySource, [source]: sum(totals.draftsBySource[source], counts) };
  return { ...sum(totals, counts), draftsBySource };
}

/** Adds the drafts of sequences to totals, which may have other fields as well. */
export function addDrafts<Totals extends DraftTotals>(
  totals: Totals,
  sequences: Iterable<{ readonly drafts: DraftTotals }>,
): Totals {
  let all: DraftTotals = totals;
  for (const { drafts } of sequences) {
    if (drafts.draftedTokens === 0) continue;
    const draftsBySource = sumBySource(all.draftsBySource, drafts.draftsBySource);
    all = { ...sum(all, drafts), draftsBySource };
  }
  const { draftedTokens, acceptedDraftTokens, draftsBySource } = all;
  return { ...totals, draftedTokens, acceptedDraftTokens, draftsBySource };
}

/** Returns counts as usage and events give them. */
export function draftUsage(counts: DraftCounts): Pick<Usage, "acceptedDraftTokens" | "rejectedDraftTokens"> {
  const { draftedTokens, acceptedDraftTokens: accepted } = counts;
  return { acceptedDraftTokens: accepted, rejectedDraftTokens: draftedTokens - accepted };
}

function sum(a: DraftCounts = NO_DRAFTS, b: DraftCounts = NO_DRAFTS): DraftCounts {
  return {
    draftedTokens: a.draftedTokens + b.draftedTokens,
    acceptedDraftTokens: a.acceptedDraftTokens + b.acceptedDraftTokens,
  };
}

function sumBySource(a: DraftsBySource, b: DraftsBySource): DraftsBySource {
  const all: Partial<Record<DraftSource, DraftCounts>> = { ...a };
  for (const source of SOURCES) if (b[source]) all[source] = sum(a[source], b[source]);
  return all;
}
