// Scans the bytes of a body before they are parsed. Deep nesting and very many parts take long to parse.

import { LIMITS } from "../../limits.ts";

const [QUOTE, BACKSLASH, COLON, COMMA] = [0x22, 0x5c, 0x3a, 0x2c];
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d];

/**
 * Counts levels of nesting, lists and objects, properties and items of a JSON text; stops at the first limit that is passed.
 *
 * @param bytes - UTF-8; what is no JSON is for the parser to refuse
 * @returns what was too much, as a message for clients; `undefined` where the text may be parsed
 */
export function tooComplex(bytes: Uint8Array): string | undefined {
  const { bodyValues, bodyDepth, bodyItems } = LIMITS;
  const [maxParts, maxDepth, maxItems] = [bodyValues.value, bodyDepth.value, bodyItems.value];
  let [depth, numParts, numItems] = [0, 0, 0];
  for (let index = 0; index < bytes.length; index++) {
    const byte = bytes[index];
    if (byte === QUOTE) index = endOfText(bytes, index + 1);
    else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) depth--;
    else if (byte === COLON) numParts++;
    else if (byte === COMMA && ++numItems >= maxItems) return `expected at most ${maxItems} items and properties`;
    else if (byte === OPEN_LIST || byte === OPEN_OBJECT) {
      numParts++;
      if (++depth > maxDepth) return `expected at most ${maxDepth} levels of nesting`;
    }
    if (numParts > maxParts) return `expected at most ${maxParts} lists, objects and properties`;
  }
  return undefined;
}

/** @returns the index of the quote that ends the text, or the length of `bytes` */
function endOfText(bytes: Uint8Array, start: number): number {
  for (let quote = bytes.indexOf(QUOTE, start); quote >= 0; quote = bytes.indexOf(QUOTE, quote + 1)) {
    let numBackslashes = 0;
    while (quote - numBackslashes > start && bytes[quote - numBackslashes - 1] === BACKSLASH) numBackslashes++;
    if (numBackslashes % 2 === 0) return quote;
  }
  return bytes.length;
}
