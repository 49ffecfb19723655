import type { StepSequence } from "./step-runner.ts";

/** A wanted row of logits. */
interface WantedRow {
  /** Place in the sequence's `tokenIds`. */
  readonly token: number;
  /** Place in the sequence's `logitsOf`. */
  readonly place: number;
  readonly target: number;
}

/** Tokens `[from, to)` of a sequence of a step. */
export interface StepPiece {
  readonly sequence: number;
  readonly from: number;
  readonly to: number;
  /** Rows of logits that are wanted of these tokens, in rising order. */
  readonly wanted: readonly WantedRow[];
}

/** Splits a step into calls of at most `maxRows` tokens; the order of a sequence's tokens stays. */
export function piecesOf(sequences: readonly StepSequence[], maxRows: number): readonly (readonly StepPiece[])[] {
  const calls: StepPiece[][] = [[]];
  let room = maxRows;
  for (const [sequence, { tokenIds, logitsOf, targets }] of sequences.entries()) {
    const rows = logitsOf.map((token, place) => ({ token, place, target: targets?.[place] ?? 0 }));
    const wanted = rows.toSorted((a, b) => a.token - b.token);
    for (let from = 0; from < tokenIds.length;) {
      if (room === 0) {
        calls.push([]);
        room = maxRows;
      }
      const to = Math.min(tokenIds.length, from + room);
      const own = wanted.filter(({ token }) => token >= from && token < to);
      calls.at(-1)?.push({ sequence, from, to, wanted: own });
      room -= to - from;
      from = to;
    }
  }
  return calls;
}
