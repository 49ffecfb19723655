// The vocabulary of a tokenizer.json, with the checks that the tokenizer library leaves out.

import { describeValue, isRecord } from "@readme-moe/core";
import { MOST } from "../config/fields.ts";
import { corrupt, quoted, unsupported } from "../files/errors.ts";
import { expectObject, isList, type JsonObject } from "../files/read-file.ts";
import { fillInMarks, MARK_NAMES } from "./fill-in-marks.ts";
import { CHUNK_LENGTH } from "./pausing.ts";

/** Roles that a config names tokens for. */
export const TOKEN_ROLES = [
  "bos_token",
  "eos_token",
  "unk_token",
  "pad_token",
  "sep_token",
  "cls_token",
  "mask_token",
] as const;
const LISTS = ["additional_special_tokens", "extra_special_tokens"] as const;

export interface Vocabulary {
  /** Text of each token by id, as the file spells it; holes where no token has the id. */
  readonly texts: readonly (string | undefined)[]; // [vocabSize]
  readonly ids: ReadonlyMap<string, number>;
  /** Two tokens and the one that they make, by rank. */
  readonly merges: readonly (readonly [left: string, right: string, merged: string])[];
  readonly added: readonly AddedToken[];
}

/** A token that a model gives a role. */
export interface NamedToken {
  readonly id: number;
  readonly text: string;
}

/**
 * Reads the vocabulary of a tokenizer.json.
 *
 * @param known - ids by spelling, in place of `model.vocab`
 * @throws {ReadMeError} `ERR_FILE_CORRUPT`; `ERR_MODEL_UNSUPPORTED` for a model that is not read
 */
export function readVocabulary(path: string, tokenizer: JsonObject, known?: ReadonlyMap<string, number>): Vocabulary {
  const model = expectObject(path, "`model`", tokenizer["model"]);
  // Files of early versions of the format give no type.
  const type = model["type"] ?? ("merges" in model ? "BPE" : undefined);
  if (type !== "BPE" && type !== "WordPiece" && type !== "Unigram") {
    const kinds = '"BPE", "WordPiece" and "Unigram"';
    throw unsupported(path, `tokenizer model ${describeValue(type)} is not supported; ${kinds} are`);
  }
  for (const name of type === "BPE" ? ["continuing_subword_prefix", "end_of_word_suffix"] : []) {
    if (model[name]) throw unsupported(path, `\`model.${name}\` ${describeValue(model[name])} is not supported`);
  }
  const texts: (string | undefined)[] = [];
  const ids = new Map<string, number>();
  const vocab: Iterable<readonly [string, unknown]> =
    known ??
    (type === "Unigram" ? piecesOf(path, model) : Object.entries(expectObject(path, "`model.vocab`", model["vocab"])));
  for (const [text, id] of vocab) {
    if (!isTokenId(id)) throw corrupt(path, `token ${quoted(text)} has the id ${describeValue(id)}`);
    if (texts[id] !== undefined)
      throw corrupt(path, `tokens ${quoted(texts[id])} and ${quoted(text)} have the same id ${id}`);
    texts[id] = text;
    ids.set(text, id);
  }
  const merges = type === "BPE" ? readMerges(path, model["merges"], ids) : [];
  const added = readAddedTokens(path, tokenizer["added_tokens"]);
  for (const { id, content } of added) {
    texts[id] = content;
    ids.set(content, id);
  }
  const unknown = model["unk_token"] ?? undefined;
  if (unknown !== undefined && !(typeof unknown === "string" && ids.has(unknown))) {
    throw corrupt(path, `\`model.unk_token\` ${describeValue(unknown)} is not in the vocabulary`);
  }
  return { texts, ids, merges, added };
}

/** Lists the pieces of a unigram model, which have scores; ids are places. */
function piecesOf(path: string, model: JsonObject): readonly (readonly [string, number])[] {
  const { vocab, unk_id: unknown, byte_fallback: hasBytes } = model;
  if (!isList(vocab)) throw corrupt(path, `expected \`model.vocab\` to be a list, got ${describeValue(vocab)}`);
  if (hasBytes === true) throw unsupported(path, "`model.byte_fallback` of a unigram model is not supported");
  const isPlace = unknown === undefined || unknown === null || (isTokenId(unknown) && unknown < vocab.length);
  if (!isPlace) throw corrupt(path, `\`model.unk_id\` ${describeValue(unknown)} is no place in \`model.vocab\``);
  return vocab.map((piece, id) => {
    const [text, score] = isList(piece) ? piece : [];
    if (typeof text === "string" && typeof score === "number" && Number.isFinite(score)) return [text, id];
    throw corrupt(path, `entry ${id} of \`model.vocab\` is no piece with a score`);
  });
}

