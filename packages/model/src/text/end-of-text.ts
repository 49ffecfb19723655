import type { Tokenizer } from "./tokenizer.ts";

/** The token that models see between documents in training; chat models end a turn with another one. */
export function endOfTextId(tokenizer: Tokenizer, eosTokenIds: readonly number[]): number {
  for (const text of ["<|endoftext|>", "<|end_of_text|>", "</s>"]) {
    const id = tokenizer.tokenId(text);
    if (id !== undefined) return id;
  }
  return eosTokenIds[0] ?? 0;
}
