// Steps on pages without a kernel: each sequence's past is copied out of its pages into arenas, and what is new back.

import { KV_PAGE_TOKENS, PagePool, type PageSlot } from "@readme-moe/kernel";
import {
  type ArenaSlot,
  type KvMemory,
  type KvMemoryOptions,
  KvPool,
  kvBytesPerToken,
  type Model,
  wholeBlocks,
} from "@readme-moe/model";
import type { StepSequence } from "../../packages/engine/src/step-feeds.ts";
import type { StepLogits } from "../../packages/engine/src/step-logits.ts";
import type { StepRunner } from "../../packages/engine/src/step-runner.ts";

/** Keys and values by place, which is `page · 16 + position within the page`. */
type PageFloats = Map<number, Float32Array>;

/** The same numbers as the runner below it, which runs on arenas. */
export class PagedRunner implements StepRunner {
  readonly model: Model;
  readonly #runner: StepRunner;
  readonly #floats = new WeakMap<KvMemory, PageFloats>();

  constructor(runner: StepRunner) {
    this.model = runner.model;
    this.#runner = runner;
  }

  openKv(options: KvMemoryOptions): PagePool {
    const pool = new PagePool({ ...options, bytesPerToken: kvBytesPerToken(this.model.config) });
    this.#floats.set(pool, new Map());
    return pool;
  }

  async forward(
    kv: KvMemory,
    sequences: readonly StepSequence[],
    numCandidates?: number,
  ): Promise<readonly StepLogits[]> {
    const floats = this.#floats.get(kv);
    if (!(kv instanceof PagePool) || !floats) throw new TypeError("Expected `kv` to be of this runner");
    const ends = sequences.map(({ slot, tokenIds }) => slot.numTokens + tokenIds.length);
    const capacityTokens = sequences.length * wholeBlocks(Math.max(1, ...ends));
    const arenas = new KvPool({ shape: this.model.config, capacityTokens, longFromTokens: capacityTokens });
    const copies = sequences.map(({ slot }, index) => {
      const [own, copy] = [kv.pageSlot(slot), arenas.admit(ends[index] as number) as ArenaSlot];
      for (let position = 0; position < own.numTokens; position++) {
        arenas.writeBlock(copy, position, floats.get(placeOf(own, position)) as Float32Array);
      }
      return { own, copy };
    });
    const placed = sequences.map((sequence, index) => ({ ...sequence, slot: copies[index]?.copy as ArenaSlot }));
    const results = await this.#runner.forward(arenas, placed, numCandidates);
    for (const { own, copy } of copies) {
      for (let position = own.numTokens; position < copy.numTokens; position++) {
        floats.set(placeOf(own, position), arenas.readBlock(copy, position, position + 1));
      }
      kv.advance(own, copy.numTokens - own.numTokens);
    }
    return results;
  }

  async dispose(): Promise<void> {
    await this.#runner.dispose();
  }
}

function placeOf({ pages }: PageSlot, position: number): number {
  const page = pages[Math.floor(position / KV_PAGE_TOKENS)];
  if (page === undefined) throw new RangeError(`Expected room for position ${position}`);
  return page * KV_PAGE_TOKENS + (position % KV_PAGE_TOKENS);
}
