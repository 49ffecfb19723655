/** A list of token ids that grows. */
export class TokenIds {
  /** The id that a word gave last in this stretch of text, -1 at its beginning: unknown neighbours become one token. */
  last = -1;
  #ids = new Int32Array(64);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(id: number): void {
    if (this.#length === this.#ids.length) {
      const grown = new Int32Array(2 * this.#length);
      grown.set(this.#ids);
      this.#ids = grown;
    }
    this.#ids[this.#length++] = id;
  }

  toArray(): Int32Array {
    return this.#ids.slice(0, this.#length);
  }
}
