// A page pool with one float per position, to see what a slot holds.

import { KV_PAGE_TOKENS, PagePool, type KvSlot, type PageSlot } from "@readme-moe/kernel";

export interface FilledMemory {
  readonly kv: PagePool;
  /** Fills the next positions of a slot. */
  fill(slot: KvSlot, values: readonly number[]): void;
  /** What the filled positions of a slot hold. */
  values(slot: KvSlot): readonly number[];
}

export const BYTES_PER_TOKEN = 8;

export function filledPages(capacityTokens: number, prefixBytes = 0): FilledMemory {
  const kv = new PagePool({ capacityTokens, prefixBytes, bytesPerToken: BYTES_PER_TOKEN });
  const floats = new Float32Array(kv.numPages * KV_PAGE_TOKENS);
  return {
    kv,
    fill(slot, values) {
      const own = kv.pageSlot(slot);
      for (const [index, value] of values.entries()) floats[placeOf(own, own.numTokens + index)] = value;
      kv.advance(own, values.length);
    },
    values(slot) {
      const own = kv.pageSlot(slot);
      return Array.from({ length: own.numTokens }, (_, position) => floats[placeOf(own, position)] as number);
    },
  };
}

function placeOf({ pages }: PageSlot, position: number): number {
  return (pages[Math.floor(position / KV_PAGE_TOKENS)] as number) * KV_PAGE_TOKENS + (position % KV_PAGE_TOKENS);
}
