// Beginnings of prompts behind their last whole chunk in the prefix cache.

import { type KeptState, type KeptTokens, KV_PAGE_TOKENS, type KvMemory } from "@readme-moe/kernel";

/** The prompt of a request. */
export interface CacheablePrompt extends RoutedTokens {
  /** Requests of one salt share what they cache, and so do those without any. */
  readonly cacheSalt?: string | undefined;
  /** Names of its files, of a prompt that is worth files. */
  readonly files?: FileNames | undefined;
}

/** Names the files of a prompt and its answer. */
interface FileNames {
  chunk(index: number): string | undefined;
  end(end: number): string | undefined;
}

/** A part of the cache, as its file knows it. */
export interface CachedPart {
  /** First position, a multiple of the chunks' length. */
  readonly from: number;
  readonly pages: readonly KeptTokens[];
  /** State behind the pages, of a model with recurrences. */
  readonly state?: KeptState | undefined;
  /** Number of the last use. */
  readonly lastUse: number;
  /** Name of the file; `undefined` if the part is not worth one. */
  readonly fileKey: string | undefined;
  /** Last use that the file has, if there is a file. */
  savedUse: number | undefined;
}

/** Tells whether a part is worth a file, and was used since the file was written. */
export function isUnsaved({ fileKey, savedUse, lastUse }: CachedPart): boolean {
  return fileKey !== undefined && savedUse !== lastUse;
}

/** A prompt: everything that the keys and values of its positions depend on. */
export interface RoutedTokens {
  readonly tokenIds: readonly number[];
  /** Expert of each token. */
  readonly experts: readonly number[];
}

/** Keeps the computed positions `[from, to)` of a prompt. */
export type KeepTokens = (from: number, to: number) => KeptTokens;

/** Pages of a beginning behind its last whole chunk: none if it ends there, with a state. */
export interface PrefixTail extends CachedPart {
  /** Id of that chunk. */
  readonly parent: number;
  readonly salt: string | undefined;
  readonly tokenIds: readonly number[];
  readonly experts: readonly number[];
  /** Number of pins that need the tail. Without any it may be evicted. */
  pins: number;
  fileKey: string | undefined;
  lastUse: number;
  isDropped: boolean;
}

/** The pages of a tail that a prompt goes on with. */
interface TailMatch {
  readonly tail?: PrefixTail;
  readonly pages: readonly KeptTokens[];
}

/** Position of a tail: the chunk before it, and the first of its positions. */
export interface TailPlace {
  readonly parent: number;
  readonly from: number;
}

/** The pages behind the last whole chunks of pinned beginnings and of answers, and all states with the pages before. */
export class PrefixTails {
  readonly #kv: KvMemory;
  readonly #tails = new Map<number, readonly PrefixTail[]>();
  #numBytes = 0;

  constructor(kv: KvMemory) {
    this.#kv = kv;
  }

  get numBytes(): number {
    return this.#numBytes;
  }

  get pinnedBytes(): number {
    return this.#all.reduce((sum, tail) => sum + (tail.pins > 0 ? bytesOf(tail) : 0), 0);
  }

  get nextUnsaved(): PrefixTail | undefined {
    return this.#all.findLast(isUnsaved);
  }

  get evictable(): readonly PrefixTail[] {
    return this.#all.filter(({ pins }) => pins === 0);
  }

  get #all(): readonly PrefixTail[] {
    return Array.from(this.#tails.values()).flat();
  }

