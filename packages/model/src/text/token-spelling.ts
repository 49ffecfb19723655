// What a token's text in the vocabulary stands for, in bytes.

import { describeValue } from "@readme-moe/core";
import { BYTE_OF_CHARACTER } from "./byte-alphabet.ts";
import { corrupt, expectObject, isJsonObject, type JsonObject, unsupported } from "../files/json-object.ts";

/** How a vocabulary spells bytes, and what is done to a whole text: a tokenizer.json's `decoder`. */
export interface TokenSpelling {
  /** The byte-level alphabet of GPT-2. */
  readonly isByteLevel: boolean;
  /** `<0xAB>` is a byte. */
  readonly hasByteTokens: boolean;
  readonly replacements: readonly { readonly from: string; readonly to: string }[];
  /** A text loses one leading space, which encoding put there. */
  readonly stripsLeadingSpace: boolean;
}

const encoder = new TextEncoder();

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` naming a decoder whose tokens do not stand for bytes one by one */
export function readSpelling(path: string, decoder: unknown): TokenSpelling {
  const spelling = { isByteLevel: false, hasByteTokens: false, stripsLeadingSpace: false };
  const replacements: { from: string; to: string }[] = [];
  const steps = flatten(path, decoder);
  for (const step of steps) {
    if (step["type"] === "ByteLevel") spelling.isByteLevel = true;
    else if (step["type"] === "ByteFallback") spelling.hasByteTokens = true;
    else if (step["type"] === "Replace") replacements.push(readReplacement(path, step));
    else if (step["type"] === "Metaspace") {
      const { replacement, prepend_scheme: scheme, add_prefix_space: hasPrefix } = step;
      replacements.push({ from: typeof replacement === "string" ? replacement : "▁", to: " " });
      if (scheme !== "never" && hasPrefix !== false) spelling.stripsLeadingSpace = true;
    } else if (step["type"] === "Strip" && isLeadingSpaceStrip(step)) spelling.stripsLeadingSpace = true;
    else if (step["type"] !== "Fuse") throw refused(path, step["type"]);
  }
  if (steps.length === 0 || (spelling.isByteLevel && steps.length > 1)) throw refused(path, steps[1]?.["type"]);
  return { ...spelling, replacements };
}

/** The bytes of a token; `isAdded` tokens are written as they are, not in the byte-level alphabet. */
export function spelledBytes(spelling: TokenSpelling, text: string, isAdded: boolean): Uint8Array {
  if (spelling.isByteLevel) return isAdded ? encoder.encode(text) : byteLevelBytes(text);
  if (spelling.hasByteTokens && /^<0x[0-9A-Fa-f]{2}>$/.test(text))
    return Uint8Array.of(Number.parseInt(text.slice(3, 5), 16));
  return encoder.encode(
    spelling.replacements.reduce((spelled, { from, to }) => spelled.replaceAll(from, () => to), text),
  );
}

function byteLevelBytes(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length);
  let length = 0;
  for (const character of text) {
    const byte = BYTE_OF_CHARACTER.get(character);
    // A token with a character outside the alphabet was never spelled in it.
    if (byte === undefined) return encoder.encode(text);
    bytes[length++] = byte;
  }
  return bytes.subarray(0, length);
}

function readReplacement(path: string, step: JsonObject): { from: string; to: string } {
  const { String: from } = isJsonObject(step["pattern"]) ? step["pattern"] : {};
  const to = step["content"];
  if (typeof from === "string" && from !== "" && typeof to === "string") return { from, to };
  throw unsupported(path, `decoder "Replace" of the pattern ${describeValue(from)} is not supported`);
}

function isLeadingSpaceStrip(step: JsonObject): boolean {
  return step["content"] === " " && step["start"] === 1 && (step["stop"] ?? 0) === 0;
}

function flatten(path: string, decoder: unknown): JsonObject[] {
  if (decoder === undefined || decoder === null) return [];
  const object = expectObject(path, "`decoder`", decoder);
  if (object["type"] !== "Sequence") return [object];
  const list = object["decoders"];
  if (!Array.isArray(list)) throw corrupt(path, `expected \`decoders\` to be a list, got ${describeValue(list)}`);
  return list.flatMap((inner: unknown) => flatten(path, inner));
}

function refused(path: string, type: unknown): Error {
  return unsupported(path, `decoder ${describeValue(type)} is not supported`);
}
