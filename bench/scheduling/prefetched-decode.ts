// Decode steps over all experts in turn within a budget, from the system's cache or from a disk of a given speed. Reads
// wait one after the other for the time of such a disk.

import { setTimeout as sleep } from "node:timers/promises";
import { expertBytes } from "@readme-moe/core";
import { expertLayout, KernelRunner } from "@readme-moe/engine";
import { type KvSlot, wholeBlocks } from "@readme-moe/kernel";
import type { Model } from "@readme-moe/model";
import type { ExpertStore } from "../../packages/engine/src/experts/expert-store.ts";
import { UnitFile } from "../../packages/engine/src/experts/unit-file.ts";

const NUM_SEQS = 16;

export interface PrefetchedOptions {
  readonly threads: number;
  /** Share of all experts' bytes. */
  readonly budget: number;
  /** 0 reads on demand, 1 prefetches the next layer. */
  readonly lookaheadLayers: number;
  readonly rounds: number;
  /** Speed of the disk; `Infinity` is the system's cache. */
  readonly diskMbPerS: number;
  readonly cacheFolder?: string | undefined;
}

/** Means over steps. */
export interface Decoded {
  readonly meanMs: number;
  readonly stallMs: number;
  readonly megabytes: number;
}

export async function prefetchedDecode(model: Model, options: PrefetchedOptions): Promise<Decoded> {
  const { budget, diskMbPerS, rounds, ...own } = options;
  const layout = expertLayout(model);
  const expertCacheBytes = Math.ceil(budget * layout.numExperts * expertBytes(layout));
  const runner = await KernelRunner.open(model, { ...own, expertCacheBytes });
  const restore = slowReads(diskMbPerS);
  try {
    return await decode(runner, layout.numExperts, rounds);
  } finally {
    restore();
    await runner.dispose();
  }
}

/** @returns a function that ends the simulation */
function slowReads(diskMbPerS: number): () => void {
  const read = Object.getOwnPropertyDescriptor(UnitFile.prototype, "read")?.value as UnitFile["read"];
  let freeAtMs = 0;
  UnitFile.prototype.read = async function slowRead(layer, expert, into) {
    const startMs = performance.now();
    freeAtMs = Math.max(freeAtMs, startMs) + (this.layerBytes[layer] ?? 0) / (diskMbPerS * 1e3);
    const endMs = freeAtMs;
    await read.call(this, layer, expert, into);
    if (endMs > performance.now()) await sleep(endMs - performance.now());
  };
  return () => {
    UnitFile.prototype.read = read;
  };
}

/** Runs steps of 16 sequences whose experts change every few steps. */
async function decode(runner: KernelRunner, numExperts: number, rounds: number): Promise<Decoded> {
  const room = wholeBlocks(33 + rounds);
  const kv = runner.openKv({ capacityTokens: NUM_SEQS * room });
  const slots = Array.from({ length: NUM_SEQS }, () => kv.admit(room) as KvSlot);
  const step = async (round: number, length: number): Promise<void> => {
    const first = Math.floor(round / 3) % numExperts;
    await runner.forward(
      kv,
      slots.map((slot, index) => ({
        slot,
        tokenIds: Array.from({ length }, (_, i) => 100 + index * 7 + i),
        experts: Array.from({ length }, () => (first + (index % 4)) % numExperts),
        logitsOf: [length - 1],
      })),
    );
  };
  await step(0, 32);
  const memory = runner.memory as ExpertStore;
  const before = memory.stats;
  const times: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const startMs = performance.now();
    await step(round, 1);
    times.push(performance.now() - startMs);
  }
  const after = memory.stats;
  return {
    meanMs: times.reduce((sum, ms) => sum + ms, 0) / rounds,
    stallMs: (after.stallMs - before.stallMs) / rounds,
    megabytes: (after.bytesRead - before.bytesRead) / 1e6 / rounds,
  };
}
