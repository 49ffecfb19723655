import { KV_PAGE_TOKENS, type KeptTokens, type KvMemory } from "@readme-moe/kernel";

/** A prompt: everything that the keys and values of its positions depend on. */
export interface RoutedTokens {
  readonly tokenIds: readonly number[];
  /** Expert of each token. */
  readonly experts: readonly number[];
}

/** Keeps the computed positions `[from, to)` of a prompt. */
export type KeepTokens = (from: number, to: number) => KeptTokens;

/** Pages of a pinned beginning behind its last whole chunk. */
export interface PinnedTail {
  /** Id of that chunk. */
  readonly parent: number;
  readonly tokenIds: readonly number[];
  readonly experts: readonly number[];
  readonly pages: readonly KeptTokens[];
  /** Number of pins that need the tail. */
  pins: number;
  isDropped: boolean;
}

/** Position of a tail: the chunk before it, and the first of its positions. */
interface TailPlace {
  readonly parent: number;
  readonly from: number;
}

/** The pages behind the last whole chunks of pinned beginnings. */
export class PinnedTails {
  readonly #kv: KvMemory;
  readonly #tails = new Map<number, readonly PinnedTail[]>();
  #numBytes = 0;

  constructor(kv: KvMemory) {
    this.#kv = kv;
  }

  get numBytes(): number {
    return this.#numBytes;
  }

  /** Finds the most pages that a prompt goes on with, without its last token. */
  match(prompt: RoutedTokens, { parent, from }: TailPlace): readonly KeptTokens[] {
    const most = Math.floor((prompt.tokenIds.length - 1 - from) / KV_PAGE_TOKENS);
    const matches = (this.#tails.get(parent) ?? []).map(({ pages, tokenIds, experts }) => {
      const differs = tokenIds.findIndex(
        (id, at) => prompt.tokenIds[from + at] !== id || prompt.experts[from + at] !== experts[at],
      );
      const same = differs < 0 ? tokenIds.length : differs;
      return pages.slice(0, Math.max(0, Math.min(most, Math.floor(same / KV_PAGE_TOKENS))));
    });
    return matches.reduce<readonly KeptTokens[]>((best, one) => (one.length > best.length ? one : best), []);
  }

  /** Finds the tail that ends at position `end` of a prompt. */
  find(prompt: RoutedTokens, { parent, from }: TailPlace, end: number): PinnedTail | undefined {
    const ids = prompt.tokenIds.slice(from, end).join();
    const routes = prompt.experts.slice(from, end).join();
    return this.#tails
      .get(parent)
      ?.find(({ tokenIds, experts }) => tokenIds.join() === ids && experts.join() === routes);
  }

  /** Adds positions `[from, end)` of a prompt, page by page: other prompts may go on with the first of them only. */
  add({ tokenIds, experts }: RoutedTokens, { parent, from }: TailPlace, end: number, keep: KeepTokens): PinnedTail {
    const pages = Array.from({ length: (end - from) / KV_PAGE_TOKENS }, (_, page) =>
      keep(from + page * KV_PAGE_TOKENS, from + (page + 1) * KV_PAGE_TOKENS),
    );
    const own = { tokenIds: tokenIds.slice(from, end), experts: experts.slice(from, end) };
    const tail: PinnedTail = { parent, ...own, pages, pins: 0, isDropped: false };
    this.#tails.set(parent, [...(this.#tails.get(parent) ?? []), tail]);
    this.#numBytes += bytesOf(tail);
    return tail;
  }

  drop(tail: PinnedTail): void {
    if (tail.isDropped) return;
    tail.isDropped = true;
    const others = (this.#tails.get(tail.parent) ?? []).filter((other) => other !== tail);
    if (others.length > 0) this.#tails.set(tail.parent, others);
    else this.#tails.delete(tail.parent);
    this.#numBytes -= bytesOf(tail);
    for (const page of tail.pages) this.#kv.drop(page);
  }

  /** Drops the tails with tokens of an expert. */
  forget(expert: number): void {
    for (const tail of Array.from(this.#tails.values()).flat()) if (tail.experts.includes(expert)) this.drop(tail);
  }
}

function bytesOf({ pages }: PinnedTail): number {
  return pages.reduce((sum, { bytes }) => sum + bytes, 0);
}
