/**
 * Refuses what the library gets wrong without a word: classes with characters outside ASCII. `[^\x00-\x7f]` is right.
 * @throws {TypeError} naming the class
 */
export function checkGrammar(ebnf: string): void {
  // Texts and comments are passed over, since brackets in them are nothing.
  for (const [found] of ebnf.matchAll(/"(?:[^"\\\n]|\\[^])*"|#[^\n]*|\[(?:[^\]\\]|\\[^])*\]/g)) {
    if (!found.startsWith("[")) continue;
    const numbers = Array.from(found.matchAll(/\\(?:x([0-9a-fA-F]{1,2})|u\{?([0-9a-fA-F]{1,8})|U([0-9a-fA-F]{1,8}))/g));
    const isBeyond = numbers.some(([, x, u, long]) => Number.parseInt(x ?? u ?? long ?? "0", 16) > 0x7f);
    // oxlint-disable-next-line no-control-regex -- all of ASCII
    if (!isBeyond && /^[\x00-\x7f]*$/.test(found)) continue;
    throw new TypeError(`Expected classes of ASCII characters in the grammar, got ${found}; write others as texts`);
  }
}
