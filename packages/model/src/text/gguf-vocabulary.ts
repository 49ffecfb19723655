import { describeValue } from "@readme-moe/core";
import { corrupt, quoted } from "../files/errors.ts";
import type { GgufMetadata, GgufValue } from "../gguf/metadata.ts";

/** Values of `tokenizer.ggml.token_type`. */
export const TOKEN_TYPE = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** The vocabulary in a GGUF file's metadata, checked. */
export class GgufVocabulary {
  readonly path: string;
  /** Token texts by id, all different and none empty. */
  readonly tokens: readonly string[]; // [numTokens]
  /** Values of `TOKEN_TYPE`; all normal when the file gives none. */
  readonly types: ArrayLike<number>; // [numTokens]
  readonly ids: ReadonlyMap<string, number>;
  readonly #metadata: GgufMetadata;

  /** @throws {ReadMeError} `ERR_FILE_CORRUPT` naming the key */
  constructor(metadata: GgufMetadata, path: string) {
    this.path = path;
    this.#metadata = metadata;
    const tokens = this.texts("tokenizer.ggml.tokens");
    // Empty tokens only keep the place of their id; llama.cpp gives them the same names.
    this.tokens = tokens.map((token, id) => (token === "" ? `[EMPTY_${id}]` : token));
    const ids = new Map<string, number>();
    for (const [id, token] of this.tokens.entries()) {
      const other = ids.get(token);
      if (other !== undefined) {
        throw this.#corrupt("tokenizer.ggml.tokens", `has the token ${quoted(token)} twice, as ${other} and ${id}`);
      }
      ids.set(token, id);
    }
    this.ids = ids;
    this.types = this.numbers("tokenizer.ggml.token_type") ?? new Uint8Array(tokens.length).fill(TOKEN_TYPE.normal);
  }

  text(key: string): string | undefined {
    const value = this.#metadata.get(key);
    if (value === undefined || typeof value === "string") return value;
    throw this.#unexpected(key, "a string", value);
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.#metadata.get(key) ?? fallback;
    if (typeof value === "boolean") return value;
    throw this.#unexpected(key, "true or false", value);
  }

  /** Returns the text of the token whose id the file has under `key`. */
  tokenOf(key: string): string | undefined {
    const value = this.#metadata.get(key);
    if (value === undefined) return undefined;
    const token = typeof value === "number" ? this.tokens[value] : undefined;
    if (token === undefined) throw this.#unexpected(key, `an id below ${this.tokens.length}`, value);
    return token;
  }

  texts(key: string): readonly string[] {
    const value = this.#metadata.get(key);
    if (Array.isArray(value) && value.every((text: GgufValue) => typeof text === "string")) return value;
    throw this.#unexpected(key, "a list of strings", value);
  }

  /** Returns one number per token, or `undefined` when the file has none. */
  numbers(key: string): ArrayLike<number> | undefined {
    const value = this.#metadata.get(key);
    if (value === undefined) return undefined;
    if (!isNumberList(value)) throw this.#unexpected(key, "a list of numbers", value);
    if (value.length === this.tokens.length) return value;
    throw this.#corrupt(key, `has ${value.length} entries for ${this.tokens.length} tokens`);
  }

  #unexpected(key: string, expectation: string, value: unknown): Error {
    return this.#corrupt(key, `expected ${expectation}, got ${describeValue(value)}`);
  }

  #corrupt(key: string, message: string): Error {
    return corrupt(this.path, `metadata \`${key}\`: ${message}`);
  }
}

function isNumberList(value: GgufValue): value is Int32Array | Float32Array {
  return ArrayBuffer.isView(value) && !(value instanceof BigInt64Array) && !(value instanceof BigUint64Array);
}
