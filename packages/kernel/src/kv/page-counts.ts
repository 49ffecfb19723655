// Accounting of pages by number.

/** Counts how many slots and how many kept chunks refer to each page; a page without references is free. */
export class PageCounts {
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

  get freePages(): number {
    return this.#free.length;
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

  /** Takes a free page for a slot. */
  take(): number {
    const page = this.#free.pop();
    if (page === undefined) throw new Error(`None of ${this.numPages} pages is free`);
    this.addSlot(page);
    return page;
  }

  /** Takes a free page for a kept chunk. */
  takeKept(): number {
    const page = this.#free.pop();
    if (page === undefined) throw new Error(`None of ${this.numPages} pages is free`);
    this.addKept(page);
    return page;
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

function fail(what: string): never {
  throw new Error(`The page pool is broken: ${what}`);
}
