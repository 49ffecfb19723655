// A small tokenizer of Gemma 3's kind: runs of spaces and newlines are tokens, a merge joins two words, and unknown
// characters are bytes. Ids are those of the reference, for tokenizer.json and for the metadata of a GGUF file.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { ggufTokenizer } from "../../packages/model/src/text/gguf-tokenizer.ts";
import { Tokenizer } from "../../packages/model/src/text/tokenizer.ts";
import { fixture, golden } from "../support/fixtures.ts";
import { ggufMetadata } from "../support/tokenizer-definitions.ts";

interface Definition {
  readonly added_tokens: readonly { readonly id: number; readonly content: string; readonly special: boolean }[];
  readonly model: {
    readonly vocab: Readonly<Record<string, number>>;
    readonly merges: readonly (readonly [string, string])[];
  };
  readonly [part: string]: unknown;
}

interface Golden {
  readonly texts: readonly string[];
  readonly input_ids: readonly (readonly number[])[];
  readonly other_split: { readonly pre_tokenizer: unknown; readonly input_ids: readonly (readonly number[])[] };
}

const path = join(fixture("gemma-tokenizer"), "tokenizer.json");
const definition = JSON.parse(readFileSync(path, "utf8")) as Definition;
const { texts, input_ids: expected, other_split: other } = golden("gemma-tokenizer") as Golden;

/** Makes the metadata that llama.cpp's converter writes: user-defined tokens have spaces, and scores that mean nothing. */
function metadata(model: "llama" | "gemma4"): Parameters<typeof ggufTokenizer>[0] {
  const tokens = Object.keys(definition.model.vocab);
  const added = new Map(definition.added_tokens.map(({ content, special }) => [content, special ? 3 : 4]));
  const typeOf = (token: string): number => added.get(token) ?? (/^<0x..>$/.test(token) ? 6 : 1);
  const types = tokens.map(typeOf);
  return ggufMetadata({
    model,
    // Files of Gemma 4 have merges, too.
    merges: model === "gemma4" ? definition.model.merges.map((pair) => pair.join(" ")) : undefined,
    tokens: tokens.map((token, id) => (types[id] === 4 ? token.replaceAll("▁", " ") : token)),
    token_type: Int32Array.from(types),
    scores: Float32Array.from(types, (type, id) => (type === 1 ? -id : -1000)),
    bos_token_id: 2,
    eos_token_id: 1,
    unknown_token_id: 3,
    add_space_prefix: false,
  });
}

describe.each([
  ["tokenizer.json", () => new Tokenizer({ path, tokenizer: definition })],
  ["GGUF metadata", () => ggufTokenizer(metadata("llama"), "test.gguf")],
  ["GGUF metadata of Gemma 4", () => ggufTokenizer(metadata("gemma4"), "test.gguf")],
])("a tokenizer of Gemma's kind in %s", (_, build) => {
  const tokenizer = build();

  test("has the ids of the reference", () => {
    expect(texts.map((text) => Array.from(tokenizer.encode(text)))).toEqual(expected);
  });

  test("decodes what it encodes", () => {
    for (const text of texts) {
      // The character itself becomes a space, and the spelling of a control token is one.
      if (/▁|<bos>/.test(text)) continue;
      expect(tokenizer.decode(tokenizer.encode(text, { addSpecialTokens: false }))).toBe(text);
    }
  });

  test("encodes a long text as its parts between words", () => {
    const words = Array.from({ length: 4000 }, (__, i) => ["the", "in", "x", "he"][(i * 7 + (i >> 3)) % 4]);
    const ids = tokenizer.encode(` ${words.join(" ")}`, { addSpecialTokens: false });
    const alone = words.flatMap((word) => Array.from(tokenizer.encode(` ${word}`, { addSpecialTokens: false })));
    expect(Array.from(ids)).toEqual(alone);
  });
});

test("a split that ends pieces has the reference's pieces", () => {
  const tokenizer = new Tokenizer({ path, tokenizer: { ...definition, pre_tokenizer: other.pre_tokenizer } });
  expect(texts.map((text) => Array.from(tokenizer.encode(text)))).toEqual(other.input_ids);
  expect(other.input_ids).not.toEqual(expected);
});
