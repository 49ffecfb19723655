import type { EngineVocabulary } from "@readme-moe/core";
import type { ModelConfig, Tokenizer } from "@readme-moe/model";

/** The bytes of a model's tokens, as its tokenizer decodes them. */
export function engineVocabulary(
  tokenizer: Pick<Tokenizer, "tokenBytes" | "isSpecial">,
  { vocabSize, eosTokenIds }: Pick<ModelConfig, "vocabSize" | "eosTokenIds">,
): EngineVocabulary {
  const ends = new Set(eosTokenIds);
  const pieces = Array.from({ length: vocabSize }, (_, id) =>
    tokenizer.isSpecial(id) || ends.has(id) ? new Uint8Array() : tokenizer.tokenBytes(id),
  );
  const offsets = new Uint32Array(vocabSize + 1);
  for (const [id, { length }] of pieces.entries()) offsets[id + 1] = (offsets[id] as number) + length;
  const bytes = new Uint8Array(offsets[vocabSize] as number);
  for (const [id, piece] of pieces.entries()) bytes.set(piece, offsets[id]);
  return { vocabSize, bytes, offsets, eosTokenIds };
}
