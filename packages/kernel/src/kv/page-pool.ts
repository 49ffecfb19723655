// Assigns pages of the kernel's memory to sequences. The keys and values themselves are in the kernel.

import { integerOption } from "@readme-moe/core";
import { type KeptState, type KeptTokens, KV_BLOCK_TOKENS, type KvMemory, type KvSlot } from "./kv-shape.ts";
import { StatePool } from "./state-pool.ts";

/** Number of positions in a page, which holds their keys and values in all layers. */
export const KV_PAGE_TOKENS = 16;

/** Pages of 134 million tokens: a larger pool would fill this process with its counts. */
const MOST_PAGES = 2 ** 23;

/** A sequence's pages in a `PagePool`. */
export interface PageSlot extends KvSlot {
  /** Page numbers in the order of positions: position `p` is in `pages[p / 16]`. */
  readonly pages: readonly number[];
}

/** A slot's state, which only the pool changes. */
class OwnedPageSlot implements PageSlot {
  readonly pages: number[] = [];
  numTokens = 0;

  get reservedTokens(): number {
    return this.pages.length * KV_PAGE_TOKENS;
  }
}

/** Options of a `PagePool`. */
export interface PagePoolOptions {
  /** Number of positions of all slots, with shared ones counted once; a multiple of 64. */
  readonly capacityTokens: number;
  /** Memory for kept tokens that slots cannot claim, in bytes; the pool has that many more whole pages. @default 0 */
  readonly prefixBytes?: number | undefined;
  /** Size of one position's keys and values in all layers, in bytes. */
  readonly bytesPerToken: number;
  /** Sizes and numbers of states, of models with recurrences. @default none */
  readonly states?: StateSizes | undefined;
}

/** Sizes of the states of a pool. */
export interface StateSizes {
  readonly stateBytes: number;
  /** Number of states of all slots: two for each, and those of drafts. */
  readonly capacity: number;
  /** Number of states for what is kept. */
  readonly numKept: number;
}

/**
 * Accounting of pages of 16 positions. A slot takes the pages that its positions need, wherever they are: nothing is
 * copied or moved. Slots that begin with the same kept tokens share their pages.
 *
 * A shared page is full, and is never written to: slots only write after their last position, and shared pages are
 * before it. What is kept of a page that is not full is a copy.
 *
 * Kept pages may take all memory that slots do not use. When a slot needs a page and none is free, kept tokens are
 * evicted. Whoever keeps pages that it does not evict bounds them by `prefixBytes`, so that slots find their capacity.
 */
export class PagePool implements KvMemory {
  readonly capacityTokens: number;
  readonly bytesPerToken: number;
  readonly states: StatePool;
  readonly #capacityPages: number;
  readonly #counts: PageCounts;
  readonly #slots = new Set<KvSlot>();
  readonly #kept = new Map<KeptTokens, readonly number[]>();
  #evict: () => boolean = () => false;

