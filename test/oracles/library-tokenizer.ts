// The tokenizer of the library @huggingface/tokenizers, unchanged, over steps rewritten to the reference's. It encodes
// a text in one go.

import { isRecord } from "@readme-moe/core";
import { createRequire } from "node:module";
import { CHARACTER_OF_BYTE } from "../../packages/model/src/text/pre-tokenizer.ts";
import type { JsonObject } from "../../packages/model/src/files/read-file.ts";
import { GPT2_PATTERN } from "../../packages/model/src/text/known-patterns.ts";
import { isolate } from "../../packages/model/src/text/pipeline.ts";
import { readVocabulary, type Vocabulary, withConfigTokens } from "../../packages/model/src/text/vocabulary.ts";
import type { TokenizerSource } from "../../packages/model/src/text/tokenizer.ts";

interface Library {
  readonly Tokenizer: new (
    tokenizer: object,
    config: object,
  ) => { encode(text: string, options: object): { readonly ids: number[] } };
}

// Only the package depends on it.
const requireOfModel = createRequire(new URL("../../packages/model/package.json", import.meta.url));
const { Tokenizer: LibraryTokenizer } = requireOfModel("@huggingface/tokenizers") as Library;

export type LibraryEncode = (text: string, addSpecialTokens?: boolean) => number[];

export function libraryEncoder({ path, tokenizer, config = {} }: TokenizerSource): LibraryEncode {
  const vocabulary = withConfigTokens(path, readVocabulary(path, tokenizer), config);
  const library = new LibraryTokenizer(
    {
      added_tokens: vocabulary.added,
      normalizer: tokenizer["normalizer"] ?? null,
      pre_tokenizer: rewritten(tokenizer, vocabulary),
      post_processor: tokenizer["post_processor"] ?? null,
      decoder: null,
      model: {
        ...(tokenizer["model"] as JsonObject),
        type: "BPE",
        merges: vocabulary.merges.map(([left, right]) => [left, right]),
      },
    },
    {},
  );
  return (text, addSpecialTokens = false) => {
    const wellFormed = text.replaceAll(/\p{Surrogate}/gu, "\u{fffd}");
    return library.encode(wellFormed, { add_special_tokens: addSpecialTokens }).ids;
  };
}

function rewritten(tokenizer: JsonObject, vocabulary: Vocabulary): JsonObject | null {
  const given = flatten(tokenizer["pre_tokenizer"]);
  const model = tokenizer["model"] as JsonObject;
  const steps = given.flatMap(rewrite);
  if (given.some((step) => step["type"] === "ByteLevel") && typeof model["unk_token"] !== "string") {
    const missing = CHARACTER_OF_BYTE.filter((character) => !vocabulary.ids.has(character));
    const escaped = missing.map((character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
    if (missing.length > 0) steps.push({ type: "Replace", pattern: { Regex: `[${escaped.join("")}]` }, content: "" });
  }
  return steps.length === 0 ? null : { type: "Sequence", pretokenizers: steps };
}

function rewrite(step: JsonObject): JsonObject[] {
  switch (step["type"]) {
    case "Digits":
      return [isolate(step["individual_digits"] === true ? String.raw`\p{N}` : String.raw`\p{N}+`)];
    case "ByteLevel":
      return [
        ...(step["add_prefix_space"] === true
          ? [{ type: "Replace", pattern: { Regex: String.raw`\A(?! )` }, content: " " }]
          : []),
        ...(step["use_regex"] === false ? [] : [isolate(GPT2_PATTERN)]),
        { type: "ByteLevel", add_prefix_space: false, use_regex: false },
      ];
    case "Metaspace": {
      const scheme = step["add_prefix_space"] === false ? "never" : (step["prepend_scheme"] ?? "always");
      return [
        { type: "Metaspace", replacement: "▁", prepend_scheme: scheme },
        ...(step["split"] === false ? [] : [isolate("▁[^▁]*|[^▁]+")]),
      ];
    }
    default:
      return [step["behavior"] === "Isolated" ? { ...step, invert: false } : step];
  }
}

function flatten(step: unknown): JsonObject[] {
  if (!isRecord(step)) return [];
  const list = step["pretokenizers"];
  return Array.isArray(list) ? list.flatMap(flatten) : [step];
}
