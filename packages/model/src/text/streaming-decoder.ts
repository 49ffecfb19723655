import { cleanablePrefixLength, cleanUp } from "./clean-up.ts";
import type { DecodeOptions, Tokenizer } from "./tokenizer.ts";

/**
 * Turns the tokens of one generation into text as they come.
 *
 * What `push` gave never changes later: bytes that are not yet a whole UTF-8 character wait. All pushes
 * and `flush` together are `tokenizer.decode` of all ids with the same options.
 */
export class StreamingDecoder {
  readonly #tokenizer: Tokenizer;
  readonly #skipsSpecialTokens: boolean;
  readonly #utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  #isAtStart = true;
  #uncleaned = ""; // text that clean-up may still change

  constructor(tokenizer: Tokenizer, options: DecodeOptions = {}) {
    this.#tokenizer = tokenizer;
    this.#skipsSpecialTokens = options.skipSpecialTokens ?? false;
  }

  /** @returns the text that is final with this token, often empty */
  push(id: number): string {
    if (this.#skipsSpecialTokens && this.#tokenizer.isSpecial(id)) return "";
    const text = this.#strip(this.#utf8.decode(this.#tokenizer.tokenBytes(id), { stream: true }));
    if (!this.#tokenizer.cleansUpSpaces) return text;
    this.#uncleaned += text;
    const length = cleanablePrefixLength(this.#uncleaned);
    const cleaned = cleanUp(this.#uncleaned.slice(0, length));
    this.#uncleaned = this.#uncleaned.slice(length);
    return cleaned;
  }

  /** @returns the rest, with U+FFFD for bytes that stayed incomplete; the decoder is then as new */
  flush(): string {
    const text = this.#uncleaned + this.#strip(this.#utf8.decode());
    this.#uncleaned = "";
    this.#isAtStart = true;
    return this.#tokenizer.cleansUpSpaces ? cleanUp(text) : text;
  }

  #strip(text: string): string {
    if (!this.#isAtStart || text === "") return text;
    this.#isAtStart = false;
    return this.#tokenizer.stripsLeadingSpace && text.startsWith(" ") ? text.slice(1) : text;
  }
}