/**
 * Adds the tokens that only tokenizer_config.json knows, as transformers does when it loads a tokenizer: those of its
 * `added_tokens_decoder`, and every token that has a role. A token with a role is special, also if tokenizer.json
 * says otherwise. So are marks to fill in the middle: Qwen's tokenizer.json calls them ordinary added tokens.
 */
export function withConfigTokens(path: string, vocabulary: Vocabulary, config: JsonObject): Vocabulary {
  const added = new Map(vocabulary.added.map((token) => [token.content, token]));
  const texts = [...vocabulary.texts];
  const ids = new Map(vocabulary.ids);
  const add = (token: AddedToken): void => {
    added.set(token.content, token);
    texts[token.id] = token.content;
    ids.set(token.content, token.id);
  };
  const decoder = config["added_tokens_decoder"];
  for (const [key, value] of Object.entries(isRecord(decoder) ? decoder : {})) {
    const token = toAddedToken(path, Number(key), value);
    // Encoding follows tokenizer.json, so an id or a text that is known from there stays as it is.
    const isNew = !added.has(token.content) && (texts[token.id] ?? token.content) === token.content;
    if (isNew && (ids.get(token.content) ?? token.id) === token.id) add(token);
  }
  for (const content of roleTexts(config)) {
    const id = ids.get(content);
    if (id === undefined || content === "") continue;
    const known = added.get(content) ?? { id, content, normalized: false, lstrip: false, rstrip: false };
    add({ ...known, special: true });
  }
  const roleOf = (role: string): string | undefined => tokenText(config[role]);
  const marks = fillInMarks({ tokenId: (text) => ids.get(text), roleOf });
  for (const name of MARK_NAMES) {
    const known = added.get(marks?.[name]?.text ?? "");
    if (known) add({ ...known, special: true });
  }
  return { ...vocabulary, texts, ids, added: [...added.values()] };
}

/** Returns the token of a role such as `bos_token`, or `undefined` without a role or without such a token. */
export function namedToken(
  name: (typeof TOKEN_ROLES)[number],
  config: JsonObject,
  vocabulary: Vocabulary,
): NamedToken | undefined {
  const text = tokenText(config[name]);
  const id = text === undefined ? undefined : vocabulary.ids.get(text);
  return text === undefined || id === undefined ? undefined : { id, text };
}

function roleTexts(config: JsonObject): string[] {
  const lists = LISTS.map((name) => config[name]).filter(isList);
  return [...TOKEN_ROLES.map((name) => config[name]), ...lists.flat()]
    .map(tokenText)
    .filter((text) => text !== undefined);
}

/** Returns the text of a token, which a config gives as a string or as the `content` of an object. */
export function tokenText(value: unknown): string | undefined {
  const text = isRecord(value) ? value["content"] : value;
  return typeof text === "string" ? text : undefined;
}

function isTokenId(value: unknown): value is number {
  // Ids index arrays.
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value < MOST.vocab;
}

/** Reads one entry of `added_tokens`, or of `added_tokens_decoder` of a tokenizer_config.json. */
function toAddedToken(path: string, id: unknown, value: unknown): AddedToken {
  const { content, special, normalized, lstrip, rstrip } = isRecord(value) ? value : {};
  if (!isTokenId(id) || typeof content !== "string" || content === "") {
    throw corrupt(path, `added token ${describeValue(content)} has the id ${describeValue(id)}`);
  }
  return {
    id,
    content,
    special: special === true,
    normalized: typeof normalized === "boolean" ? normalized : special !== true,
    lstrip: lstrip === true,
    rstrip: rstrip === true,
  };
}

function readMerges(path: string, value: unknown, ids: ReadonlyMap<string, number>): Vocabulary["merges"] {
  if (!isList(value)) throw corrupt(path, `expected \`model.merges\` to be a list, got ${describeValue(value)}`);
  return value.map((merge, index) => {
    const pair = typeof merge === "string" ? merge.split(" ") : merge;
    const [left, right] = isList(pair) && pair.length === 2 ? pair : [];
    if (typeof left !== "string" || typeof right !== "string") {
      throw corrupt(path, `merge ${index} is ${describeValue(merge)}, expected two tokens`);
    }
    const names = [left, right, left + right] as const;
    for (const token of names) {
      if (!ids.has(token))
        throw corrupt(path, `merge ${index} names the token ${quoted(token)}, which is not in the vocabulary`);
    }
    return names;
  });
}

function readAddedTokens(path: string, value: unknown): AddedToken[] {
  const list = value ?? [];
  if (!isList(list)) throw corrupt(path, `expected \`added_tokens\` to be a list, got ${describeValue(value)}`);
  return list.map((token) => toAddedToken(path, isRecord(token) ? token["id"] : undefined, token));
}

// Added tokens: which they are, and how they are found in a text.

