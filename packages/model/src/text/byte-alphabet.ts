// The alphabet of byte-level BPE (GPT-2): every byte is written as one visible character, so that a
// vocabulary of arbitrary bytes can be stored as text.

/** The character that stands for each byte, by byte. */
export const CHARACTER_OF_BYTE: readonly string[] = buildAlphabet();

/** The byte that each character of the alphabet stands for. */
export const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = new Map(
  CHARACTER_OF_BYTE.map((character, byte) => [character, byte]),
);

/** Bytes that are visible in Latin-1 stand for themselves; the others, in order, are U+0100 and up. */
function buildAlphabet(): string[] {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isVisible(byte) ? byte : next++));
}

function isVisible(byte: number): boolean {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}
