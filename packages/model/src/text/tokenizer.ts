import { describeValue, ReadMeError } from "@readme-moe/core";
import { Tokenizer as LibraryTokenizer } from "@huggingface/tokenizers";
import { cleanUp } from "./clean-up.ts";
import { corrupt, expectObject, type JsonObject, unsupported } from "../files/json-object.ts";
import { checkNormalizer, referencePreTokenizer } from "./reference-parity.ts";
import { type NamedToken, namedToken, withConfigTokens } from "./special-tokens.ts";
import { readSpelling, spelledBytes, type TokenSpelling } from "./token-spelling.ts";
import { readVocabulary, type Vocabulary } from "./vocabulary.ts";

/** What a tokenizer is made from: the contents of the two files of a Hugging Face folder. */
export interface TokenizerSource {
  /** Where it comes from, for messages. */
  readonly path: string;
  /** The contents of tokenizer.json, or what is shaped like it. */
  readonly tokenizer: JsonObject;
  /** The contents of tokenizer_config.json; names the tokens that have a role. @default {} */
  readonly config?: JsonObject;
  /** Where `config` comes from, for messages. @default path */
  readonly configPath?: string;
}

export interface EncodeOptions {
  /** Adds what the model expects around a text, such as a BOS token. @default true */
  readonly addSpecialTokens?: boolean;
}

export interface DecodeOptions {
  /** Leaves special tokens out of the text. @default false */
  readonly skipSpecialTokens?: boolean;
}

const NO_BYTES = new Uint8Array();

/**
 * Text to token ids and back.
 *
 * Ids are those of the reference implementation (the Rust crate `tokenizers`). Text is what the tokens'
 * bytes spell as UTF-8; bytes that are no UTF-8 become U+FFFD as the WHATWG Encoding Standard says.
 */
export class Tokenizer {
  /** One more than the largest id. A model's logits may have more columns than this. */
  readonly vocabSize: number;
  readonly bosToken: NamedToken | undefined;
  readonly eosToken: NamedToken | undefined;
  readonly unkToken: NamedToken | undefined;
  readonly padToken: NamedToken | undefined;
  /** Decoding takes one leading space away, which encoding put there. */
  readonly stripsLeadingSpace: boolean;
  /** Decoding removes spaces before punctuation; only where the tokenizer's config says so. */
  readonly cleansUpSpaces: boolean;
  readonly #library: LibraryTokenizer;
  readonly #vocabulary: Vocabulary;
  readonly #spelling: TokenSpelling;
  readonly #addedIds: ReadonlySet<number>;
  readonly #specialIds: ReadonlySet<number>;
  readonly #bytes: (Uint8Array | undefined)[] = []; // [vocabSize], filled as tokens are asked for

  /** @throws {ReadMeError} `ERR_FILE_CORRUPT`; `ERR_MODEL_UNSUPPORTED` naming what this project does not have */
  constructor(source: TokenizerSource) {
    const { path, tokenizer, config = {}, configPath = path } = source;
    const vocabulary = withConfigTokens(configPath, readVocabulary(path, tokenizer), config);
    this.#library = buildLibrary(path, tokenizer, vocabulary);
    // The library has made a map of the merges.
    this.#vocabulary = { ...vocabulary, merges: [] };
    this.#spelling = readSpelling(path, tokenizer["decoder"]);
    this.#addedIds = new Set(this.#vocabulary.added.map(({ id }) => id));
    this.#specialIds = new Set(this.#vocabulary.added.filter(({ special }) => special).map(({ id }) => id));
    this.vocabSize = this.#vocabulary.texts.length;
    this.bosToken = namedToken("bos_token", config, this.#vocabulary);
    this.eosToken = namedToken("eos_token", config, this.#vocabulary);
    this.unkToken = namedToken("unk_token", config, this.#vocabulary);
    this.padToken = namedToken("pad_token", config, this.#vocabulary);
    this.stripsLeadingSpace = this.#spelling.stripsLeadingSpace;
    this.cleansUpSpaces = config["clean_up_tokenization_spaces"] === true;
  }

  /**
   * @param text - lone surrogates count as U+FFFD, since they have no UTF-8
   * @returns a fresh array of ids, shape `[numTokens]`; of an empty text, only what `addSpecialTokens` adds
   */
  encode(text: string, options: EncodeOptions = {}): Int32Array {
    if (typeof text !== "string") throw new TypeError(`Expected \`text\` to be a string, got ${describeValue(text)}`);
    const { addSpecialTokens = true } = options;
    const wellFormed = text.replaceAll(/\p{Surrogate}/gu, "\u{fffd}");
    return Int32Array.from(this.#library.encode(wellFormed, { add_special_tokens: addSpecialTokens }).ids);
  }

  /** @param ids - ids without a token stand for nothing */
  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    const { skipSpecialTokens = false } = options;
    const pieces: Uint8Array[] = [];
    for (const id of ids) {
      if (!(skipSpecialTokens && this.isSpecial(id))) pieces.push(this.tokenBytes(id));
    }
    const bytes = Buffer.concat(pieces);
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
    const stripped = this.stripsLeadingSpace && text.startsWith(" ") ? text.slice(1) : text;
    return this.cleansUpSpaces ? cleanUp(stripped) : stripped;
  }

  /** The token steers the model and is no part of a text. */
  isSpecial(id: number): boolean {
    return this.#specialIds.has(id);
  }

  /** The id of the token that the vocabulary spells `text`, such as `<|im_end|>`. */
  tokenId(text: string): number | undefined {
    return this.#vocabulary.ids.get(text);
  }

  /**
   * Exactly the bytes that a token stands for, often a part of a UTF-8 character; a leading space
   * included. None for an id without a token. The array is shared: do not write to it.
   */
  tokenBytes(id: number): Uint8Array {
    const known = this.#bytes[id];
    if (known !== undefined) return known;
    const text = this.#vocabulary.texts[id];
    if (text === undefined) return NO_BYTES;
    const bytes = spelledBytes(this.#spelling, text, this.#addedIds.has(id));
    this.#bytes[id] = bytes;
    return bytes;
  }
}

function buildLibrary(path: string, tokenizer: JsonObject, vocabulary: Vocabulary): LibraryTokenizer {
  checkNormalizer(path, tokenizer["normalizer"]);
  const model = { ...expectObject(path, "`model`", tokenizer["model"]), type: "BPE", merges: [...vocabulary.merges] };
  const definition = {
    added_tokens: vocabulary.added,
    normalizer: tokenizer["normalizer"] ?? null,
    pre_tokenizer: referencePreTokenizer(path, tokenizer, vocabulary),
    post_processor: tokenizer["post_processor"] ?? null,
    // Decoding is ours (`tokenBytes`), so that streamed and whole texts are the same.
    decoder: null,
    model,
  };
  let library: LibraryTokenizer;
  let ids: readonly unknown[];
  try {
    library = new LibraryTokenizer(definition, {});
    ids = library.encode("").ids;
    // The library keeps its definition, but no longer reads these two: 11 MB for 49,000 tokens.
    model.merges.length = 0;
    Object.assign(model, { vocab: {} });
  } catch (cause) {
    if (cause instanceof ReadMeError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw unsupported(path, `the tokenizer cannot be built (${reason})`, { cause });
  }
  if (!ids.every((id) => typeof id === "number")) {
    throw corrupt(path, "`post_processor` adds a token that is not in the vocabulary");
  }
  return library;
}
