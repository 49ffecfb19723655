// Returns memory of a burst of requests to the system when the server is idle.

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { returnFreeMemory } from "@readme-moe/kernel";

/** An observation of the process. Plain data. */
export interface MemoryLook {
  /** Whether requests are running. */
  readonly isBusy: boolean;
  /** Resident memory of the process. */
  readonly residentBytes: number;
}

export interface IdleMemory {
  /** Resident memory after the last collection; 0 before the first. */
  readonly keptBytes: number;
  /** Whether requests were running in the last observation. */
  readonly wasBusy: boolean;
}

const NOT_COLLECTED: IdleMemory = { keptBytes: 0, wasBusy: true };

/** Growth that is worth a collection. */
const GROWTH_BYTES = 8 << 20;

/**
 * Decides whether to collect garbage: when two observations in a row have no requests, and the process has grown since
 * the last collection.
 *
 * @returns the next state, and whether to collect now
 */
export function nextCollection(
  { keptBytes, wasBusy }: IdleMemory,
  { isBusy, residentBytes }: MemoryLook,
): IdleMemory & { readonly collects: boolean } {
  const collects = !isBusy && !wasBusy && residentBytes > keptBytes + GROWTH_BYTES;
  return { keptBytes, wasBusy: isBusy, collects };
}

const LOOK_MS = 1000;

/**
 * Observes the process every second; collects garbage and returns free memory to the system.
 * @returns a function that stops
 */
export function collectWhenIdle(isBusy: () => boolean): () => void {
  // Node offers no other way to collect without a flag of the process.
  setFlagsFromString("--expose-gc");
  const collect: unknown = runInNewContext("gc");
  let memory: IdleMemory = NOT_COLLECTED;
  const timer = setInterval(() => {
    const { collects, ...rest } = nextCollection(memory, {
      isBusy: isBusy(),
      residentBytes: process.memoryUsage.rss(),
    });
    if (collects) {
      if (typeof collect === "function") collect();
      returnFreeMemory();
    }
    memory = collects ? { ...rest, keptBytes: process.memoryUsage.rss() } : rest;
  }, LOOK_MS);
  timer.unref();
  return () => clearInterval(timer);
}
