// The bytes of a vocabulary's tokens are what the tokenizer decodes.

import { Tokenizer } from "@readme-moe/model";
import { ReadMeEngine } from "@readme-moe/engine";
import type { EngineVocabulary } from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import { engineVocabulary } from "../../packages/engine/src/worker/calls.ts";
import { ggufTokenizer } from "../../packages/model/src/text/gguf-tokenizer.ts";
import {
  bpeModel,
  byteLevelDefinition,
  byteLevelTokens,
  ggufMetadata,
  trickyTexts,
} from "../support/tokenizer-definitions.ts";
import { POCKET } from "../support/pocket.ts";
import { ISOLATIONS } from "../support/pocket-engine.ts";

function textOf({ bytes, offsets }: EngineVocabulary, ids: Iterable<number>): string {
  const pieces = Array.from(ids, (id) => bytes.subarray(offsets[id], offsets[id + 1]));
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Buffer.concat(pieces));
}

const byteTokens = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
const tokenizers: Readonly<Record<string, () => Tokenizer>> = {
  "byte-level": () =>
    new Tokenizer({
      path: "tokenizer.json",
      tokenizer: byteLevelDefinition(["h e", "Ã ©"], {
        added_tokens: [{ id: 258, content: "<|end|>", special: true }],
      }),
    }),
  "byte fallback": () =>
    new Tokenizer({
      path: "tokenizer.json",
      tokenizer: {
        added_tokens: [{ id: 0, content: "<unk>", special: true }],
        normalizer: { type: "Replace", pattern: { String: " " }, content: "▁" },
        decoder: {
          type: "Sequence",
          decoders: [
            { type: "Replace", pattern: { String: "▁" }, content: " " },
            { type: "ByteFallback" },
            { type: "Fuse" },
          ],
        },
        model: bpeModel(["<unk>", ...byteTokens, "▁", "a", "b", "▁a"], ["▁ a"], {
          byte_fallback: true,
          unk_token: "<unk>",
        }),
      },
    }),
  GGUF: () =>
    ggufTokenizer(
      ggufMetadata({
        model: "gpt2",
        pre: "gpt-2",
        tokens: byteLevelTokens(["h e"], ["<|end|>"]),
        token_type: Int32Array.from([...Array<number>(257).fill(1), 3]),
        merges: ["h e"],
        eos_token_id: 257,
      }),
      "model.gguf",
    ),
};

test.each(Object.entries(tokenizers))("of a tokenizer that is %s", (_, open) => {
  const tokenizer = open();
  const vocabSize = tokenizer.vocabSize + 5;
  const vocabulary = engineVocabulary(tokenizer, { vocabSize, eosTokenIds: [tokenizer.vocabSize - 1] });
  expect(vocabulary.offsets).toHaveLength(vocabSize + 1);
  expect(vocabulary.offsets[vocabSize]).toBe(vocabulary.bytes.length);
  for (const text of [...trickyTexts(60), "hello é 中"]) {
    const ids = tokenizer.encode(text, { addSpecialTokens: false });
    expect(textOf(vocabulary, ids)).toBe(tokenizer.decode(ids, { skipSpecialTokens: true }));
  }
  for (let id = 0; id < vocabSize; id++) {
    const isNoText = tokenizer.isSpecial(id) || id >= tokenizer.vocabSize - 1;
    const length = (vocabulary.offsets[id + 1] as number) - (vocabulary.offsets[id] as number);
    expect(length).toBe(isNoText ? 0 : tokenizer.tokenBytes(id).length);
  }
});

describe.each(ISOLATIONS)("in a %s", (isolation) => {
  test("an engine computes its vocabulary once, and none after it was disposed", async () => {
    const engine = await ReadMeEngine.open(POCKET, { precision: "fp32", threads: 2, isolation });
    const vocabulary = await engine.vocabulary();
    expect(vocabulary.vocabSize).toBe(engine.info.vocabSize);
    expect(vocabulary.eosTokenIds).toEqual(engine.info.eosTokenIds);
    for (const text of trickyTexts(30)) {
      const ids = await engine.tokenize(text, { addSpecialTokens: false });
      expect(textOf(vocabulary, ids)).toBe(await engine.detokenize(ids));
    }
    expect(await engine.vocabulary()).toBe(vocabulary);
    await engine.dispose();
  });
});
