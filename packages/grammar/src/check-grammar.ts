const MAX_SHOWN = 80;

/**
 * Refuses what the library gets wrong without a word: classes with characters outside ASCII. `[^\x00-\x7f]` is right.
 * @throws {TypeError} naming the class
 */
export function checkGrammar(ebnf: string): void {
  for (const found of classesOf(ebnf)) {
    const numbers = Array.from(found.matchAll(/\\(?:x([0-9a-fA-F]{1,2})|u\{?([0-9a-fA-F]{1,8})|U([0-9a-fA-F]{1,8}))/g));
    const isBeyond = numbers.some(([, x, u, long]) => Number.parseInt(x ?? u ?? long ?? "0", 16) > 0x7f);
    // oxlint-disable-next-line no-control-regex -- all of ASCII
    if (!isBeyond && /^[\x00-\x7f]*$/.test(found)) continue;
    const shown = found.length > MAX_SHOWN ? `${found.slice(0, MAX_SHOWN)}…` : found;
    throw new TypeError(`Expected classes of ASCII characters in the grammar, got ${shown}; write others as texts`);
  }
}

/** In one pass; texts and comments are passed over, since brackets in them are nothing. */
function* classesOf(ebnf: string): Generator<string> {
  for (let at = 0; at < ebnf.length; at++) {
    const start = at;
    switch (ebnf.charAt(at)) {
      case "#":
        while (at < ebnf.length && ebnf[at] !== "\n") at++;
        break;
      case '"':
        // One that does not end is refused by the library.
        for (at++; at < ebnf.length && ebnf[at] !== '"' && ebnf[at] !== "\n"; at++) if (ebnf[at] === "\\") at++;
        break;
      case "[":
        for (at++; at < ebnf.length && ebnf[at] !== "]"; at++) if (ebnf[at] === "\\") at++;
        yield ebnf.slice(start, at + 1);
        break;
      default:
        break;
    }
  }
}
