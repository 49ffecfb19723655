// Reads the steps around the model in a tokenizer.json: normalizer, pre-tokenizer and post-processor. Each step does
// what the reference (the Rust crate `tokenizers`) does; a step that differs is refused, since nearly right is wrong.

import { describeValue, isRecord, PatternError } from "@readme-moe/core";
import { Tokenizer as LibraryTokenizer } from "@huggingface/tokenizers";
import { corrupt, quoted, unsupported } from "../files/errors.ts";
import { expectObject, isList, type JsonObject } from "../files/read-file.ts";
import { GPT2_PATTERN, KNOWN_PATTERNS, NUMBER_PATTERN, NUMBERS_PATTERN } from "./known-patterns.ts";
import { normalizeInChunks, replaceInChunks } from "./pausing.ts";
import {
  CHARACTER_OF_BYTE,
  FilePattern,
  growthOf,
  type NormalizerStep,
  type PreTokenizerStep,
  replaceMatches,
  type SearchPattern,
  type SplitStep,
  toByteAlphabet,
} from "./pre-tokenizer.ts";
import type { Vocabulary } from "./vocabulary.ts";
import { precompiledStep } from "./unigram.ts";
import { bertNormalizer, bertPreTokenizer, lowercaseStep } from "./word-piece.ts";

/** Token ids that a post-processor writes before the text, after it, and between two occurrences of it. */
export type Frame = readonly (readonly number[])[];

/** A token that a post-processor adds to a pair of texts, or the place of the first or the second; and its segment. */
type PairItem = { readonly segment: number } & ({ readonly id: number } | { readonly part: 0 | 1 });

export interface Frames {
  readonly withSpecial: Frame;
  readonly plain: Frame;
  /** `undefined` for tokenizers that do not join texts. */
  readonly pair: readonly PairItem[] | undefined;
}

// Real tokenizers have at most four steps, and lengthen a text at most 36-fold: U+FDFA becomes 18 characters by NFKC,
// and a space precedes it.
const MAX_STEPS = 64;
const MAX_GROWTH = 64;
const MAX_PATTERN_LENGTH = 4096;
const MAX_LITERAL_LENGTH = 256;
const MAX_FRAME_LENGTH = 256;

/** Makes a `Split` that keeps the matches and the text between them, each as a piece. */
export function isolate(regex: string): JsonObject {
  return { type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false };
}

/**
 * Reads the normalizer's steps, in order.
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` naming a normalizer that is not supported; `ERR_FILE_CORRUPT`
 */
export function readNormalizer(path: string, normalizer: unknown): NormalizerStep[] {
  const steps = flatten(path, normalizer, "normalizers").flatMap((step): readonly NormalizerStep[] => {
    const { type, prepend } = step;
    switch (type) {
      case "NFC":
      case "NFD":
      case "NFKC":
      case "NFKD":
        return [{ apply: (text) => normalizeInChunks(text, type), grows: type.length === 3 ? 4 : 18 }];
      case "Prepend":
        return [prependStep(typeof prepend === "string" ? prepend : "")];
      case "Replace":
        return [replaceStep(path, step)];
      case "BertNormalizer":
        return bertNormalizer(step);
      case "Precompiled":
        return [precompiledStep(path, step)];
      case "Lowercase":
        return [lowercaseStep()];
      case "Strip":
        return [stripStep(step)];
      default:
        throw refused(path, "normalizer", step);
    }
  });
  checkGrowth(path, "normalizer", steps);
  return steps;
}

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when steps together lengthen a text too much */
export function checkGrowth(path: string, kind: string, steps: readonly { readonly grows: number }[]): void {
  const growth = steps.reduce((product, { grows }) => product * grows, 1);
  if (growth <= MAX_GROWTH) return;
  throw unsupported(path, `the ${kind} can make a text more than ${MAX_GROWTH} times as long`);
}

/** Removes white space at the ends, or at one of them. */
function stripStep({ strip_left: left = true, strip_right: right = true }: JsonObject): NormalizerStep {
  const apply = (text: string): string => {
    let from = 0;
    let to = text.length;
    if (left === true) while (from < to && isSpace(text.charAt(from))) from++;
    if (right === true) while (to > from && isSpace(text.charAt(to - 1))) to--;
    return text.slice(from, to);
  };
  return { apply, grows: 1 };
}

function isSpace(character: string): boolean {
  return /^\p{White_Space}$/u.test(character);
}

function prependStep(prefix: string): NormalizerStep {
  return { apply: (text) => prefix + text, grows: 1 + prefix.length };
}

