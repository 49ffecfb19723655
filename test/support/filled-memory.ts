// Both kinds of KV memory with one float per position, to see what a slot holds.

import { KvPool, type KvMemory, type KvSlot } from "@readme-moe/model";
import { KV_PAGE_TOKENS, PagePool, type PageSlot } from "@readme-moe/kernel";

export interface FilledMemory<Memory extends KvMemory = KvMemory> {
  readonly kv: Memory;
  /** Fills the next positions of a slot. */
  fill(slot: KvSlot, values: readonly number[]): void;
  /** What the filled positions of a slot hold. */
  values(slot: KvSlot): readonly number[];
}

const SHAPE = { numLayers: 1, numKvHeads: 1, headSize: 1 };
export const BYTES_PER_TOKEN = 8;

export function filledArenas(capacityTokens: number): FilledMemory<KvPool> {
  const kv = new KvPool({ shape: SHAPE, capacityTokens });
  return {
    kv,
    fill(slot, values) {
      const keysValues = Float32Array.from(values.flatMap((value) => [value, -value]));
      kv.append(slot, keysValues, 0, values.length);
    },
    values: (slot) => Array.from(kv.readBlock(slot, 0, slot.numTokens).subarray(0, slot.numTokens)),
  };
}

export function filledPages(capacityTokens: number, prefixBytes = 0): FilledMemory<PagePool> {
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
