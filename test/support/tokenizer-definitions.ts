// Small tokenizers made by hand, in the shape of tokenizer.json and of a GGUF file's metadata.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ReadMeError, type ReadMeErrorCode } from "@readme-moe/core";
import { expect, type TestContext } from "vitest";
import type { GgufMetadata, GgufValue } from "../../packages/model/src/gguf/header.ts";
import { CHARACTER_OF_BYTE } from "../../packages/model/src/text/pre-tokenizer.ts";
import type { JsonObject } from "../../packages/model/src/files/read-file.ts";
import { sharedModel } from "./shared.ts";

/** Lists the 256 bytes of the byte-level alphabet, then one token per merge. */
export function byteLevelTokens(merges: readonly string[], more: readonly string[] = []): string[] {
  return [...CHARACTER_OF_BYTE, ...merges.map((merge) => merge.replace(" ", "")), ...more];
}

/** Makes a byte-level BPE tokenizer.json; `parts` replace its parts. */
export function byteLevelDefinition(merges: readonly string[], parts: JsonObject = {}): JsonObject {
  return {
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false },
    post_processor: null,
    decoder: { type: "ByteLevel" },
    model: bpeModel(byteLevelTokens(merges), merges),
    ...parts,
  };
}

export function bpeModel(tokens: readonly string[], merges: readonly string[], parts: JsonObject = {}): JsonObject {
  return { type: "BPE", vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges, ...parts };
}

/** Makes metadata of a GGUF file under `tokenizer.ggml.`; `undefined` leaves a key out. */
export function ggufMetadata(fields: Readonly<Record<string, GgufValue | undefined>>): GgufMetadata {
  const entries = Object.entries(fields).filter((entry): entry is [string, GgufValue] => entry[1] !== undefined);
  return new Map(entries.map(([key, value]) => [`tokenizer.ggml.${key}`, value]));
}

/** Expects `run` to throw a `ReadMeError` with this code, whose message contains all of `parts`. */
export function expectThrownReadMeError(run: () => unknown, code: ReadMeErrorCode, ...parts: string[]): ReadMeError {
  let thrown: unknown;
  try {
    run();
  } catch (error) {
    thrown = error;
  }
  if (!(thrown instanceof ReadMeError))
    throw new Error(`Expected a ReadMeError, got ${String(thrown)}`, { cause: thrown });
  expect(thrown.code).toBe(code);
  for (const part of parts) expect(thrown.message).toContain(part);
  return thrown;
}

/** Makes texts on which tokenizers disagree, the same in every run. */
export function trickyTexts(count: number): string[] {
  const pieces =
    "a|B|é|ß|中|文|ก|ا|😀|👩‍👩‍👧|\u0301|\u200d|\ufeff|\u0085|\u00a0|\u2028|\u3000|\t|\n|\r\n| |  |   |0|12|½|²|Ⅷ|٣|'s|'S|'ll|don't|<|\u0000|\u0004|!|...|_|-|/|\ufffd|𝔸|the|The| hello|ing|ǅ|ʰ".split(
      "|",
    );
  let state = 42;
  const next = (below: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  return Array.from({ length: count }, () =>
    Array.from({ length: 1 + next(24) }, () => pieces[next(pieces.length)]).join(""),
  );
}

interface GoldenCase {
  readonly kind?: string;
  readonly text: string;
  readonly input_ids: readonly number[];
}

/** Reads the texts and token ids of `test/fixtures/<name>/golden.json`, computed with transformers. */
export function goldenCases(name: string): readonly GoldenCase[] {
  const path = join(import.meta.dirname, "..", "fixtures", name, "golden.json");
  const golden: { readonly cases: readonly GoldenCase[] } = JSON.parse(readFileSync(path, "utf8"));
  return golden.cases;
}

/** Returns the folder of the real SmolLM2; skips the test when it is missing. */
export function smolLm2(context: TestContext): string {
  const folder = sharedModel("smollm2-135m-instruct");
  if (folder === undefined) context.skip("needs shared/models/smollm2-135m-instruct");
  return folder;
}
