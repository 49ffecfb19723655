// Completions that go on after tokens that were generated before.

import type { FinishReason, ResolvedSamplingParams } from "@readme-moe/core";
import type { CompletionPiece, CompletionText } from "@readme-moe/model";

/** Facts that end a completion, besides its own text. */
export interface CompletionEnds {
  readonly eosTokenIds: readonly number[];
  /** Largest number of tokens of one sequence, prompt included. */
  readonly contextTokens: number;
}

/** A completion after a token. */
interface CompletionLength {
  readonly params: Pick<ResolvedSamplingParams, "maxTokens" | "ignoreEos" | "stopTokenIds">;
  readonly promptTokens: number;
  /** Tokens of the completion, the last one included. */
  readonly completionTokens: number;
}

/** Finds why a completion ends with its last token, unless a stop string ends it. */
export function endingOf(
  tokenId: number,
  { params, promptTokens, completionTokens }: CompletionLength,
  { eosTokenIds, contextTokens }: CompletionEnds,
): FinishReason | undefined {
  if ((!params.ignoreEos && eosTokenIds.includes(tokenId)) || params.stopTokenIds.has(tokenId)) return "stop";
  const isFull = completionTokens >= params.maxTokens || promptTokens + completionTokens >= contextTokens;
  return isFull ? "length" : undefined;
}

/** Beginning of a completion: its tokens, and the text behind them. */
export interface ResumedCompletion {
  readonly tokenIds: ArrayLike<number>;
  /** Text after the tokens; it holds back what the tokens do not decide. */
  readonly text: CompletionText;
  /** The last piece, if the tokens end the completion. */
  readonly ended: CompletionPiece | undefined;
}

/** Pause after this many tokens, some tenths of a millisecond. */
const PAUSE_TOKENS = 512;

/**
 * Takes the tokens of a completion that were generated before. Pauses often, since there may be many.
 *
 * @throws {RangeError} on tokens behind the completion's end
 */
export function* resumeCompletion(
  tokenIds: ArrayLike<number>,
  text: CompletionText,
  completion: Omit<CompletionLength, "completionTokens"> & { readonly choice: number },
  ends: CompletionEnds,
): Generator<void, ResumedCompletion> {
  let ended: CompletionPiece | undefined;
  for (let index = 0; index < tokenIds.length; index++) {
    if (ended) {
      const expected = `Expected \`resume.choices[${completion.choice}]\` to end with its first ${index} tokens`;
      const why = ended.stop === undefined ? `(${ended.finishReason})` : `(a stop string)`;
      throw new RangeError(`${expected} ${why}, got ${tokenIds.length} tokens`);
    }
    const tokenId = tokenIds[index] ?? 0;
    const piece = text.push(tokenId, endingOf(tokenId, { ...completion, completionTokens: index + 1 }, ends));
    if (piece.finishReason) ended = piece;
    if (index % PAUSE_TOKENS === PAUSE_TOKENS - 1) yield;
  }
  return { tokenIds, text, ended };
}
