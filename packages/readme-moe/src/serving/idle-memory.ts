// Memory that a burst of requests took goes back to the system once nobody asks any more.

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { returnFreeMemory } from "@readme-moe/kernel";

/** One look at the process. Plain data. */
export interface MemoryLook {
  /** Whether requests are under way. */
  readonly isBusy: boolean;
  /** Resident memory of the process. */
  readonly residentBytes: number;
}

export interface IdleMemory {
  /** Resident memory after the last collection; 0 before the first. */
  readonly keptBytes: number;
  /** Whether the last look saw requests. */
  readonly wasBusy: boolean;
}

const NOT_COLLECTED: IdleMemory = { keptBytes: 0, wasBusy: true };

/** Smaller growth is not worth a collection. */
const GROWTH_BYTES = 8 << 20;

/**
 * Decides whether to collect garbage: when two looks in a row see no requests, and the process has grown since the last time.
 *
 * @returns what to remember, and whether to collect now
 */
export function nextCollection(
  { keptBytes, wasBusy }: IdleMemory,
  { isBusy, residentBytes }: MemoryLook,
): IdleMemory & { readonly collects: boolean } {
  const collects = !isBusy && !wasBusy && residentBytes > keptBytes + GROWTH_BYTES;
  return { keptBytes, wasBusy: isBusy, collects };
}

const LOOK_MS = 1000;

/** Looks every second; collects, and gives what is free back to the system. @returns ends it */
export function collectWhenIdle(isBusy: () => boolean): () => void {
  // Node has no other way to ask for a collection without a flag of the process.
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  let memory: IdleMemory = NOT_COLLECTED;
  const timer = setInterval(() => {
    const { collects, ...rest } = nextCollection(memory, {
      isBusy: isBusy(),
      residentBytes: process.memoryUsage.rss(),
    });
    if (collects) {
      collect();
      returnFreeMemory();
    }
    memory = collects ? { ...rest, keptBytes: process.memoryUsage.rss() } : rest;
  }, LOOK_MS);
  timer.unref();
  return () => clearInterval(timer);
}
