// The tokenizer of SentencePiece's unigram models, held against the reference's ids: test/fixtures/unigram.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { GgufValue } from "../../packages/model/src/gguf/header.ts";
import { ggufTokenizer } from "../../packages/model/src/text/gguf-tokenizer.ts";
import { finish } from "../../packages/model/src/text/pausing.ts";
import { readNormalizer } from "../../packages/model/src/text/pipeline.ts";
import { loadTokenizer } from "../../packages/model/src/text/load-text.ts";
import { fixture, golden } from "../support/fixtures.ts";

interface UnigramGolden {
  readonly cases: readonly { readonly text: string; readonly ids: readonly number[] }[];
  readonly pair: { readonly first: string; readonly second: string; readonly ids: readonly number[] };
}

const { cases, pair } = golden("unigram") as UnigramGolden;
const tokenizer = await loadTokenizer(fixture("unigram"));

test("ids are those of the reference, of texts in many scripts and of random characters", () => {
  for (const { text, ids } of cases) expect(Array.from(tokenizer.encode(text)), JSON.stringify(text)).toEqual(ids);
});

test("words of any length have their ids, with pauses", () => {
  const word = "Donaudampfschifffahrt".repeat(400);
  const work = tokenizer.encodeInSteps(word);
  let pauses = 0;
  for (;;) {
    const { done, value } = work.next();
    if (done !== true) pauses++;
    else {
      expect(tokenizer.decode(value, { skipSpecialTokens: true })).toBe(word);
      break;
    }
  }
  expect(pauses).toBeGreaterThan(1);
});

test("pairs are joined as the reference joins them, the longer text cut first", () => {
  const { ids } = finish(tokenizer.encodePairInSteps([pair.first, pair.second], 100));
  expect(Array.from(ids)).toEqual(pair.ids);
  const long = finish(tokenizer.encodePairInSteps(["dog", "house ".repeat(200)], 20));
  expect(long.ids).toHaveLength(20);
  expect(Array.from(long.ids.subarray(0, 2))).toEqual(Array.from(tokenizer.encode("dog").subarray(0, 2)));
});

test("a GGUF file's metadata makes the same tokenizer", async () => {
  const {
    model,
    normalizer,
    added_tokens: added,
  } = JSON.parse(await readFile(join(fixture("unigram"), "tokenizer.json"), "utf8")) as {
    readonly model: { readonly vocab: readonly (readonly [text: string, score: number])[] };
    readonly normalizer: { readonly normalizers: readonly { readonly precompiled_charsmap?: string }[] };
    readonly added_tokens: readonly { readonly id: number }[];
  };
  const control = new Set(added.map(({ id }) => id));
  const table = normalizer.normalizers.flatMap((step) => step.precompiled_charsmap ?? [])[0] ?? "";
  const metadata = new Map<string, GgufValue>([
    ["tokenizer.ggml.model", "t5"],
    ["tokenizer.ggml.tokens", model.vocab.map(([text]) => text)],
    ["tokenizer.ggml.scores", Float32Array.from(model.vocab, ([, score]) => score)],
    ["tokenizer.ggml.token_type", Int32Array.from(model.vocab, (_, id) => (control.has(id) ? 3 : 1))],
    ["tokenizer.ggml.precompiled_charsmap", new Uint8Array(Buffer.from(table, "base64"))],
    ["tokenizer.ggml.remove_extra_whitespaces", true],
    ...["bos", "padding", "eos", "unknown"].map((role, id) => [`tokenizer.ggml.${role}_token_id`, id] as const),
  ]);
  const own = ggufTokenizer(metadata, "xlm-roberta.gguf");
  for (const { text, ids } of cases) expect(Array.from(own.encode(text)), JSON.stringify(text)).toEqual(ids);
  const { ids } = finish(own.encodePairInSteps([pair.first, pair.second], 100));
  expect(Array.from(ids)).toEqual(pair.ids);
});

test("white space at the ends and capitals are normalized where a file says so", () => {
  const normalizers = [{ type: "Strip", strip_left: false, strip_right: true }, { type: "Lowercase" }];
  const steps = readNormalizer("tokenizer.json", { type: "Sequence", normalizers });
  const apply = (text: string): string =>
    steps.reduce((normalized, { apply: step }) => {
      const applied = step(normalized);
      return typeof applied === "string" ? applied : finish(applied);
    }, text);
  expect(apply("  ΟΔΟΣ İ\u0085 \n")).toBe("  οδοσ i\u0307");
});
