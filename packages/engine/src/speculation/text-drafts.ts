// Drafts from what an engine has seen: earlier occurrences in the request's texts, and recycled candidates. What one of
// them says about a token changes the chance of the other's, so it is part of the class of evidence.

import type { Draft } from "@readme-moe/core";
import { CONTEXT_CLASSES, levelOf, type TokenIndex } from "./token-index.ts";
import { RECYCLED_CLASSES, type RecycledTokens } from "./recycled-tokens.ts";

/** The last two tokens of a sequence; the first is -1 if there is only one. */
export type LastTokens = readonly [before: number, last: number];

export interface TextDraftsInput {
  /** Texts of the request. */
  readonly index: TokenIndex;
  readonly recycled: RecycledTokens;
  readonly lastTokens: LastTokens;
  /** Largest number of tokens of a draft. */
  readonly mostTokens: number;
}

// From here on a recycled probability makes other tokens unlikely.
const LIKELY = 0.5;

/** Proposes at most one draft of each of the two sources, "context" first. */
export function proposeTextDrafts({ index, recycled, lastTokens, mostTokens }: TextDraftsInput): readonly Draft[] {
  const context = index.propose(mostTokens);
  const chain = recycled.propose(...lastTokens, mostTokens);
  const drafts: Draft[] = [];
  if (context) drafts.push(besideRecycled(context, recycled, lastTokens));
  if (chain) drafts.push(besideContext(chain, context));
  return drafts;
}

/** Adds to each class what the recycled candidates say about the token. */
function besideRecycled(context: Draft, recycled: RecycledTokens, lastTokens: LastTokens): Draft {
  let [before, last] = lastTokens;
  const classes = context.classes.map((evidence, at) => {
    const tokenId = context.tokenIds[at] ?? 0;
    const opinion = opinionOf(recycled, [before, last], tokenId);
    [before, last] = [last, tokenId];
    return evidence + CONTEXT_CLASSES * opinion;
  });
  return { ...context, classes };
}

/** Numbers what recycled candidates say about a token: nothing, the same or another, from weak to strong evidence. */
function opinionOf(recycled: RecycledTokens, lastTokens: LastTokens, tokenId: number): number {
  const next = recycled.likelyAfter(...lastTokens);
  if (!next) return 0;
  const strength = next.visits === 0 ? 0 : next.probability < LIKELY ? 1 : 2;
  return (next.tokenId === tokenId ? 1 : 4) + strength;
}

/** Adds to the class of the first token what the request's texts say about it. The others follow other texts. */
function besideContext(chain: Draft, context: Draft | undefined): Draft {
  if (!context) return chain;
  const [first = 0, ...others] = chain.classes;
  const isSame = chain.tokenIds[0] === context.tokenIds[0];
  const opinion = isSame ? 1 : 2 + levelOf(context.classes[0] ?? 0);
  return { ...chain, classes: [first + RECYCLED_CLASSES * opinion, ...others] };
}
