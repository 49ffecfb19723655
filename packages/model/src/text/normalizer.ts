// The normalizer of a tokenizer.json, applied to long texts with pauses.

import type { JsonObject } from "../files/json-object.ts";
import { type NormalizationForm, orderMarkRuns } from "./combining-marks.ts";
import { CHUNK_LENGTH, replaceInChunks } from "./in-chunks.ts";
import { regexOf } from "./library-regex.ts";

/** One step of a normalizer. */
export interface NormalizerStep {
  readonly apply: (text: string) => string | Generator<void, string>;
  /** By how much the step makes a text's UTF-8 shorter at most; `Infinity` where that is not known. */
  readonly shrinks: number;
}

/** @param steps - of the types that `checkNormalizer` lets through */
export function normalizerSteps(steps: readonly JsonObject[]): NormalizerStep[] {
  return steps.map(toStep);
}

function toStep(step: JsonObject): NormalizerStep {
  switch (step["type"]) {
    case "Prepend": {
      const prefix = typeof step["prepend"] === "string" ? step["prepend"] : "";
      return { apply: (text) => prefix + text, shrinks: 1 };
    }
    case "Replace":
      return replace(step);
    default: {
      const form = step["type"] as NormalizationForm;
      // No text becomes shorter by more: U+1D400 (4 bytes) is A; U+1FBE U+0308 U+0301 (7 bytes) are U+0390 (2 bytes).
      return { apply: (text) => normalizeInChunks(text, form), shrinks: 4 };
    }
  }
}

function replace(step: JsonObject): NormalizerStep {
  const to = typeof step["content"] === "string" ? step["content"] : "";
  const pattern = step["pattern"] as { readonly String?: unknown };
  if (typeof pattern.String === "string" && pattern.String !== "") {
    const from = pattern.String;
    const shrinks = to === "" ? Infinity : Buffer.byteLength(from) / Buffer.byteLength(to);
    return { apply: (text) => replaceInChunks(text, from, to), shrinks: Math.max(1, shrinks) };
  }
  const regex = regexOf(step);
  // What a pattern matches may depend on all of the text.
  return { apply: (text) => text.replaceAll(regex, to), shrinks: Infinity };
}

/** `text.normalize(form)`, cut where neither side has an effect on the other. */
export function* normalizeInChunks(text: string, form: NormalizationForm): Generator<void, string> {
  const parts: string[] = [];
  for (let start = 0; start < text.length;) {
    const end = yield* safeEnd(text, start, form);
    parts.push((yield* orderMarkRuns(text.slice(start, end), form)).normalize(form));
    start = end;
    if (start < text.length) yield;
  }
  return parts.join("");
}

function* safeEnd(text: string, start: number, form: NormalizationForm): Generator<void, number> {
  let end = start + CHUNK_LENGTH;
  for (let count = 0; end < text.length && !beginsAnew(text, end, form); count++) {
    end++;
    if (count % CHUNK_LENGTH === CHUNK_LENGTH - 1) yield;
  }
  return Math.min(end, text.length);
}

// Marks, and what composes with the character before it: vowels and final consonants of Hangul and of Kirat Rai.
const CONTINUES = /^[\p{M}\u1160-\u11ff\ud7b0-\ud7ff\u{16d40}-\u{16d7f}]/u;

/** Whether the character at `at` neither composes with what is before it nor moves before it. */
function beginsAnew(text: string, at: number, form: NormalizationForm): boolean {
  const unit = text.charCodeAt(at);
  if (unit < 0x300) return true;
  if (unit >= 0xdc00 && unit <= 0xdfff) return false;
  const character = String.fromCodePoint(text.codePointAt(at) as number);
  return !CONTINUES.test(character.normalize(form === "NFC" || form === "NFD" ? "NFD" : "NFKD"));
}
