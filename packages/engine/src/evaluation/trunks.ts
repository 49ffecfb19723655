// Passages with a common beginning, such as a question with each of its answers, form a tree: a trunk that runs once
// and branches that continue from it.

import { checkPassage, type Passage } from "./passages.ts";

/** A row of logits that is wanted. */
interface WantedRow {
  /** Position of the token that the logits belong to, in its passage. */
  readonly position: number;
  /** The token that is to be predicted. */
  readonly target: number;
  /** Index of the passage that the log-probability belongs to. */
  readonly passage: number;
  /** Index of the log-probability in the passage's `logProbs`. */
  readonly place: number;
}

/** Tokens `[start, start + tokenIds.length)` of a passage. */
export interface Piece {
  readonly start: number;
  readonly tokenIds: Int32Array;
  /** Rows in the order of positions; a position may occur more than once. */
  readonly rows: readonly WantedRow[];
  /** Index of a passage that contains these tokens, and so knows their experts. */
  readonly passage: number;
}

export interface Tree {
  readonly trunk: Piece;
  /** Each continues from the end of the trunk. */
  readonly branches: readonly Piece[];
  readonly numPassages: number;
}

// A branch is a run of its own, which takes about as long as this many more tokens in a large run.
const BRANCH_COST_TOKENS = 16;

/**
 * Forms trees: one for a group whose common beginning is long enough to be worth it, otherwise one for each passage. A
 * passage's last token is in no piece, since nothing is predicted from it.
 *
 * @param first - index of the group's first passage among all passages
 */
export function treesOf(group: readonly Passage[], first: number): readonly Tree[] {
  for (const passage of group) checkPassage(passage);
  const common = commonLength(group);
  const isWorthIt = (group.length - 1) * common > group.length * BRANCH_COST_TOKENS;
  if (!isWorthIt) return group.map((passage, index) => treeOf([passage], first + index, passage.tokenIds.length - 1));
  return [treeOf(group, first, common)];
}

function treeOf(group: readonly Passage[], first: number, trunkLength: number): Tree {
  const rows = group.map((passage, index) => wantedRows(passage, first + index));
  const tokenIds = group[0]?.tokenIds ?? new Int32Array();
  const inTrunk = rows.flat().filter(({ position }) => position < trunkLength);
  return {
    numPassages: group.length,
    trunk: {
      start: 0,
      tokenIds: tokenIds.subarray(0, trunkLength),
      rows: inTrunk.toSorted((a, b) => a.position - b.position),
      passage: first,
    },
    branches: group.flatMap((passage, index) => {
      if (passage.tokenIds.length - 1 === trunkLength) return [];
      return {
        start: trunkLength,
        tokenIds: passage.tokenIds.subarray(trunkLength, -1),
        rows: (rows[index] ?? []).filter(({ position }) => position >= trunkLength),
        passage: first + index,
      };
    }),
  };
}

function wantedRows({ tokenIds, firstTarget }: Passage, passage: number): readonly WantedRow[] {
  return Array.from(tokenIds.subarray(firstTarget), (target, place) => ({
    position: firstTarget + place - 1,
    target,
    passage,
    place,
  }));
}

/** Counts the tokens that all passages begin with, without last tokens. */
function commonLength(group: readonly Passage[]): number {
  const [first, ...others] = group;
  let length = Math.min(...group.map(({ tokenIds }) => tokenIds.length - 1));
  for (const { tokenIds } of others) {
    let equal = 0;
    while (equal < length && tokenIds[equal] === first?.tokenIds[equal]) equal++;
    length = equal;
  }
  return length;
}
