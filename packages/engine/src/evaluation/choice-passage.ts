// A context and what is to follow it, as evaluation harnesses tokenise them.

import { endOfTextId, type Model, type Tokenizer } from "@readme-moe/model";
import type { Passage } from "./passage.ts";

/** One of the answers to a question. */
export interface Choice {
  /** What comes before; may be empty. */
  readonly context: string;
  /** What is scored; not empty. */
  readonly continuation: string;
}

export interface ChoicePassage extends Passage {
  /** Tokens of the context that did not fit and were left out at its beginning. */
  readonly numCutTokens: number;
}

/**
 * The whole text is tokenised as one, without special tokens, and its tokens behind those of the context alone are the
 * continuation's; white space at the context's end counts as the continuation's. An empty context is the token that
 * texts begin with.
 *
 * @param maxTokens - that the model may see; the beginning is left out where they are more
 */
export function choicePassage(
  { config }: Pick<Model, "config">,
  tokenizer: Tokenizer,
  { context, continuation }: Choice,
  maxTokens: number,
): ChoicePassage {
  const trimmed = context.trimEnd();
  const encode = (text: string): Int32Array => tokenizer.encode(text, { addSpecialTokens: false });
  let whole = encode(context + continuation);
  let numContextTokens = encode(trimmed).length;
  if (numContextTokens === 0) {
    const beginning = tokenizer.bosToken?.id ?? endOfTextId(tokenizer, config.eosTokenIds);
    whole = Int32Array.of(beginning, ...whole);
    numContextTokens = 1;
  }
  // The last token is predicted and never seen.
  const numCutTokens = Math.max(0, whole.length - maxTokens - 1);
  const tokenIds = whole.subarray(numCutTokens);
  // Where a merge swallows the continuation into the context's last token, that one is scored.
  const firstTarget = Math.min(Math.max(1, numContextTokens - numCutTokens), tokenIds.length - 1);
  return { tokenIds, firstTarget, numCutTokens };
}
