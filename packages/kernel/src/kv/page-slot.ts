import type { KvSlot } from "./kv-memory.ts";
import { KV_PAGE_TOKENS } from "./page-tokens.ts";

/** A sequence's pages in a `PagePool`. */
export interface PageSlot extends KvSlot {
  /** Page numbers in the order of positions: position `p` is in `pages[p / 16]`. */
  readonly pages: readonly number[];
}

/** A slot's state, which only the pool changes. */
export class OwnedPageSlot implements PageSlot {
  readonly pages: number[] = [];
  numTokens = 0;

  get reservedTokens(): number {
    return this.pages.length * KV_PAGE_TOKENS;
  }
}