  /** @throws {RangeError} when `capacityTokens` is no multiple of 64, or there are too many pages */
  constructor({ capacityTokens, prefixBytes = 0, bytesPerToken, states }: PagePoolOptions) {
    const { stateBytes: bytes = 0, capacity = 0, numKept = 0 } = states ?? {};
    this.states = new StatePool(bytes, capacity, numKept, () => this.#evict());
    integerOption("capacityTokens", capacityTokens, KV_BLOCK_TOKENS);
    if (capacityTokens % KV_BLOCK_TOKENS !== 0) {
      const expectation = `a multiple of ${KV_BLOCK_TOKENS}`;
      throw new RangeError(`Expected \`capacityTokens\` to be ${expectation}, got \`${capacityTokens}\``);
    }
    this.capacityTokens = capacityTokens;
    this.bytesPerToken = integerOption("bytesPerToken", bytesPerToken, 1);
    this.#capacityPages = capacityTokens / KV_PAGE_TOKENS;
    const pageBytes = bytesPerToken * KV_PAGE_TOKENS;
    const numMore = Math.floor(integerOption("prefixBytes", prefixBytes, 0) / pageBytes);
    const numPages = this.#capacityPages + numMore;
    if (numPages > MOST_PAGES)
      throw new RangeError(`at most ${MOST_PAGES} pages of ${KV_PAGE_TOKENS} tokens are possible`);
    this.#counts = new PageCounts(numPages);
  }

  /** Number of pages of the kernel's memory; page numbers are in `[0, numPages)`. */
  get numPages(): number {
    return this.#counts.numPages;
  }

  /** Number of positions of all pages that slots refer to, with shared pages counted once. */
  get usedTokens(): number {
    return this.#counts.usedPages * KV_PAGE_TOKENS;
  }

  /** Number of positions of all kept pages, with shared pages counted once. */
  get keptTokens(): number {
    return this.#counts.keptPages * KV_PAGE_TOKENS;
  }

  admit(numTokens: number, prefix: readonly KeptTokens[] = [], state?: KeptState): PageSlot | undefined {
    const filled = prefixTokens(numTokens, prefix);
    if (this.states.stateBytes > 0) integerOption("state.position", state?.position ?? 0, filled, filled);
    if (!this.states.hasRoom) return undefined;
    const pages = prefix.flatMap((kept) => this.#pagesOf(kept));
    // A page that is filled in part is copied, since the slot goes on filling it.
    const shared = pages.slice(0, Math.floor(filled / KV_PAGE_TOKENS));
    const numFresh = pagesFor(numTokens) - shared.length;
    const numNew = numFresh + shared.filter((page) => !this.#counts.isUsed(page)).length;
    if (!this.#hasRoom(numNew)) return undefined;
    const slot = new OwnedPageSlot();
    for (const page of shared) this.#counts.addSlot(page);
    slot.pages.push(...shared);
    this.#extend(slot, numFresh);
    const partial = pages[shared.length];
    if (partial !== undefined) this.copyPage(partial, slot.pages[shared.length]!);
    slot.numTokens = filled;
    this.#slots.add(slot);
    this.states.admit(slot, state);
    return slot;
  }

  reserve(slot: KvSlot, numTokens: number): boolean {
    const own = this.#own(slot);
    const numFresh = pagesFor(integerOption("numTokens", numTokens, 1)) - own.pages.length;
    if (numFresh <= 0) return true;
    if (!this.#hasRoom(numFresh)) return false;
    this.#extend(own, numFresh);
    return true;
  }

  release(slot: KvSlot): void {
    const own = this.#own(slot);
    this.#shorten(own, 0);
    own.numTokens = 0;
    this.states.release(own);
    this.#slots.delete(own);
  }

  /**
   * Drops the positions from `numTokens` on, and frees the pages that have none left.
   * @throws {RangeError} when that would end inside a shared page, which the slot could not continue to fill
   */
  truncate(slot: KvSlot, numTokens: number): void {
    const own = this.#own(slot);
    integerOption("numTokens", numTokens, 0, own.numTokens);
    const last = own.pages[Math.floor(numTokens / KV_PAGE_TOKENS)];
    if (numTokens % KV_PAGE_TOKENS !== 0 && last !== undefined && this.#counts.isShared(last)) {
      const expectation = `a multiple of ${KV_PAGE_TOKENS} within shared pages`;
      throw new RangeError(`Expected \`numTokens\` to be ${expectation}, got \`${numTokens}\``);
    }
    this.states.truncate(own, numTokens);
    this.#shorten(own, pagesFor(numTokens));
    own.numTokens = numTokens;
  }

  /** Counts positions that a step has filled after a slot's last one; they must be reserved. */
  advance(slot: KvSlot, numTokens: number): void {
    const own = this.#own(slot);
    const end = own.numTokens + integerOption("numTokens", numTokens, 0);
    if (end > own.reservedTokens) {
      throw new RangeError(`Expected room for ${end} tokens, got ${describeSlot(own)}`);
    }
    own.numTokens = end;
  }

  /** Narrows a slot of this pool. @throws {TypeError} for any other slot */
  pageSlot(slot: KvSlot): PageSlot {
    return this.#own(slot);
  }

  /**
   * Keeps filled positions. Whole pages are shared; a last one that is filled in part is copied.
   * @throws {RangeError} when the range begins within a page
   */
  keep(slot: KvSlot, from: number, to: number): KeptTokens {
    const own = this.#own(slot);
    integerOption("to", to, integerOption("from", from, 0), own.numTokens);
    if (from % KV_PAGE_TOKENS !== 0) {
      throw new RangeError(`Expected \`from\` to be a multiple of ${KV_PAGE_TOKENS}, got \`${from}\``);
    }
    const pages = own.pages.slice(from / KV_PAGE_TOKENS, Math.ceil(to / KV_PAGE_TOKENS));
    if (to % KV_PAGE_TOKENS !== 0) {
      const [partial, copy] = [pages.pop()!, this.#freePage()];
      this.copyPage(partial, copy);
      pages.push(copy);
    }
    for (const page of pages) this.#counts.addKept(page);
    return this.#addKept(from, pages, to - from);
  }

  /**
   * Keeps pages that no slot has filled. Their owner writes them before they are used.
   *
   * @param from - first of their positions, a multiple of 16
   */
  keepFresh(from: number, numTokens: number): KeptTokens {
    integerOption("from", from, 0);
    const numPages = pagesFor(integerOption("numTokens", numTokens, 0));
    const pages = Array.from({ length: numPages }, () => this.#freePage());
    for (const page of pages) this.#counts.addKept(page);
    return this.#addKept(from, pages, numTokens);
  }

  isIdle(kept: KeptTokens): boolean {
    return this.#pagesOf(kept).some((page) => !this.#counts.isUsed(page));
  }

  onShortage(evict: () => boolean): void {
    this.#evict = evict;
  }

  /** Returns the pages of kept tokens, in the order of positions. */
  keptPages(kept: KeptTokens): readonly number[] {
    return this.#pagesOf(kept);
  }

  drop(kept: KeptTokens): void {
    for (const page of this.#pagesOf(kept).toReversed()) this.#counts.removeKept(page);
    this.#kept.delete(kept);
  }

  dispose(): void {
    // The owner of the pages frees their memory.
  }

  checkIntegrity(): void {
    this.states.checkIntegrity();
    const slots = Array.from(this.#slots, (slot) => this.#own(slot));
    this.#counts.check(
      slots.map(({ pages }) => pages),
      this.#kept.values(),
    );
    if (this.usedTokens > this.capacityTokens) fail(`${this.usedTokens} of ${this.capacityTokens} positions are used`);
    for (const slot of slots) {
      const lastShared = slot.pages.findLastIndex((page) => this.#counts.isShared(page));
      const leastTokens = (lastShared + 1) * KV_PAGE_TOKENS;
      if (slot.numTokens >= leastTokens && slot.numTokens <= slot.reservedTokens) continue;
      fail(`${describeSlot(slot)} shares its first ${leastTokens}`);
    }
  }

  /** Takes a free page, for which kept tokens are evicted where there is none. */
  #freePage(): number {
    for (;;) {
      const page = this.#counts.take();
      if (page !== undefined) return page;
      if (!this.#evict()) throw new Error(`None of ${this.numPages} pages is free`);
    }
  }

  /** Copies a page. The owner of the memory does it. */
  protected copyPage(_from: number, _to: number): void {
    return;
  }

  #addKept(from: number, pages: readonly number[], numTokens: number): KeptTokens {
    const kept = { from, numTokens, bytes: pages.length * KV_PAGE_TOKENS * this.bytesPerToken };
    this.#kept.set(kept, pages);
    return kept;
  }

  #hasRoom(numNewPages: number): boolean {
    return this.#counts.usedPages + numNewPages <= this.#capacityPages;
  }

  #extend(slot: OwnedPageSlot, numPages: number): void {
    for (let index = 0; index < numPages; index++) {
      const page = this.#freePage();
      this.#counts.addSlot(page);
      slot.pages.push(page);
    }
  }

  /** Frees the pages from `numPages` on, last ones first, so that the next slot takes them in order. */
  #shorten(slot: OwnedPageSlot, numPages: number): void {
    for (const page of slot.pages.splice(numPages).toReversed()) this.#counts.removeSlot(page);
  }

  #own(slot: KvSlot): OwnedPageSlot {
    if (slot instanceof OwnedPageSlot && this.#slots.has(slot)) return slot;
    throw new TypeError(`Expected \`slot\` to be held by this pool, got ${describeSlot(slot)}`);
  }

  #pagesOf(kept: KeptTokens): readonly number[] {
    const pages = this.#kept.get(kept);
    if (pages) return pages;
    throw new TypeError(
      `Expected \`kept\` to be kept by this pool, got ${kept.numTokens} tokens of another or dropped`,
    );
  }
}

function pagesFor(numTokens: number): number {
  return Math.ceil(numTokens / KV_PAGE_TOKENS);
}

function describeSlot({ numTokens, reservedTokens }: KvSlot): string {
  return `a slot of ${numTokens} tokens, room for ${reservedTokens}`;
}

function fail(what: string): never {
  throw new Error(`The page pool is broken: ${what}`);
}

/**
 * Counts the positions in `prefix`, which must begin at 0, have no gap, and fit into `numTokens` positions.
 * @throws {RangeError | TypeError} otherwise
 */
function prefixTokens(numTokens: number, prefix: readonly KeptTokens[]): number {
  integerOption("numTokens", numTokens, 1);
  let end = 0;
  for (const kept of prefix) {
    integerOption("kept.from", kept.from, end, end);
    end += kept.numTokens;
  }
  return integerOption("prefix tokens", end, 0, numTokens);
}

// Accounting of pages by number.

/** Counts how many slots and how many kept chunks refer to each page; a page without references is free. */
class PageCounts {
  readonly numPages: number;
  readonly #slots: Uint32Array;
  readonly #kept: Uint32Array;
  /** Stack of free pages: the page that was freed last is used first, since its memory was touched already. */
  readonly #free: number[];
  #usedPages = 0;
  #keptPages = 0;

  constructor(numPages: number) {
    this.numPages = numPages;
    this.#slots = new Uint32Array(numPages);
    this.#kept = new Uint32Array(numPages);
    this.#free = Array.from({ length: numPages }, (_, index) => numPages - 1 - index);
  }

  /** Number of pages that at least one slot refers to. */
  get usedPages(): number {
    return this.#usedPages;
  }

  /** Number of pages that at least one kept chunk refers to. */
  get keptPages(): number {
    return this.#keptPages;
  }

  isUsed(page: number): boolean {
    return this.#slots[page] !== 0;
  }

  isKept(page: number): boolean {
    return this.#kept[page] !== 0;
  }

  /** Checks that a slot's page has any reference besides the slot; such a page must not be written to. */
  isShared(page: number): boolean {
    return this.#slotsOf(page) > 1 || this.isKept(page);
  }

  /** Takes a free page, if there is one. A reference to it follows. */
  take(): number | undefined {
    return this.#free.pop();
  }

  addSlot(page: number): void {
    if (this.#slots[page] === 0) this.#usedPages++;
    this.#slots[page] = this.#slotsOf(page) + 1;
  }

  removeSlot(page: number): void {
    this.#slots[page] = this.#slotsOf(page) - 1;
    if (this.isUsed(page)) return;
    this.#usedPages--;
    if (!this.isKept(page)) this.#free.push(page);
  }

  addKept(page: number): void {
    if (this.#kept[page] === 0) this.#keptPages++;
    this.#kept[page] = this.#kept[page]! + 1;
  }

  removeKept(page: number): void {
    this.#kept[page] = this.#kept[page]! - 1;
    if (this.isKept(page)) return;
    this.#keptPages--;
    if (!this.isUsed(page)) this.#free.push(page);
  }

  /**
   * Compares all counts with the page tables of slots and of kept chunks.
   * @throws {Error} with the numbers that do not agree
   */
  check(slots: Iterable<readonly number[]>, kept: Iterable<readonly number[]>): void {
    const [bySlots, byKept] = [countsOf(slots), countsOf(kept)];
    const free = new Set(this.#free);
    if (free.size !== this.#free.length) fail(`${this.#free.length} free pages are ${free.size} different ones`);
    for (let page = 0; page < this.numPages; page++) {
      const [numSlots, numKept] = [bySlots.get(page) ?? 0, byKept.get(page) ?? 0];
      const found = `page ${page} is in ${numSlots} slots and ${numKept} kept chunks`;
      if (this.#slots[page] !== numSlots) fail(`${found}, counted as ${this.#slots[page]} slots`);
      if (this.#kept[page] !== numKept) fail(`${found}, counted as ${this.#kept[page]} chunks`);
      if (free.has(page) !== (numSlots + numKept === 0)) fail(`${found}, free: ${free.has(page)}`);
    }
    if (this.#usedPages !== bySlots.size) fail(`${bySlots.size} pages are used, counted as ${this.#usedPages}`);
    if (this.#keptPages !== byKept.size) fail(`${byKept.size} pages are kept, counted as ${this.#keptPages}`);
  }

  #slotsOf(page: number): number {
    return this.#slots[page]!;
  }
}

function countsOf(tables: Iterable<readonly number[]>): ReadonlyMap<number, number> {
  const counts = new Map<number, number>();
  for (const table of tables) for (const page of table) counts.set(page, (counts.get(page) ?? 0) + 1);
  return counts;
}
