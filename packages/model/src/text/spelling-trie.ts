interface TrieNode {
  readonly next: Map<number, TrieNode>;
  /** A spelling ends here. */
  isEnd: boolean;
}

/** Spellings of tokens, to be found in texts. */
export class SpellingTrie {
  readonly #root: TrieNode = { next: new Map(), isEnd: false };

  constructor(spellings: Iterable<string>) {
    for (const spelling of spellings) this.#insert(spelling);
  }

  /** The length of the longest spelling that begins at `at`, 0 for none. */
  matchAt(text: string, at: number): number {
    let node = this.#root.next.get(text.charCodeAt(at));
    let length = 0;
    for (let end = at + 1; node !== undefined; end++) {
      if (node.isEnd) length = end - at;
      node = end < text.length ? node.next.get(text.charCodeAt(end)) : undefined;
    }
    return length;
  }

  /** Whether all of `text` from `at` on begins a spelling. */
  beginsAt(text: string, at: number): boolean {
    let node: TrieNode | undefined = this.#root;
    for (let end = at; end < text.length && node !== undefined; end++) node = node.next.get(text.charCodeAt(end));
    return node !== undefined;
  }

  #insert(spelling: string): void {
    let node = this.#root;
    for (let at = 0; at < spelling.length; at++) {
      const unit = spelling.charCodeAt(at);
      const next = node.next.get(unit) ?? { next: new Map(), isEnd: false };
      node.next.set(unit, next);
      node = next;
    }
    if (spelling !== "") node.isEnd = true;
  }
}