/** A token that is cut out of a text before BPE sees the rest. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Whether the token steers the model and is no part of the text; `skipSpecialTokens` leaves such tokens out. */
  readonly special: boolean;
  /** Whether the token is searched for in the normalized text. */
  readonly normalized: boolean;
  /** Whether the token takes the spaces before it. */
  readonly lstrip: boolean;
  /** Whether the token takes the spaces after it. */
  readonly rstrip: boolean;
}

/** A stretch of text, or the spelling of an added token. */
interface Section {
  readonly text: string;
  /** Place among the sections of the text; empty ones count. */
  readonly index: number;
  readonly token: AddedToken | undefined;
}

interface TrieNode {
  readonly next: Map<number, TrieNode>;
  /** Whether a spelling ends here. */
  isEnd: boolean;
}

// A search takes as many steps for a character as the longest spelling is long. Real spellings have tens of characters;
// vocabularies for speech have 2 ** 16 added tokens, whose tries have some 200,000 nodes.
const MAX_SPELLING_LENGTH = 1024;
const MAX_NODES = 2 ** 19;

/** Finds spellings of tokens in texts. */
export class SpellingTrie {
  readonly #root: TrieNode = { next: new Map(), isEnd: false };
  #numNodes = 0;

  /** @throws {Error} when a spelling is too long, or when there are too many */
  constructor(spellings: Iterable<string>) {
    for (const spelling of spellings) this.#insert(spelling);
  }

  /** Returns the length of the longest spelling that begins at `at`, 0 for none. */
  matchAt(text: string, at: number): number {
    let node = this.#root.next.get(text.charCodeAt(at));
    let length = 0;
    for (let end = at + 1; node !== undefined; end++) {
      if (node.isEnd) length = end - at;
      node = end < text.length ? node.next.get(text.charCodeAt(end)) : undefined;
    }
    return length;
  }

  /** Checks that a spelling begins with the rest of `text`, from `at` on. */
  beginsAt(text: string, at: number): boolean {
    let node: TrieNode | undefined = this.#root;
    for (let end = at; end < text.length && node !== undefined; end++) node = node.next.get(text.charCodeAt(end));
    return node !== undefined;
  }

  #insert(spelling: string): void {
    if (spelling.length > MAX_SPELLING_LENGTH) {
      throw new Error(`an added token has more than ${MAX_SPELLING_LENGTH} characters`);
    }
    let node = this.#root;
    for (let at = 0; at < spelling.length; at++) {
      const unit = spelling.charCodeAt(at);
      let next = node.next.get(unit);
      if (next === undefined) {
        if (++this.#numNodes > MAX_NODES) throw new Error("the added tokens have too many characters");
        next = { next: new Map(), isEnd: false };
        node.next.set(unit, next);
      }
      node = next;
    }
    if (spelling !== "") node.isEnd = true;
  }
}

/** Cuts texts at the spellings of added tokens: at the leftmost, and there at the longest. */
export class AddedTokenSplitter {
  readonly #tokens: ReadonlyMap<string, AddedToken>;
  readonly #spellings: SpellingTrie;

  /**
   * @param spellings - spellings at which texts are cut
   * @param tokens - tokens by spelling; further spellings count when a whole section has them
   */
  constructor(spellings: Iterable<string>, tokens: ReadonlyMap<string, AddedToken>) {
    this.#tokens = tokens;
    this.#spellings = new SpellingTrie(spellings);
  }

  /** Yields the sections that are not empty, and `undefined` where the caller may pause. */
  *split(text: string): Generator<Section | undefined, void> {
    let index = 0;
    let held: string | undefined;
    let isTrimmed = false; // whether the token before `held` takes its leading spaces
    for (const part of this.#parts(text)) {
      if (part === undefined) {
        yield undefined;
        continue;
      }
      const next: string = isTrimmed ? part.trimStart() : part;
      const token = this.#tokens.get(next);
      if (held !== undefined) yield* this.#section(token?.lstrip ? held.trimEnd() : held, index++);
      held = next;
      isTrimmed = token?.rstrip === true;
    }
    if (held !== undefined) yield* this.#section(held, index);
  }

  *#section(text: string, index: number): Generator<Section, void> {
    if (text !== "") yield { text, index, token: this.#tokens.get(text) };
  }

  *#parts(text: string): Generator<string | undefined, void> {
    let start = 0;
    let pauseAt = CHUNK_LENGTH;
    for (let at = 0; at < text.length;) {
      const length = this.#spellings.matchAt(text, at);
      if (length > 0) {
        if (at > start) yield text.slice(start, at);
        yield text.slice(at, at + length);
        start = at + length;
      }
      at += Math.max(1, length);
      if (at >= pauseAt) {
        pauseAt = at + CHUNK_LENGTH;
        yield undefined;
      }
    }
    if (start < text.length) yield text.slice(start);
  }
}
