// The vocabulary of a tokenizer.json, checked: what the tokenizer library takes on trust.

import { describeValue } from "@readme-moe/core";
import { quoted } from "../files/quoted.ts";
import { corrupt, expectObject, isJsonObject, type JsonObject, unsupported } from "../files/json-object.ts";

// No real vocabulary comes near (the largest have some 2 ** 18 tokens); ids index arrays.
const MAX_TOKEN_ID = 2 ** 24 - 1;

/** A token that is cut out of a text before BPE sees the rest. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Steers the model, and is no part of the text: `skipSpecialTokens` leaves it out. */
  readonly special: boolean;
  readonly normalized: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
}

export interface Vocabulary {
  /** The text of each token by id, as the file spells it; holes where no token has the id. */
  readonly texts: readonly (string | undefined)[]; // [vocabSize]
  readonly ids: ReadonlyMap<string, number>;
  readonly merges: readonly (readonly [string, string])[];
  readonly added: readonly AddedToken[];
}

/** @throws {ReadMeError} `ERR_FILE_CORRUPT`, or `ERR_MODEL_UNSUPPORTED` for any model but BPE */
export function readVocabulary(path: string, tokenizer: JsonObject): Vocabulary {
  const model = expectObject(path, "`model`", tokenizer["model"]);
  // Files of early versions of the format give no type.
  const type = model["type"] ?? ("merges" in model ? "BPE" : undefined);
  if (type !== "BPE") throw unsupported(path, `tokenizer model ${describeValue(type)} is not supported; "BPE" is`);
  for (const name of ["continuing_subword_prefix", "end_of_word_suffix"]) {
    if (model[name]) throw unsupported(path, `\`model.${name}\` ${describeValue(model[name])} is not supported`);
  }
  const texts: (string | undefined)[] = [];
  const ids = new Map<string, number>();
  for (const [text, id] of Object.entries(expectObject(path, "`model.vocab`", model["vocab"]))) {
    if (!isTokenId(id)) throw corrupt(path, `token ${quoted(text)} has the id ${describeValue(id)}`);
    if (texts[id] !== undefined)
      throw corrupt(path, `tokens ${quoted(texts[id])} and ${quoted(text)} have the same id ${id}`);
    texts[id] = text;
    ids.set(text, id);
  }
  const merges = readMerges(path, model["merges"], ids);
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

function isTokenId(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= MAX_TOKEN_ID;
}

/** One entry of `added_tokens`, or of `added_tokens_decoder` of a tokenizer_config.json. */
export function toAddedToken(path: string, id: unknown, value: unknown): AddedToken {
  const { content, special, normalized, lstrip, rstrip } = isJsonObject(value) ? value : {};
  if (!isTokenId(id) || typeof content !== "string" || content === "") {
    throw corrupt(path, `added token ${describeValue(content)} has the id ${describeValue(id)}`);
  }
  const isSpecial = special === true;
  const isNormalized = typeof normalized === "boolean" ? normalized : !isSpecial;
  return {
    id,
    content,
    special: isSpecial,
    normalized: isNormalized,
    lstrip: lstrip === true,
    rstrip: rstrip === true,
  };
}

function readMerges(path: string, value: unknown, ids: ReadonlyMap<string, number>): (readonly [string, string])[] {
  if (!Array.isArray(value)) throw corrupt(path, `expected \`model.merges\` to be a list, got ${describeValue(value)}`);
  return value.map((merge: unknown, index) => {
    const pair = typeof merge === "string" ? merge.split(" ") : merge;
    const [left, right] = Array.isArray(pair) && pair.length === 2 ? (pair as unknown[]) : [];
    if (typeof left !== "string" || typeof right !== "string") {
      throw corrupt(path, `merge ${index} is ${describeValue(merge)}, expected two tokens`);
    }
    for (const token of [left, right, left + right]) {
      if (!ids.has(token))
        throw corrupt(path, `merge ${index} names the token ${quoted(token)}, which is not in the vocabulary`);
    }
    return [left, right];
  });
}

function readAddedTokens(path: string, value: unknown): AddedToken[] {
  const list = value ?? [];
  if (!Array.isArray(list)) throw corrupt(path, `expected \`added_tokens\` to be a list, got ${describeValue(value)}`);
  return list.map((token: unknown) => toAddedToken(path, isJsonObject(token) ? token["id"] : undefined, token));
}
