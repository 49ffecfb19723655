// Words of real texts are short; a hostile text must not fill the memory with long ones.
const [MAX_WORD_LENGTH, MAX_WORDS] = [64, 8192];

/** Symbols of words that came lately: at most two times `MAX_WORDS` of them. */
export class WordCache {
  #recent = new Map<string, Int32Array>();
  #older = new Map<string, Int32Array>();

  get(word: string): Int32Array | undefined {
    const symbols = this.#recent.get(word);
    if (symbols !== undefined) return symbols;
    const older = this.#older.get(word);
    if (older !== undefined) this.#put(word, older);
    return older;
  }

  add(word: string, symbols: Int32Array): void {
    // A part of a string keeps the whole string in memory, so the cache has a copy.
    if (word.length <= MAX_WORD_LENGTH) this.#put(Buffer.from(word, "utf16le").toString("utf16le"), symbols);
  }

  #put(word: string, symbols: Int32Array): void {
    if (this.#recent.size >= MAX_WORDS) [this.#older, this.#recent] = [this.#recent, new Map()];
    this.#recent.set(word, symbols);
  }
}
