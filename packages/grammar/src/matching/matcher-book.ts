import type { MaskQuestion } from "./protocol.ts";

/** The library's part of a completion. */
export interface TokenMatcher {
  /** @returns whether the grammar allows it */
  acceptToken(id: number): boolean;
  rollBack(numTokens: number): void;
  dispose(): void;
}

interface Entry<Matcher> {
  readonly matcher: Matcher;
  accepted: Int32Array;
}

/**
 * Matchers of the completions that were asked about last. A question tells all tokens, so that asking twice, asking
 * about fewer tokens than before, and asking about a completion that was forgotten all give the same answer.
 */
export class MatcherBook<Matcher extends TokenMatcher> {
  readonly #open: () => Promise<Matcher>;
  readonly #maxMatchers: number;
  readonly #entries = new Map<string, Entry<Matcher>>();

  constructor(open: () => Promise<Matcher>, maxMatchers: number) {
    this.#open = open;
    this.#maxMatchers = maxMatchers;
  }

  /** @returns the completion's matcher, with exactly these tokens; `undefined` when the grammar does not allow them */
  async at({ matcher: name, tokenIds }: MaskQuestion): Promise<Matcher | undefined> {
    const entry = this.#entries.get(name) ?? { matcher: await this.#open(), accepted: new Int32Array() };
    // The one asked about last is forgotten last.
    this.#entries.delete(name);
    this.#entries.set(name, entry);
    this.#forgetOldest();
    const { matcher, accepted } = entry;
    const common = commonLength(accepted, tokenIds);
    if (accepted.length > common) matcher.rollBack(accepted.length - common);
    entry.accepted = tokenIds;
    for (let index = common; index < tokenIds.length; index++) {
      if (matcher.acceptToken(tokenIds[index] as number)) continue;
      this.#entries.delete(name);
      matcher.dispose();
      return undefined;
    }
    return matcher;
  }

  #forgetOldest(): void {
    for (const [name, { matcher }] of this.#entries) {
      if (this.#entries.size <= this.#maxMatchers) return;
      this.#entries.delete(name);
      matcher.dispose();
    }
  }
}

function commonLength(one: Int32Array, other: Int32Array): number {
  const length = Math.min(one.length, other.length);
  for (let index = 0; index < length; index++) if (one[index] !== other[index]) return index;
  return length;
}
