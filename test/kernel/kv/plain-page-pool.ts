// What a page pool should do, kept the plainest way: sets of who has which page, and lists of what each slot holds.

import type { KeptTokens, PageSlot } from "@readme-moe/kernel";

interface PlainSlot {
  /** What each filled position holds. */
  readonly values: number[];
  /** Pages that it has room for. */
  numPages: number;
}

interface PlainKept {
  readonly pages: readonly number[];
  readonly values: readonly number[];
}

export class PlainPagePool {
  readonly slots = new Map<PageSlot, PlainSlot>();
  readonly kept = new Map<KeptTokens, PlainKept>();
  readonly #capacityPages: number;

  constructor(capacityTokens: number) {
    this.#capacityPages = capacityTokens / 16;
  }

  /** Pages that slots have, each once. */
  usedPages(): ReadonlySet<number> {
    return new Set(Array.from(this.slots.keys()).flatMap(({ pages }) => pages));
  }

  keptPages(): ReadonlySet<number> {
    return new Set(Array.from(this.kept.values()).flatMap(({ pages }) => pages));
  }

  /** Whether `numPages` pages fit, of which a slot brings `shared` along. */
  hasRoom(numPages: number, shared: readonly number[]): boolean {
    const used = new Set([...this.usedPages(), ...shared]);
    return used.size + numPages - shared.length <= this.#capacityPages;
  }

  /** Whether another slot or a kept chunk has a slot's page, too. */
  isShared(page: number): boolean {
    const numSlots = Array.from(this.slots.keys()).filter(({ pages }) => pages.includes(page)).length;
    return numSlots > 1 || this.keptPages().has(page);
  }
}