function replaceStep(path: string, step: JsonObject): NormalizerStep {
  const to = typeof step["content"] === "string" ? step["content"] : "";
  const from = literalPattern(path, step);
  if (from !== undefined && from !== "") {
    return { apply: (text) => replaceInChunks(text, from, to), grows: Math.max(1, to.length / from.length) };
  }
  const pattern = patternOf(path, step);
  return { apply: (text) => replaceMatches(pattern, text, to), grows: growthOf(pattern, to) };
}

/**
 * Reads the pre-tokenizer's steps, in order; none when the whole text is one word.
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` naming a pre-tokenizer that is not supported; `ERR_FILE_CORRUPT`
 */
export function readPreTokenizer(path: string, tokenizer: JsonObject, vocabulary: Vocabulary): PreTokenizerStep[] {
  const given = flatten(path, tokenizer["pre_tokenizer"], "pretokenizers");
  const model = expectObject(path, "`model`", tokenizer["model"]);
  const matching = given.filter((step) => !isWithoutMatches(path, step, tokenizer["normalizer"]));
  const steps = matching.flatMap((step) => preTokenizerSteps(path, step));
  if (given.some((step) => step["type"] === "ByteLevel") && typeof model["unk_token"] !== "string") {
    steps.push(...dropMissingBytes(vocabulary));
  }
  const grows = steps.map((step) => ({ grows: step.type === "prefix" ? 1 + step.prefix.length : 1 }));
  checkGrowth(path, "pre-tokenizer", grows);
  const isOneWord = matching.every((step) => step["type"] === "Metaspace" && step["split"] === false);
  if (isOneWord && model["ignore_merges"] !== true) steps.push(...splitAtWords(vocabulary));
  return steps;
}

/** Checks that a split is at a text that the normalizer's last step replaces: Gemma's is at spaces, which are `▁`. */
function isWithoutMatches(path: string, step: JsonObject, normalizer: unknown): boolean {
  const last = flatten(path, normalizer, "normalizers").at(-1);
  if (step["type"] !== "Split" || last?.["type"] !== "Replace") return false;
  const [cut, replaced, content] = [literalPattern(path, step), literalPattern(path, last), last["content"]];
  return cut === " " && replaced === cut && typeof content === "string" && !content.includes(cut);
}

function preTokenizerSteps(path: string, step: JsonObject): PreTokenizerStep[] {
  switch (step["type"]) {
    // The library's `Digits` knows the ten digits of ASCII only, the reference every numeric character of Unicode.
    case "Digits":
      return [splitAt(patternOf(path, isolate(step["individual_digits"] === true ? NUMBER_PATTERN : NUMBERS_PATTERN)))];
    case "ByteLevel":
      return byteLevelSteps(path, step);
    case "Metaspace":
      return metaspaceSteps(path, step);
    case "BertPreTokenizer":
      return [bertPreTokenizer()];
    case "WhitespaceSplit":
      return [{ ...splitAt(/\P{White_Space}+/gu), dropsRest: true }];
    case "Split":
      return [splitStep(path, step)];
    default:
      throw refused(path, "pre-tokenizer", step);
  }
}

/** Replaces the library's own pattern, whose `\s` is JavaScript's and not the reference's (U+FEFF, U+0085). */
function byteLevelSteps(path: string, step: JsonObject): PreTokenizerStep[] {
  return [
    ...(step["add_prefix_space"] === true ? [{ type: "prefix", prefix: " ", isFirstOnly: false } as const] : []),
    ...(step["use_regex"] === false ? [] : [splitAt(patternOf(path, isolate(GPT2_PATTERN)))]),
    { type: "map", map: toByteAlphabet },
  ];
}

/** Reads also the `add_prefix_space` of older files; `split` is on by default. */
function metaspaceSteps(path: string, step: JsonObject): PreTokenizerStep[] {
  const replacement = typeof step["replacement"] === "string" ? step["replacement"] : "▁";
  if (!/^.$/su.test(replacement)) throw corrupt(path, "expected the `replacement` of `Metaspace` to be one character");
  const scheme = step["add_prefix_space"] === false ? "never" : (step["prepend_scheme"] ?? "always");
  const escaped = `\\u{${replacement.codePointAt(0)?.toString(16)}}`;
  const hasPrefix = scheme === "always" || scheme === "first";
  return [
    { type: "map", map: (text) => text.replaceAll(" ", () => replacement) },
    ...(hasPrefix ? [{ type: "prefix", prefix: replacement, isFirstOnly: scheme === "first" } as const] : []),
    ...(step["split"] === false ? [] : [splitAt(new RegExp(`${escaped}[^${escaped}]*|[^${escaped}]+`, "gu"))]),
  ];
}

