// Thread that reads memory at full speed in each round, together with others, and reports its start and end.

import { parentPort, workerData } from "node:worker_threads";

export interface ReadingTask {
  readonly bytes: number;
  readonly threads: number;
  readonly how: "search" | "compare";
  /** int32 `[1]`: number of requested rounds. Threads sleep until it grows. */
  readonly asked: Int32Array;
  /** int32 `[1]`: number of threads that have started, summed over rounds. */
  readonly arrived: Int32Array;
}

/** Times of one round, in milliseconds of a clock that all threads share. */
export type ReadingTime = readonly [startMs: number, endMs: number];

const { bytes, threads, how, asked, arrived } = workerData as ReadingTask;
const half = bytes / 2;
// Pages that were never written share one physical page, so memory is filled.
const memory = Buffer.alloc(bytes, 7);
const [one, other] = [memory.subarray(0, half), memory.subarray(half)];
for (let round = 1; ; round++) {
  while (Atomics.load(asked, 0) < round) Atomics.wait(asked, 0, round - 1);
  Atomics.add(arrived, 0, 1);
  while (Atomics.load(arrived, 0) < threads * round);
  const startMs = nowMs();
  // The C library's search uses the processor's widest loads and does little else.
  const found = how === "search" ? memory.includes(9) : !one.equals(other);
  const time: ReadingTime = [startMs, nowMs()];
  if (found) throw new Error("Memory does not hold what was written");
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has no origin
  parentPort?.postMessage(time);
}

function nowMs(): number {
  return performance.timeOrigin + performance.now();
}
