// Rewrites the steps of a tokenizer.json so that the JavaScript library does what the reference
// implementation (the Rust crate `tokenizers`) does. Where the two differ and no rewrite is known, the
// step is refused: a tokenizer that is nearly right gives a model text it was never trained on.

import { describeValue } from "@readme-moe/core";
import { CHARACTER_OF_BYTE } from "./byte-alphabet.ts";
import { corrupt, expectObject, isJsonObject, type JsonObject, unsupported } from "../files/json-object.ts";
import { regexOf } from "./library-regex.ts";
import { type NormalizerStep, normalizerSteps } from "./normalizer.ts";
import { type PreTokenizerStep, toByteAlphabet } from "./pre-tokenizer.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** The pattern of GPT-2, which a `ByteLevel` pre-tokenizer has built in. */
export const GPT2_PATTERN: string = String.raw`'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

const NORMALIZERS: readonly unknown[] = ["NFC", "NFD", "NFKC", "NFKD", "Prepend", "Replace"];

/** A `Split` that keeps what it finds and what lies between, each as a piece. */
export function isolate(regex: string): JsonObject {
  return { type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false };
}

/**
 * The normalizer's steps, in order.
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` naming a normalizer that has no equal here
 */
export function referenceNormalizer(path: string, normalizer: unknown): NormalizerStep[] {
  const steps = flatten(path, normalizer, "normalizers");
  for (const step of steps) {
    if (!NORMALIZERS.includes(step["type"])) throw refused(path, "normalizer", step);
    if (step["type"] === "Replace") checkPattern(path, step);
  }
  return normalizerSteps(steps);
}

/**
 * The pre-tokenizer's steps, in order; none where the whole text is one word.
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` naming a pre-tokenizer that has no equal here
 */
export function referencePreTokenizer(path: string, tokenizer: JsonObject, vocabulary: Vocabulary): PreTokenizerStep[] {
  const given = flatten(path, tokenizer["pre_tokenizer"], "pretokenizers");
  const model = expectObject(path, "`model`", tokenizer["model"]);
  const steps = given.flatMap((step) => rewrite(path, step));
  if (given.some((step) => step["type"] === "ByteLevel") && typeof model["unk_token"] !== "string") {
    steps.push(...dropMissingBytes(vocabulary));
  }
  if (
    given.every((step) => step["type"] === "Metaspace" && step["split"] === false) &&
    model["ignore_merges"] !== true
  ) {
    steps.push(...splitAtWords(vocabulary));
  }
  return steps;
}

function rewrite(path: string, step: JsonObject): PreTokenizerStep[] {
  switch (step["type"]) {
    // The library's `Digits` knows the ten of ASCII only, the reference all that Unicode calls numeric.
    case "Digits":
      return [splitAt(isolate(step["individual_digits"] === true ? String.raw`\p{N}` : String.raw`\p{N}+`))];
    case "ByteLevel":
      return rewriteByteLevel(step);
    case "Metaspace":
      return rewriteMetaspace(step);
    case "Split":
      return [rewriteSplit(path, step)];
    default:
      throw refused(path, "pre-tokenizer", step);
  }
}

/** The library's pattern has JavaScript's `\s`, which is not that of the reference (U+FEFF, U+0085). */
function rewriteByteLevel(step: JsonObject): PreTokenizerStep[] {
  return [
    ...(step["add_prefix_space"] === true ? [{ type: "prefix", prefix: " ", isFirstOnly: false } as const] : []),
    ...(step["use_regex"] === false ? [] : [splitAt(isolate(GPT2_PATTERN))]),
    { type: "map", map: toByteAlphabet, shrinks: false },
  ];
}

/** Older files have `add_prefix_space`; `split` is on by default. */
function rewriteMetaspace(step: JsonObject): PreTokenizerStep[] {
  const replacement = typeof step["replacement"] === "string" ? step["replacement"] : "▁";
  const scheme = step["add_prefix_space"] === false ? "never" : (step["prepend_scheme"] ?? "always");
  const escaped = `\\u{${replacement.codePointAt(0)?.toString(16) ?? "2581"}}`;
  const hasPrefix = scheme === "always" || scheme === "first";
  return [
    { type: "map", map: (text) => text.replaceAll(" ", () => replacement), shrinks: replacement === "" },
    ...(hasPrefix ? [{ type: "prefix", prefix: replacement, isFirstOnly: scheme === "first" } as const] : []),
    ...(step["split"] === false ? [] : [splitAt(isolate(`${escaped}[^${escaped}]*|[^${escaped}]+`))]),
  ];
}

function rewriteSplit(path: string, step: JsonObject): PreTokenizerStep {
  checkPattern(path, step);
  // Isolated pieces are the same whichever of them is called the match.
  if (step["behavior"] === "Isolated") return splitAt(step);
  if (step["behavior"] === "Removed" && step["invert"] === true) return { ...splitAt(step), dropsRest: true };
  throw refused(path, "pre-tokenizer", step);
}

function splitAt(step: JsonObject): PreTokenizerStep & { type: "split" } {
  return { type: "split", pattern: regexOf(step), dropsRest: false };
}

/**
 * The reference leaves out bytes that have no token before it merges their neighbours, the library
 * after. Vocabularies trained on clean text lack some control characters.
 */
function dropMissingBytes({ ids }: Vocabulary): PreTokenizerStep[] {
  const missing = CHARACTER_OF_BYTE.filter((character) => !ids.has(character));
  if (missing.length === 0) return [];
  const escaped = missing.map((character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
  const pattern = new RegExp(`[${escaped.join("")}]`, "gu");
  return [{ type: "map", map: (text) => text.replaceAll(pattern, ""), shrinks: true }];
}

/**
 * Without a pre-tokenizer a whole text is one word, and merging it is slow. Where no merge spans the end
 * of a word and the `▁` of the next, cutting there changes nothing: pieces merge independently.
 */
function splitAtWords({ merges }: Vocabulary): PreTokenizerStep[] {
  if (merges.some(([left, right]) => /[^▁]▁/u.test(left + right))) return [];
  return [splitAt(isolate("▁+[^▁]*|[^▁]+"))];
}

/** A step and all steps of sequences in it, in order. */
function flatten(path: string, step: unknown, listName: string): JsonObject[] {
  if (step === undefined || step === null) return [];
  const object = expectObject(path, `an entry of \`${listName}\``, step);
  if (object["type"] !== "Sequence") return [object];
  const list = object[listName];
  if (!Array.isArray(list)) throw corrupt(path, `expected \`${listName}\` to be a list, got ${describeValue(list)}`);
  return list.flatMap((inner: unknown) => flatten(path, inner, listName));
}

function checkPattern(path: string, step: JsonObject): void {
  const { String: literal, Regex: regex } = isJsonObject(step["pattern"]) ? step["pattern"] : {};
  if (typeof literal === "string" || typeof regex === "string") return;
  throw corrupt(path, `${describeValue(step["type"])} has no pattern`);
}

function refused(path: string, kind: string, step: JsonObject): Error {
  const { type, behavior } = step;
  const detail = type === "Split" ? ` with behavior ${describeValue(behavior)}` : "";
  return unsupported(path, `${kind} ${describeValue(type)}${detail} is not supported`);
}