  /** Finds the longest tail with a state that a prompt goes on with as a whole, without its last token. */
  longest(prompt: CacheablePrompt, { parent, from }: TailPlace): PrefixTail | undefined {
    const most = prompt.tokenIds.length - 1 - from;
    const fitting = this.#readable(prompt, parent).filter(
      (tail) =>
        tail.state !== undefined && tail.tokenIds.length <= most && numSame(tail, prompt) === tail.tokenIds.length,
    );
    return fitting.toSorted((a, b) => b.tokenIds.length - a.tokenIds.length)[0];
  }

  /** Finds the tail with the most pages that a prompt goes on with, without its last token. */
  match(prompt: CacheablePrompt, { parent, from }: TailPlace): TailMatch {
    const most = Math.floor((prompt.tokenIds.length - 1 - from) / KV_PAGE_TOKENS);
    const matches = this.#readable(prompt, parent).map((tail): TailMatch => {
      const same = Math.floor(numSame(tail, prompt) / KV_PAGE_TOKENS);
      return { tail, pages: tail.pages.slice(0, Math.max(0, Math.min(most, same))) };
    });
    return matches.reduce((best, one) => (one.pages.length > best.pages.length ? one : best), { pages: [] });
  }

  /** Finds the tail of a salt that ends at position `end` of a prompt. */
  find(prompt: RoutedTokens, { parent, from }: TailPlace, end: number, salt?: string): PrefixTail | undefined {
    const length = end - from;
    return this.#tails
      .get(parent)
      ?.find((one) => one.salt === salt && one.tokenIds.length === length && numSame(one, prompt) === length);
  }

  /** Lists the tails behind a chunk that a prompt may read. */
  #readable({ cacheSalt }: CacheablePrompt, parent: number): readonly PrefixTail[] {
    return (this.#tails.get(parent) ?? []).filter(({ pins, salt }) => pins > 0 || salt === cacheSalt);
  }

  /** Adds positions `[from, end)` of a prompt, page by page: other prompts may go on with the first of them only. */
  add(
    { tokenIds, experts, cacheSalt: salt, files }: CacheablePrompt,
    { parent, from, end }: TailPlace & { readonly end: number },
    keep: KeepTokens,
    state?: KeptState,
  ): PrefixTail {
    const pages = Array.from({ length: Math.ceil((end - from) / KV_PAGE_TOKENS) }, (_, page) =>
      keep(from + page * KV_PAGE_TOKENS, Math.min(end, from + (page + 1) * KV_PAGE_TOKENS)),
    );
    const own = { tokenIds: tokenIds.slice(from, end), experts: experts.slice(from, end) };
    const file = { fileKey: state && files?.end(end), savedUse: undefined };
    const tail: PrefixTail = {
      parent,
      from,
      salt,
      ...own,
      pages,
      state,
      ...file,
      pins: 0,
      lastUse: 0,
      isDropped: false,
    };
    this.#tails.set(parent, [...(this.#tails.get(parent) ?? []), tail]);
    this.#numBytes += bytesOf(tail);
    return tail;
  }

  drop(tail: PrefixTail): void {
    if (tail.isDropped) return;
    tail.isDropped = true;
    const others = (this.#tails.get(tail.parent) ?? []).filter((other) => other !== tail);
    if (others.length > 0) this.#tails.set(tail.parent, others);
    else this.#tails.delete(tail.parent);
    this.#numBytes -= bytesOf(tail);
    for (const page of tail.pages) this.#kv.drop(page);
    if (tail.state) this.#kv.states.drop(tail.state);
  }

  /** Drops the tails with tokens of an expert. */
  forget(expert: number): void {
    for (const tail of this.#all) if (tail.experts.includes(expert)) this.drop(tail);
  }
}

/** Counts the first tokens of a tail that are a prompt's own. */
function numSame({ from, tokenIds, experts }: PrefixTail, prompt: RoutedTokens): number {
  const differs = tokenIds.findIndex(
    (id, at) => prompt.tokenIds[from + at] !== id || prompt.experts[from + at] !== experts[at],
  );
  return differs < 0 ? tokenIds.length : differs;
}

export function bytesOf({ pages, state }: Pick<CachedPart, "pages" | "state">): number {
  return pages.reduce((sum, { bytes }) => sum + bytes, state?.bytes ?? 0);
}