function splitStep(path: string, step: JsonObject): PreTokenizerStep {
  const split = splitAt(patternOf(path, step));
  // Isolated pieces are the same with and without `invert`.
  if (step["behavior"] === "Isolated") return split;
  if (step["behavior"] === "Removed" && step["invert"] === true) return { ...split, dropsRest: true };
  if (step["behavior"] === "MergedWithPrevious" && step["invert"] !== true) return { ...split, endsPieces: true };
  throw refused(path, "pre-tokenizer", step);
}

function splitAt(pattern: SearchPattern): SplitStep {
  return { type: "split", pattern, dropsRest: false, endsPieces: false };
}

/**
 * Drops bytes that have no token before their neighbours are merged, as the reference does; the library drops them
 * afterwards. Vocabularies trained on clean text lack some control characters.
 */
function dropMissingBytes({ ids }: Vocabulary): PreTokenizerStep[] {
  const missing = CHARACTER_OF_BYTE.filter((character) => !ids.has(character));
  if (missing.length === 0) return [];
  const escaped = missing.map((character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
  const pattern = new RegExp(`[${escaped.join("")}]`, "gu");
  return [{ type: "map", map: (text) => text.replaceAll(pattern, "") }];
}

/**
 * Cuts a text without pre-tokenizer at its words, since one long word merges slowly. The cuts change nothing: there is
 * none between a character and a `▁` that some merge joins, and elsewhere the pieces merge independently.
 */
function splitAtWords({ merges }: Vocabulary): PreTokenizerStep[] {
  const joined = new Set<string>();
  for (const [left, right] of merges) {
    const text = left + right;
    if (text.lastIndexOf("▁") <= 0) continue;
    for (const [, character = ""] of text.matchAll(/([^▁])(?=▁)/gu)) joined.add(character);
  }
  if (joined.size === 0) return [splitAt(/▁+[^▁]*|[^▁]+/gu)];
  const escaped = Array.from(joined, (character) => `\\u{${character.codePointAt(0)?.toString(16)}}`).join("");
  const rest = `(?:[^▁]|(?<=[${escaped}])▁+)`;
  const pattern = new RegExp(`▁+${rest}*|${rest}+`, "gu");
  return [splitAt(pattern)];
}

// Texts that no vocabulary has as tokens.
const TEXT = "\u{10ffff}text";
const SECOND = "\u{10ffff}second";

/**
 * Finds out which tokens a `post_processor` adds around a text.
 * @param idOf - returns the id of a token that the post-processor names
 * @throws {ReadMeError} `ERR_FILE_CORRUPT`
 * @throws {Error} when the library does not know the post-processor
 */
export function readFrames(path: string, postProcessor: unknown, idOf: (token: string) => number | undefined): Frames {
  const lengths = flatten(path, postProcessor, "processors").map(({ single }) => (isList(single) ? single.length : 1));
  if (lengths.reduce((product, length) => product * Math.max(1, length), 1) > MAX_FRAME_LENGTH) {
    throw unsupported(path, `\`post_processor\` adds more than ${MAX_FRAME_LENGTH} tokens`);
  }
  const { post_processor: built } = libraryWith({ post_processor: postProcessor });
  const frame = (addSpecialTokens: boolean): Frame => {
    const parts: number[][] = [[]];
    for (const token of built ? built.post_process([TEXT], null, addSpecialTokens).tokens : [TEXT]) {
      const id = token === TEXT ? undefined : idOf(token);
      if (token === TEXT) parts.push([]);
      else if (id !== undefined) parts.at(-1)?.push(id);
      else throw corrupt(path, "`post_processor` adds a token that is not in the vocabulary");
    }
    return parts;
  };
  return { withSpecial: frame(true), plain: frame(false), pair: built ? pairOf(path, built, idOf) : undefined };
}

function pairOf(
  path: string,
  built: NonNullable<LibraryParts["post_processor"]>,
  idOf: (token: string) => number | undefined,
): readonly PairItem[] | undefined {
  const { tokens, token_type_ids: segments = [] } = built.post_process([TEXT], [SECOND], true);
  if (tokens.filter((token) => token === TEXT || token === SECOND).length !== 2) return undefined;
  return tokens.map((token, index): PairItem => {
    const segment = segments[index] ?? 0;
    if (token === TEXT || token === SECOND) return { part: token === TEXT ? 0 : 1, segment };
    const id = idOf(token);
    if (id !== undefined) return { id, segment };
    throw corrupt(path, "`post_processor` adds a token that is not in the vocabulary");
  });
}

/**
 * Shortens two texts to `room` tokens: the longer one alone as far as that suffices, then both to about half. Source:
 * `truncate_encodings` with `LongestFirst` of the crate `tokenizers`.
 */
export function pairLengths(first: number, second: number, room: number): readonly [number, number] {
  if (first + second <= room) return [first, second];
  const shorter = Math.min(first, second);
  const half = Math.floor(room / 2);
  const [less, more] = 2 * shorter > room ? [half, room - half] : [shorter, room - shorter];
  return first > second ? [more, less] : [less, more];
}

/**
 * Compiles the pattern of a `Split` or `Replace`, which is in Oniguruma's dialect. JavaScript's own search is used only
 * where it is known to take linear time: for literal texts and for known patterns.
 * @throws {ReadMeError} naming a pattern that is too long or cannot be read
 */
function patternOf(path: string, step: JsonObject): SearchPattern {
  const literal = literalPattern(path, step);
  const { Regex: written } = isRecord(step["pattern"]) ? step["pattern"] : {};
  const text = literal ?? String(written);
  const maxLength = literal === undefined ? MAX_PATTERN_LENGTH : MAX_LITERAL_LENGTH;
  const named = `the pattern ${quoted(text)}`;
  if (text.length > maxLength) throw unsupported(path, `${named} has more than ${maxLength} characters`);
  const split = { type: "Split", pattern: step["pattern"], behavior: "Isolated", invert: true };
  const { pattern } = libraryWith({ pre_tokenizer: split }).pre_tokenizer ?? {};
  if (!(pattern instanceof RegExp)) throw new TypeError("Expected the library to compile a pattern");
  if (literal !== undefined || KNOWN_PATTERNS.has(text)) return pattern;
  const problem = ({ message }: PatternError): Error => unsupported(path, `${named} ${message}`);
  try {
    return new FilePattern(pattern.source, problem);
  } catch (cause) {
    throw cause instanceof PatternError ? problem(cause) : cause;
  }
}

/** The parts of the library that are used here: its reading of patterns, and its post-processors. */
interface LibraryParts {
  readonly pre_tokenizer: { readonly pattern?: unknown } | null;
  readonly post_processor: {
    post_process(
      tokens: string[],
      pair: string[] | null,
      addSpecialTokens: boolean,
    ): { readonly tokens: readonly string[]; readonly token_type_ids?: readonly number[] };
  } | null;
}

/** Builds the library's tokenizer from some parts of a tokenizer.json, with an empty vocabulary. */
function libraryWith(parts: JsonObject): LibraryParts {
  const empty = { added_tokens: [], normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null };
  return new LibraryTokenizer({ ...empty, model: { type: "BPE", vocab: {}, merges: [] }, ...parts }, {});
}

/** Lists a step, or all steps of a sequence, in order. @throws {ReadMeError} when there are too many */
export function flatten(path: string, step: unknown, listName: string): JsonObject[] {
  const steps = stepsOf(path, step, listName);
  if (steps.length <= MAX_STEPS) return steps;
  throw unsupported(path, `\`${listName}\` has ${steps.length} steps, more than ${MAX_STEPS}`);
}

function stepsOf(path: string, step: unknown, listName: string): JsonObject[] {
  if (step === undefined || step === null) return [];
  const object = expectObject(path, `an entry of \`${listName}\``, step);
  if (object["type"] !== "Sequence") return [object];
  const list = object[listName];
  if (!isList(list)) throw corrupt(path, `expected \`${listName}\` to be a list, got ${describeValue(list)}`);
  return list.flatMap((inner) => stepsOf(path, inner, listName));
}

/** Returns a step's pattern when it is a literal text, or `undefined` when it is a regular expression. */
function literalPattern(path: string, step: JsonObject): string | undefined {
  const { String: literal, Regex: regex } = isRecord(step["pattern"]) ? step["pattern"] : {};
  if (typeof literal === "string") return literal;
  if (typeof regex === "string") return undefined;
  throw corrupt(path, `${describeValue(step["type"])} has no pattern`);
}

function refused(path: string, kind: string, step: JsonObject): Error {
  const { type, behavior } = step;
  const detail = type === "Split" ? ` with behavior ${describeValue(behavior)}` : "";
  return unsupported(path, `${kind} ${describeValue(type)}${detail} is not supported`);
}
