// Names of the files that beginnings of prompts are kept in. Each name is a hash of everything that the contents depend
// on, all tokens before them included, and of who may read them.

import type { RoutedTokens } from "./prefix-tails.ts";
import { keyOf, type PromptIdentity } from "./saved-prompts.ts";

/** Number of letters of a chunk's name that the names of the ends behind it begin with. */
const PARENT_LETTERS = 16;
/** Letters of an end's number of tokens. */
const LENGTH_LETTERS = 4;

/** An end behind which there is a state, in a file. */
export interface SavedEnd {
  readonly end: number;
  readonly key: string;
}

/** Names the files of a prompt and of its answer, as far as it is routed. */
export class PrefixNames {
  /** Longest end that was on disk when the prompt came, of a model with recurrences. */
  saved: SavedEnd | undefined;
  readonly #identity: Pick<PromptIdentity, "model" | "experts">;
  readonly #root: string;
  readonly #prompt: RoutedTokens;
  readonly #chunkTokens: number;
  readonly #keys: string[] = [];

  /** @param readers - scope and salt */
  constructor(
    identity: Pick<PromptIdentity, "model" | "experts">,
    [scope, salt]: readonly [scope: string, salt: string | undefined],
    prompt: RoutedTokens,
    chunkTokens: number,
  ) {
    this.#identity = identity;
    // Begins like no hash.
    this.#root = JSON.stringify([scope, salt ?? null]);
    this.#prompt = prompt;
    this.#chunkTokens = chunkTokens;
  }

  /** Names a chunk; `undefined` if it is not whole, or has an expert that the prompt had not when it came. */
  chunk(index: number): string | undefined {
    const { length } = this.#keys;
    if (index < length) return this.#keys[index];
    const before = index === 0 ? this.#root : this.chunk(index - 1);
    const from = index * this.#chunkTokens;
    const key = before === undefined ? undefined : this.#hash([before], from, from + this.#chunkTokens);
    if (key !== undefined) this.#keys.push(key);
    return key;
  }

  /** Names an end. The name begins with the chunk before it and the number of tokens behind that. */
  end(end: number): string | undefined {
    const from = Math.floor(end / this.#chunkTokens) * this.#chunkTokens;
    const parent = this.#parentOf(from);
    const own = parent === undefined ? undefined : this.#hash([parent, "end"], from, end);
    const length = (end - from).toString(16).padStart(LENGTH_LETTERS, "0");
    return own && `${parent?.slice(0, PARENT_LETTERS)}${length}${own}`.slice(0, own.length);
  }

  /** Finds the longest of the prompt's ends whose file is there with all chunks before it. */
  findSaved(keys: readonly string[], mostTokens: number): SavedEnd | undefined {
    const names = new Set(keys);
    const families = new Map<string, string[]>();
    for (const key of keys) {
      const family = key.slice(0, PARENT_LETTERS);
      families.set(family, [...(families.get(family) ?? []), key]);
    }
    let found: SavedEnd | undefined;
    for (let from = 0; from <= mostTokens; from += this.#chunkTokens) {
      const parent = this.#parentOf(from);
      if (parent === undefined || (from > 0 && !names.has(parent))) break;
      for (const key of families.get(parent.slice(0, PARENT_LETTERS)) ?? []) {
        const end = from + Number.parseInt(key.slice(PARENT_LETTERS, PARENT_LETTERS + LENGTH_LETTERS), 16);
        const isLonger = end > (found?.end ?? 0) && end < from + this.#chunkTokens && end <= mostTokens;
        if (isLonger && this.end(end) === key) found = { end, key };
      }
    }
    return found;
  }

  #parentOf(from: number): string | undefined {
    return from === 0 ? this.#hash([this.#root], 0, 0) : this.chunk(from / this.#chunkTokens - 1);
  }

  #hash(before: readonly string[], from: number, to: number): string | undefined {
    const { model, experts } = this.#identity;
    const routes = this.#prompt.experts.slice(from, to);
    if (routes.length < to - from || routes.some((expert) => !experts.has(expert))) return undefined;
    return keyOf({ model: [...model, ...before], experts, tokenIds: this.#prompt.tokenIds.slice(from, to), routes });
  }
}
