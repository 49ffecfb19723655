// Measures the rate of reading memory with threads that all read at the same time.

import { once } from "node:events";
import { Worker } from "node:worker_threads";
import type { ReadingTask, ReadingTime } from "./read-memory.ts";

export class MemoryReaders {
  readonly #workers: readonly Worker[];
  readonly #bytes: number;
  readonly #asked: Int32Array;

  /** @param bytes - own memory of each thread, more than caches hold */
  constructor(threads: number, bytes: number, how: ReadingTask["how"]) {
    this.#bytes = bytes;
    this.#asked = new Int32Array(new SharedArrayBuffer(4));
    const arrived = new Int32Array(new SharedArrayBuffer(4));
    const workerData: ReadingTask = { bytes, threads, how, asked: this.#asked, arrived };
    // Threads do not inherit the process's TypeScript loader.
    const entry = JSON.stringify(new URL("./read-memory.ts", import.meta.url).href);
    const code = `import("tsx/esm/api").then(({ register }) => { register(); return import(${entry}); });`;
    this.#workers = Array.from({ length: threads }, () => new Worker(code, { eval: true, workerData }));
  }

  /** Runs one round. @returns GB/s of all threads together */
  async read(): Promise<number> {
    const times = this.#workers.map((worker) => once(worker, "message") as Promise<[ReadingTime]>);
    Atomics.add(this.#asked, 0, 1);
    Atomics.notify(this.#asked, 0);
    return readingRate((await Promise.all(times)).flat(), this.#bytes);
  }

  async dispose(): Promise<void> {
    for (const worker of this.#workers) await worker.terminate();
  }
}

/** Divides the bytes of all threads by the time from the first start to the last end, in GB/s. */
export function readingRate(threads: readonly ReadingTime[], bytes: number): number {
  const ms = Math.max(...threads.map(([, end]) => end)) - Math.min(...threads.map(([start]) => start));
  return (threads.length * bytes) / ms / 1e6;
}
