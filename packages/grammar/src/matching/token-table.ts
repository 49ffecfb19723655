import type { EngineVocabulary } from "@readme-moe/core";

/** Pieces within which GPT-2 joins bytes to tokens: words, digits, signs and blanks, with a blank before them. */
const PIECES = /'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;
/** Pieces of later vocabularies, where line ends join the signs before them. */
const LATER_PIECES =
  /'(?:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+/gu;
/** A token that only later vocabularies can have. */
const LATER_TOKEN = '",\n';

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
   * Splits a text into tokens, nearly as byte-pair encoding does: within each piece, of all neighbours that form a
   * token the pair with the lowest id is joined first. Vocabularies list tokens in the order of learning.
   *
   * @returns the first tokens of a text that has bytes without a token
   */
  tokenize(text: string): readonly number[] {
    const ids = (this.#ids ??= idsByBytes(this.#vocabulary));
    const pieces = text.match(ids.has(LATER_TOKEN) ? LATER_PIECES : PIECES) ?? [];
    const tokens: number[] = [];
    for (const part of pieces.flatMap((piece) => joinedBytes(piece, ids))) {
      const id = ids.get(part);
      if (id === undefined) break;
      tokens.push(id);
    }
    return tokens;
  }
}

function joinedBytes(piece: string, ids: ReadonlyMap<string, number>): readonly string[] {
  const parts = Array.from(Buffer.from(piece), (byte) => String.fromCharCode(byte));
  for (;;) {
    let [lowest, at] = [Infinity, -1];
    for (let index = 0; index + 1 < parts.length; index++) {
      const id = ids.get(`${parts[index]}${parts[index + 1]}`) ?? Infinity;
      if (id < lowest) [lowest, at] = [id, index];
    }
    if (at < 0) return parts;
    parts.splice(at, 2, `${parts[at]}${parts[at + 1]}`);
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
