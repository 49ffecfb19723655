// Reads one character, class or escape of a JavaScript expression. JavaScript itself decides what it matches: a single
// character takes no time worth mentioning.

/** Tells whether a character, a whole code point, matches. */
export type Accepts = (character: string) => boolean;

/** An expression with a part that is wrong or is not read here, or that takes too long. */
export class PatternError extends Error {}

/** Numbers of digits behind the letters of escapes. */
const DIGITS: ReadonlyMap<string, number> = new Map([
  ["c", 1],
  ["u", 4],
  ["x", 2],
]);

/**
 * Reads what begins at `at`.
 * @param text - an expression that JavaScript accepts, by characters
 * @throws {PatternError} for an anchor or a reference to a group
 */
export function readCharacter(
  text: readonly string[],
  at: number,
): { readonly accepts: Accepts; readonly end: number } {
  const end = text[at] === "[" ? classEnd(text, at) : text[at] === "\\" ? escapeEnd(text, at) : at + 1;
  const written = text.slice(at, end).join("");
  if (/^(?:[$*+?^]|\\[1-9Bbk])/.test(written)) throw new PatternError(`has \`${written}\`, which is not read`);
  const one = new RegExp(`^(?:${written})$`, "su");
  return { accepts: (character) => one.test(character), end };
}

function classEnd(text: readonly string[], at: number): number {
  let end = at + 1;
  while (end < text.length && text[end] !== "]") end += text[end] === "\\" ? 2 : 1;
  return end + 1;
}

function escapeEnd(text: readonly string[], at: number): number {
  const letter = text[at + 1] ?? "";
  if (text[at + 2] === "{" && /[pPu]/.test(letter)) return text.indexOf("}", at) + 1;
  const end = at + 2 + (DIGITS.get(letter) ?? 0);
  // Two escapes of surrogates are one character.
  const isPair = /^u[dD][89abAB].{2}\\u[dD][c-fC-F]/.test(text.slice(at + 1, end + 4).join(""));
  return isPair ? end + 6 : end;
}
