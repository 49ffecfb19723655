// Passages that begin alike, such as a question with each of its answers, as a trunk that runs once and branches that
// go on from it.

import { checkPassage, type Passage } from "./passage.ts";

/** A row of logits that is wanted. */
interface WantedRow {
  /** Of the token whose logits they are, in its passage. */
  readonly position: number;
  /** The token that is to be predicted. */
  readonly target: number;
  /** Whose log-probability that is: place of the passage, and of the number in its `logProbs`. */
  readonly passage: number;
  readonly place: number;
}

/** Tokens `[start, start + tokenIds.length)` of a passage. */
export interface Piece {
  readonly start: number;
  readonly tokenIds: Int32Array;
  /** In the order of their positions, which may occur several times. */
  readonly rows: readonly WantedRow[];
  /** A passage that has these tokens at this place, and so their experts. */
  readonly passage: number;
}

export interface Tree {
  readonly trunk: Piece;
  /** Each goes on where the trunk ends. */
  readonly branches: readonly Piece[];
  readonly numPassages: number;
}

// A branch is a run of its own, which takes about as long as so many more tokens of a run of many.
const BRANCH_COST_TOKENS = 16;

/**
 * The trees that passages grow on: one for a group whose common beginning is long enough to be worth it, else one each.
 * A passage's last token is in no piece, since nothing is predicted from it.
 *
 * @param first - the first passage's place among all
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
  const [{ tokenIds }] = group as [Passage];
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

/** Tokens that all passages begin with, their last ones left out. */
function commonLength(group: readonly Passage[]): number {
  const [first, ...others] = group as [Passage, ...Passage[]];
  let length = Math.min(...group.map(({ tokenIds }) => tokenIds.length - 1));
  for (const { tokenIds } of others) {
    let equal = 0;
    while (equal < length && tokenIds[equal] === first.tokenIds[equal]) equal++;
    length = equal;
  }
  return length;
}
