// A thread that reads memory as fast as it can, in turn with others: told how much, it answers when it began and ended.

import { parentPort, workerData } from "node:worker_threads";

export interface ReadingTask {
  readonly bytes: number;
  readonly rounds: number;
  /** Threads that are at a round's start, int32 `[rounds]`, and how many there are. */
  readonly arrived: Int32Array;
  readonly threads: number;
  readonly how: "search" | "compare";
}

/** Of each round, in milliseconds that all threads agree on. */
export type ReadingTimes = readonly (readonly [startMs: number, endMs: number])[];

const { bytes, rounds, arrived, threads, how } = workerData as ReadingTask;
const half = bytes / 2;
// Not zeros: pages that nobody wrote are all the same page.
const memory = Buffer.alloc(bytes, 7);
const [one, other] = [memory.subarray(0, half), memory.subarray(half)];
const times: [number, number][] = [];
for (let round = 0; round < rounds; round++) {
  Atomics.add(arrived, round, 1);
  while (Atomics.load(arrived, round) < threads);
  const startMs = nowMs();
  // The C library's: the widest loads that the processor has, and next to nothing besides.
  const found = how === "search" ? memory.includes(9) : !one.equals(other);
  times.push([startMs, nowMs()]);
  if (found) throw new Error("Memory is not as it was written");
}
// oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has no origin
parentPort?.postMessage(times);

function nowMs(): number {
  return performance.timeOrigin + performance.now();
}
