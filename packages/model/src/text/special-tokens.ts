import { isJsonObject, type JsonObject } from "../files/json-object.ts";
import { type AddedToken, toAddedToken, type Vocabulary } from "./vocabulary.ts";

/** A token that a model gives a role. */
export interface NamedToken {
  readonly id: number;
  readonly text: string;
}

const NAMES = ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"] as const;
const LISTS = ["additional_special_tokens", "extra_special_tokens"] as const;

/** The token of a role such as `bos_token`; `undefined` when there is none or the vocabulary lacks it. */
export function namedToken(
  name: (typeof NAMES)[number],
  config: JsonObject,
  vocabulary: Vocabulary,
): NamedToken | undefined {
  const text = tokenText(config[name]);
  const id = text === undefined ? undefined : vocabulary.ids.get(text);
  return text === undefined || id === undefined ? undefined : { id, text };
}

/**
 * `vocabulary` with the added tokens that only tokenizer_config.json knows, as transformers adds them
 * when it loads a tokenizer: its `added_tokens_decoder`, and every token that has a role. Those with a
 * role are special, whatever tokenizer.json says.
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
  for (const [key, value] of Object.entries(isJsonObject(decoder) ? decoder : {})) {
    const token = toAddedToken(path, Number(key), value);
    // tokenizer.json is what encodes: an id or a text that it knows stays as it is there.
    const isNew = !added.has(token.content) && (texts[token.id] ?? token.content) === token.content;
    if (isNew && (ids.get(token.content) ?? token.id) === token.id) add(token);
  }
  for (const content of roleTexts(config)) {
    const id = ids.get(content);
    if (id === undefined || content === "") continue;
    const known = added.get(content) ?? { id, content, normalized: false, lstrip: false, rstrip: false };
    add({ ...known, special: true });
  }
  return { ...vocabulary, texts, ids, added: [...added.values()] };
}

function roleTexts(config: JsonObject): string[] {
  const lists = LISTS.map((name) => config[name]).filter(Array.isArray);
  const values: unknown[] = [...NAMES.map((name) => config[name]), ...lists.flat()];
  return values.map(tokenText).filter((text) => text !== undefined);
}

/** Configs name a token by its text, or by an object that has it as `content`. */
function tokenText(value: unknown): string | undefined {
  const text = isJsonObject(value) ? value["content"] : value;
  return typeof text === "string" ? text : undefined;
}
