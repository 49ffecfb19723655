import { Tokenizer as LibraryTokenizer } from "@huggingface/tokenizers";
import type { JsonObject } from "../files/json-object.ts";

/** What this project uses of the library: how it reads patterns, and its post-processors. */
interface LibraryParts {
  readonly pre_tokenizer: { readonly pattern?: unknown } | null;
  readonly post_processor: {
    post_process(tokens: string[], pair: null, addSpecialTokens: boolean): { readonly tokens: readonly string[] };
  } | null;
}

/** The library's tokenizer without a vocabulary, of some parts of a tokenizer.json. Throws what the library does. */
export function libraryWith(parts: JsonObject): LibraryParts {
  const definition = {
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    model: { type: "BPE", vocab: {}, merges: [] },
    ...parts,
  };
  return new LibraryTokenizer(definition, {});
}
