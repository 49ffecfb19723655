// Rewrites the steps of a tokenizer.json so that the JavaScript library does what the reference
// implementation (the Rust crate `tokenizers`) does. Where the two differ and no rewrite is known, the
// step is refused: a tokenizer that is nearly right gives a model text it was never trained on.

import { describeValue } from "@readme-moe/core";
import { CHARACTER_OF_BYTE } from "./byte-alphabet.ts";
import { corrupt, expectObject, isJsonObject, type JsonObject, unsupported } from "../files/json-object.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** The pattern of GPT-2, which a `ByteLevel` pre-tokenizer has built in. */
export const GPT2_PATTERN: string = String.raw`'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

const NORMALIZERS: readonly unknown[] = ["NFC", "NFD", "NFKC", "NFKD", "Prepend", "Replace"];

/** A `Split` that keeps what it finds and what lies between, each as a piece. */
export function isolate(regex: string): JsonObject {
  return { type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false };
}

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` naming a normalizer that has no equal here */
export function checkNormalizer(path: string, normalizer: unknown): void {
  for (const step of flatten(path, normalizer, "normalizers")) {
    if (!NORMALIZERS.includes(step["type"])) throw refused(path, "normalizer", step);
    if (step["type"] === "Replace") checkPattern(path, step);
  }
}

/**
 * @returns the pre-tokenizer for the library, `null` for none
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` naming a pre-tokenizer that has no equal here
 */
export function referencePreTokenizer(path: string, tokenizer: JsonObject, vocabulary: Vocabulary): JsonObject | null {
  const given = flatten(path, tokenizer["pre_tokenizer"], "pretokenizers");
  const model = expectObject(path, "`model`", tokenizer["model"]);
  const steps = given.flatMap((step) => rewrite(path, step));
  if (given.some((step) => step["type"] === "ByteLevel") && typeof model["unk_token"] !== "string") {
    steps.push(...dropMissingBytes(vocabulary));
  }
  if (steps.every((step) => step["type"] === "Metaspace") && model["ignore_merges"] !== true) {
    steps.push(...splitAtWords(vocabulary));
  }
  return steps.length === 0 ? null : { type: "Sequence", pretokenizers: steps };
}

function rewrite(path: string, step: JsonObject): JsonObject[] {
  switch (step["type"]) {
    // The library's `Digits` knows the ten of ASCII only, the reference all that Unicode calls numeric.
    case "Digits":
      return [isolate(step["individual_digits"] === true ? String.raw`\p{N}` : String.raw`\p{N}+`)];
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

/** The built-in pattern has JavaScript's `\s`, which is not that of the reference (U+FEFF, U+0085). */
function rewriteByteLevel(step: JsonObject): JsonObject[] {
  const prefix = { type: "Replace", pattern: { Regex: String.raw`\A(?! )` }, content: " " };
  return [
    ...(step["add_prefix_space"] === true ? [prefix] : []),
    ...(step["use_regex"] === false ? [] : [isolate(GPT2_PATTERN)]),
    { type: "ByteLevel", add_prefix_space: false, use_regex: false },
  ];
}

/** The library knows neither `split`, which is on by default, nor the older `add_prefix_space`. */
function rewriteMetaspace(step: JsonObject): JsonObject[] {
  const replacement = typeof step["replacement"] === "string" ? step["replacement"] : "▁";
  const scheme = step["add_prefix_space"] === false ? "never" : (step["prepend_scheme"] ?? "always");
  const escaped = `\\u{${replacement.codePointAt(0)?.toString(16) ?? "2581"}}`;
  return [
    { type: "Metaspace", replacement, prepend_scheme: scheme },
    ...(step["split"] === false ? [] : [isolate(`${escaped}[^${escaped}]*|[^${escaped}]+`)]),
  ];
}

function rewriteSplit(path: string, step: JsonObject): JsonObject {
  checkPattern(path, step);
  // Isolated pieces are the same whichever of them is called the match; the library drops some if inverted.
  if (step["behavior"] === "Isolated") return { ...step, invert: false };
  if (step["behavior"] === "Removed" && step["invert"] === true) return step;
  throw refused(path, "pre-tokenizer", step);
}

/**
 * The reference leaves out bytes that have no token before it merges their neighbours, the library
 * after. Vocabularies trained on clean text lack some control characters.
 */
function dropMissingBytes({ ids }: Vocabulary): JsonObject[] {
  const missing = CHARACTER_OF_BYTE.filter((character) => !ids.has(character));
  if (missing.length === 0) return [];
  const escaped = missing.map((character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return [{ type: "Replace", pattern: { Regex: `[${escaped.join("")}]` }, content: "" }];
}

/**
 * Without a pre-tokenizer a whole text is one word, and merging it is slow. Where no merge spans the end
 * of a word and the `▁` of the next, cutting there changes nothing: pieces merge independently.
 */
function splitAtWords({ merges }: Vocabulary): JsonObject[] {
  if (merges.some(([left, right]) => /[^▁]▁/u.test(left + right))) return [];
  return [isolate("▁+[^▁]*|[^▁]+")];
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
