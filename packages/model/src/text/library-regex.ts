import type { JsonObject } from "../files/json-object.ts";
import { libraryWith } from "./library-parts.ts";

/** The pattern of a `Split` or `Replace` of a tokenizer.json, from Oniguruma's dialect into JavaScript's. */
export function regexOf(step: JsonObject): RegExp {
  const split = { type: "Split", pattern: step["pattern"], behavior: "Isolated", invert: true };
  const { pattern } = libraryWith({ pre_tokenizer: split }).pre_tokenizer ?? {};
  if (pattern instanceof RegExp) return pattern;
  throw new TypeError("Expected the library to compile a pattern");
}
