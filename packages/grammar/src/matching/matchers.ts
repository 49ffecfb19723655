import type { MaskQuestion } from "./protocol.ts";

/** The library's state of a completion. */
export interface TokenMatcher {
  /** @returns whether the grammar allows the token */
  acceptToken(id: number): boolean;
  rollBack(numTokens: number): void;
  dispose(): void;
}

interface Entry<Matcher> {
  readonly matcher: Matcher;
  accepted: Int32Array;
}

/**
 * Matchers of the completions that were asked about most recently. A question holds all tokens, so repeated
 * questions, questions with fewer tokens than before, and questions about an evicted completion all get the same
 * answer.
 */
export class Matchers<Matcher extends TokenMatcher> {
  readonly #open: () => Promise<Matcher>;
  readonly #maxMatchers: number;
  readonly #entries = new Map<string, Entry<Matcher>>(); // the most recently used last

  constructor(open: () => Promise<Matcher>, maxMatchers: number) {
    this.#open = open;
    this.#maxMatchers = maxMatchers;
  }

  /** @returns the completion's matcher after exactly these tokens; `undefined` when the grammar does not allow them */
  async at({ matcher: name, tokenIds }: MaskQuestion): Promise<Matcher | undefined> {
    const entry = this.#entries.get(name) ?? { matcher: await this.#open(), accepted: new Int32Array() };
    this.#entries.delete(name);
    this.#entries.set(name, entry);
    this.#evict();
    const { matcher, accepted } = entry;
    const common = commonLength(accepted, tokenIds);
    if (accepted.length > common) matcher.rollBack(accepted.length - common);
    entry.accepted = tokenIds;
    for (const id of tokenIds.subarray(common)) {
      if (matcher.acceptToken(id)) continue;
      this.#entries.delete(name);
      matcher.dispose();
      return undefined;
    }
    return matcher;
  }

  #evict(): void {
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
