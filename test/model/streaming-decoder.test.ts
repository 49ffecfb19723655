import { join } from "node:path";
import * as fc from "../support/fast-check.ts";
import { describe, expect, it } from "vitest";
import { ggufTokenizer } from "../../packages/model/src/text/gguf-tokenizer.ts";
import { loadTokenizer } from "../../packages/model/src/text/load-text.ts";
import { type DecodeOptions, StreamingDecoder } from "../../packages/model/src/text/token-text.ts";
import { Tokenizer } from "../../packages/model/src/text/tokenizer.ts";
import { byteLevelDefinition, byteLevelTokens, ggufMetadata } from "../support/tokenizer-definitions.ts";

const pocket = await loadTokenizer(join(import.meta.dirname, "../../models/pocket"));
const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
const sentencePieceTokens = [...bytes, "<unk>", "<s>", "▁", "a", "▁a", "▁▁", "é", "😀"];
const sentencePiece = ggufTokenizer(
  ggufMetadata({
    model: "llama",
    tokens: sentencePieceTokens,
    scores: new Float32Array(sentencePieceTokens.length),
    token_type: Int32Array.from(sentencePieceTokens, (_, id) => (id < 256 ? 6 : id < 258 ? 3 : 1)),
    unknown_token_id: 256,
    bos_token_id: 257,
  }),
  "test.gguf",
);
const cleaningMerges = "Ġ '|Ġ .|n '|' t".split("|");
const cleaning = new Tokenizer({
  path: "test",
  tokenizer: byteLevelDefinition(cleaningMerges),
  config: { clean_up_tokenization_spaces: true },
});
// Bytes that begin, continue and cannot be in a UTF-8 character, and the BOM.
const byteIds = [0x41, 0x20, 0x80, 0xbf, 0xc3, 0xa9, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0xef, 0xbb, 0xff];

function streamed(tokenizer: Tokenizer, ids: readonly number[], options?: DecodeOptions): string[] {
  const decoder = new StreamingDecoder(tokenizer, options);
  return [...ids.map((id) => decoder.push(id)), decoder.flush()];
}

describe("the texts of all pushes and of flush are that of decode", () => {
  it.each([
    ["a byte-level tokenizer", pocket, fc.nat(pocket.vocabSize)],
    ["a byte-level tokenizer, byte by byte", cleaningFree(), fc.constantFrom(...byteIds)],
    ["a SentencePiece tokenizer", sentencePiece, fc.nat(sentencePieceTokens.length)],
    ["a SentencePiece tokenizer, byte by byte", sentencePiece, fc.constantFrom(...byteIds, 257, 258, 260, 261)],
    [
      "a tokenizer that cleans up",
      cleaning,
      fc.constantFrom(...[..." .?!,'ntmsverx".matchAll(/./g)].map(([c]) => c.charCodeAt(0)), 256, 257, 258, 259),
    ],
  ])("for %s", (_, tokenizer, id) => {
    const check = (ids: number[], skipSpecialTokens: boolean): void => {
      const options = { skipSpecialTokens };
      expect(streamed(tokenizer, ids, options).join("")).toBe(tokenizer.decode(ids, options));
    };
    fc.assert(fc.property(fc.array(id, { maxLength: 40, size: "max" }), fc.boolean(), check), { numRuns: 2000 });
  });
});

describe("StreamingDecoder", () => {
  it("never splits a character", () => {
    const text = "é€😀👩‍👩‍👧 中\ufeff";
    const ids = [...Buffer.from(text)];
    const pushes = streamed(cleaningFree(), ids);
    expect(pushes.join("")).toBe(text);
    expect(pushes.slice(0, 9)).toEqual(["", "é", "", "", "€", "", "", "", "😀"]);
    for (const push of pushes) expect(push).not.toMatch(/\p{Surrogate}|\ufffd/u);
  });

  it("shows an incomplete character as U+FFFD when flushed, and starts over", () => {
    const decoder = new StreamingDecoder(cleaningFree());
    expect(decoder.push(0xf0) + decoder.push(0x9f)).toBe("");
    expect(decoder.flush()).toBe("\ufffd");
    expect(decoder.flush()).toBe("");
    expect(decoder.push(0x41)).toBe("A");
  });

  it("removes the leading space of the first word only", () => {
    const a = sentencePieceTokens.indexOf("▁a");
    expect(streamed(sentencePiece, [a, a])).toEqual(["a", " a", ""]);
    expect(streamed(sentencePiece, [257, a], { skipSpecialTokens: true })).toEqual(["", "a", ""]);
    expect(streamed(sentencePiece, [257, a])).toEqual(["<s>", " a", ""]);
    const decoder = new StreamingDecoder(sentencePiece);
    expect([decoder.push(a), decoder.flush(), decoder.push(a)]).toEqual(["a", "", "a"]);
  });

  it("leaves special tokens out on request", () => {
    expect(streamed(pocket, [2, 67, 2], { skipSpecialTokens: true }).join("")).toBe("a");
    expect(streamed(pocket, [2, 67, 2]).join("")).toBe("<|im_end|>a<|im_end|>");
  });

  it("holds back only text that clean-up may still change", () => {
    const pushes = streamed(cleaning, [...Buffer.from("ax do n't")]);
    expect(pushes.join("")).toBe("ax don't");
    expect(pushes.slice(0, 4)).toEqual(["a", "x", "", " d"]);
  });
});

function cleaningFree(): Tokenizer {
  const tokens = byteLevelTokens([]);
  return ggufTokenizer(ggufMetadata({ model: "gpt2", tokens, merges: [] }), "test.gguf");
}
