import type { EngineVocabulary } from "@readme-moe/core";

/** Tokens by their bytes. */
export class TokenTable {
  readonly #vocabulary: EngineVocabulary;
  /** Ids by bytes, each as a character. */
  #ids: ReadonlyMap<string, number> | undefined;

  constructor(vocabulary: EngineVocabulary) {
    this.#vocabulary = vocabulary;
  }

  /** Decodes the bytes of tokens; a part of a character at the end becomes a replacement character. */
  textOf(tokenIds: Int32Array): string {
    const { bytes, offsets } = this.#vocabulary;
    return Buffer.concat(Array.from(tokenIds, (id) => bytes.subarray(offsets[id], offsets[id + 1]))).toString();
  }

  /**
   * Splits a text into tokens, nearly as byte-pair encoding does: of all neighbours that form a token the pair with the
   * lowest id is joined first, since vocabularies list tokens in the order in which they were learned.
   *
   * @returns the first tokens of a text that has bytes without a token
   */
  tokenize(text: string): readonly number[] {
    const ids = (this.#ids ??= idsByBytes(this.#vocabulary));
    const parts = Array.from(Buffer.from(text), (byte) => String.fromCharCode(byte));
    for (;;) {
      let [lowest, at] = [Infinity, -1];
      for (let index = 0; index + 1 < parts.length; index++) {
        const id = ids.get(`${parts[index]}${parts[index + 1]}`) ?? Infinity;
        if (id < lowest) [lowest, at] = [id, index];
      }
      if (at < 0) break;
      parts.splice(at, 2, `${parts[at]}${parts[at + 1]}`);
    }
    const tokens: number[] = [];
    for (const part of parts) {
      const id = ids.get(part);
      if (id === undefined) break;
      tokens.push(id);
    }
    return tokens;
  }
}

function idsByBytes({ vocabSize, bytes, offsets }: EngineVocabulary): ReadonlyMap<string, number> {
  const ids = new Map<string, number>();
  const all = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let id = 0; id < vocabSize; id++) {
    const key = all.toString("latin1", offsets[id], offsets[id + 1]);
    if (key !== "" && !ids.has(key)) ids.set(key, id);
  }
  return ids;
}
