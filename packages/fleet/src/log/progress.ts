// Progress of an answer: tokens and text of each choice. Places new chunks, and takes out what is there already.

import type { GenerateChunk } from "@readme-moe/core";
import type { PlacedChunk } from "./entry.ts";

interface ChoiceProgress {
  readonly tokenIds: number[];
  textLength: number;
  hasEnded: boolean;
}

/** Meaning of an entry for a reader that has followed the answer so far. */
export type Novelty =
  | { readonly kind: "new"; readonly chunk: GenerateChunk }
  /** Everything is known. */
  | { readonly kind: "old" }
  /** Entries before it are missing: of its choice, or at the end of the answer of any. */
  | { readonly kind: "gap" }
  /** It has another token than the one that is known at its place. */
  | { readonly kind: "different" };

/** Tokens and text of an answer's choices so far. */
export class AnswerProgress {
  readonly #choices: readonly ChoiceProgress[];
  #hasUsage = false;

  constructor(numChoices: number) {
    this.#choices = Array.from({ length: numChoices }, () => ({ tokenIds: [], textLength: 0, hasEnded: false }));
  }

  /** Tokens of each choice. */
  get tokenIds(): readonly (readonly number[])[] {
    return this.#choices.map(({ tokenIds }) => tokenIds);
  }

  get hasEnded(): boolean {
    return this.#hasUsage;
  }

  /** Places the next chunk of a worker, and takes it over. */
  place(chunk: GenerateChunk): PlacedChunk {
    const choice = this.#choices[chunk.choice];
    const placed = { chunk, position: choice?.tokenIds.length ?? 0, offset: choice?.textLength ?? 0 };
    this.follow(placed);
    return placed;
  }

  /**
   * Takes over a chunk of the log. Its beginning may be known: after entries were lost, another worker may cut the
   * same answer into other chunks.
   */
  follow({ chunk, position, offset }: PlacedChunk): Novelty {
    const choice = this.#choices[chunk.choice];
    if (!choice) return { kind: "different" };
    const known = choice.tokenIds.length - position;
    const knownText = choice.textLength - offset;
    const endsOthers = this.#choices.every((one) => one === choice || one.hasEnded);
    const endsOwn = choice.hasEnded || chunk.finishReason !== undefined;
    const isEarly = chunk.usage !== undefined && !(endsOthers && endsOwn);
    if (known < 0 || knownText < 0 || isEarly) return { kind: "gap" };
    const isSame = chunk.tokens.slice(0, known).every(({ id }, index) => id === choice.tokenIds[position + index]);
    if (!isSame) return { kind: "different" };
    const tokens = chunk.tokens.slice(known);
    const text = chunk.text.slice(knownText);
    const isOver = chunk.finishReason !== undefined && !choice.hasEnded;
    const isDone = chunk.usage !== undefined && !this.#hasUsage;
    if (tokens.length === 0 && text === "" && !isOver && !isDone) return { kind: "old" };
    for (const { id } of tokens) choice.tokenIds.push(id);
    choice.textLength += text.length;
    choice.hasEnded ||= isOver;
    this.#hasUsage ||= isDone;
    return { kind: "new", chunk: { ...chunk, tokens, text } };
  }
}
