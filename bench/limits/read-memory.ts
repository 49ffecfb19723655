// A thread that reads memory as fast as it can, together with others, as often as it is asked to; it answers when it began and
// ended.

import { parentPort, workerData } from "node:worker_threads";

export interface ReadingTask {
  readonly bytes: number;
  readonly threads: number;
  readonly how: "search" | "compare";
  /** int32 `[1]`: how many rounds were asked for. Threads sleep until there is one more. */
  readonly asked: Int32Array;
  /** int32 `[1]`: how many times any thread was at a round's start. */
  readonly arrived: Int32Array;
}

/** Of one round, in milliseconds that all threads agree on. */
export type ReadingTime = readonly [startMs: number, endMs: number];

const { bytes, threads, how, asked, arrived } = workerData as ReadingTask;
const half = bytes / 2;
// Not zeros: pages that nobody wrote are all the same page.
const memory = Buffer.alloc(bytes, 7);
const [one, other] = [memory.subarray(0, half), memory.subarray(half)];
for (let round = 1; ; round++) {
  while (Atomics.load(asked, 0) < round) Atomics.wait(asked, 0, round - 1);
  Atomics.add(arrived, 0, 1);
  while (Atomics.load(arrived, 0) < threads * round);
  const startMs = nowMs();
  // The C library's: the widest loads that the processor has, and next to nothing besides.
  const found = how === "search" ? memory.includes(9) : !one.equals(other);
  const time: ReadingTime = [startMs, nowMs()];
  if (found) throw new Error("Memory is not as it was written");
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has no origin
  parentPort?.postMessage(time);
}

function nowMs(): number {
  return performance.timeOrigin + performance.now();
}
