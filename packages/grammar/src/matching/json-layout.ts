const BLANKS = " \t\n\r";

/** Blanks between the parts of JSON: seen in a text so far, and probable in what follows. */
export class JsonLayout {
  #isInString = false;
  #isEscaped = false;
  #depth = 0;
  /** Last character outside strings that is no blank. */
  #last = "";
  /** Blanks since then. */
  #blanks = "";
  #afterColon = " ";
  #afterComma = " ";
  #afterOpen = "";
  /** Indentation of one level; `undefined` if members share a line. */
  #indent: string | undefined;

  read(text: string): void {
    for (const character of text) this.#push(character);
  }

  /** Finds the blanks that probably come before a character that is no blank, without those that were read. */
  blanksBefore(next: string): string {
    const whole = this.#probableBlanks(next);
    return whole.startsWith(this.#blanks) ? whole.slice(this.#blanks.length) : "";
  }

  #probableBlanks(next: string): string {
    if (next === "," || next === ":") return "";
    const isClosing = next === "}" || next === "]";
    if (isClosing && (this.#last === "{" || this.#last === "[")) return "";
    if (this.#last === ":") return this.#afterColon;
    if (this.#indent !== undefined) return `\n${this.#indent.repeat(Math.max(0, this.#depth - (isClosing ? 1 : 0)))}`;
    if (this.#last === ",") return this.#afterComma;
    return this.#depth > 0 ? this.#afterOpen : "";
  }

  #push(character: string): void {
    if (this.#isInString) {
      if (this.#isEscaped) this.#isEscaped = false;
      else if (character === "\\") this.#isEscaped = true;
      else if (character === '"') this.#isInString = false;
      return;
    }
    if (BLANKS.includes(character)) {
      this.#blanks += character;
      return;
    }
    this.#learn();
    this.#last = character;
    this.#blanks = "";
    if (character === '"') this.#isInString = true;
    else if (character === "{" || character === "[") this.#depth++;
    else if (character === "}" || character === "]") this.#depth = Math.max(0, this.#depth - 1);
  }

  /** Remembers the blanks before a character. */
  #learn(): void {
    if (this.#last === ":") this.#afterColon = this.#blanks;
    else if (this.#last === ",") this.#afterComma = this.#blanks;
    else if (this.#last === "{" || this.#last === "[") this.#afterOpen = this.#blanks;
    else return;
    if (this.#last === ":" || this.#depth === 0) return;
    const width = (this.#blanks.length - 1) / this.#depth;
    const isIndented = this.#blanks.startsWith("\n") && Number.isInteger(width);
    this.#indent = isIndented ? this.#blanks.slice(1, 1 + width) : undefined;
  }
}
