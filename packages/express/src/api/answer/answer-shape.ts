import type { Piece } from "../generation/generate-all.ts";

/** What an answer and each of its chunks begin with. */
export interface AnswerHead {
  readonly id: string;
  readonly object: string;
  readonly created: number;
  readonly model: string;
  readonly system_fingerprint: string;
}

/** How pieces of text become choices in the shape of one of the two APIs. */
export interface AnswerShape<Choice extends object> {
  /** Of an answer, and of a chunk of one. */
  readonly objects: { readonly whole: string; readonly chunk: string };
  /** The choices to be sent for a piece, in order; each goes into a chunk of its own. */
  render(piece: Piece): Promise<readonly Choice[]>;
  /** Puts the chunks of one choice together. */
  join(index: number, chunks: readonly Choice[]): object;
}
