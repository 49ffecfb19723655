/** Finds where a JSON object or array ends that comes in pieces. */
export class ArgumentScanner {
  #depth = 0;
  #isInString = false;
  #isEscaped = false;

  /** @returns how much of `text` belongs to the value; less than all of it, or `isEnd`, once it is whole */
  scan(text: string): { readonly length: number; readonly isEnd: boolean } {
    for (let index = 0; index < text.length; index++) {
      const character = text[index] as string;
      if (this.#isInString) {
        if (this.#isEscaped) this.#isEscaped = false;
        else if (character === "\\") this.#isEscaped = true;
        else if (character === '"') this.#isInString = false;
        continue;
      }
      if (character === '"') this.#isInString = true;
      else if (character === "{" || character === "[") this.#depth++;
      else if ((character === "}" || character === "]") && --this.#depth <= 0)
        return { length: index + 1, isEnd: true };
    }
    return { length: text.length, isEnd: false };
  }
}
