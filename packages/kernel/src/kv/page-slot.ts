import type { KvSlot } from "./kv-memory.ts";
import { KV_PAGE_TOKENS } from "./page-tokens.ts";

/** One sequence's place in a `PagePool`. */
export interface PageSlot extends KvSlot {
  /** Page numbers in the order of positions: position `p` is in `pages[p / 16]`. */
  readonly pages: readonly number[];
}

/** The pool's side of a slot. */
export class OwnedPageSlot implements PageSlot {
  readonly pages: number[] = [];
  numTokens = 0;

  get reservedTokens(): number {
    return this.pages.length * KV_PAGE_TOKENS;
  }
}
