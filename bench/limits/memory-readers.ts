// How fast memory can be read: threads that read all at once, whenever they are asked to.

import { once } from "node:events";
import { Worker } from "node:worker_threads";
import type { ReadingTask, ReadingTime } from "./read-memory.ts";

export class MemoryReaders {
  readonly #workers: readonly Worker[];
  readonly #bytes: number;
  readonly #asked: Int32Array;

  /** @param bytes - that each thread reads, its own: more than caches hold */
  constructor(threads: number, bytes: number, how: ReadingTask["how"]) {
    this.#bytes = bytes;
    this.#asked = new Int32Array(new SharedArrayBuffer(4));
    const arrived = new Int32Array(new SharedArrayBuffer(4));
    const workerData: ReadingTask = { bytes, threads, how, asked: this.#asked, arrived };
    // Threads do not have the loader of TypeScript that the process has.
    const entry = JSON.stringify(new URL("./read-memory.ts", import.meta.url).href);
    const code = `import("tsx/esm/api").then(({ register }) => { register(); return import(${entry}); });`;
    this.#workers = Array.from({ length: threads }, () => new Worker(code, { eval: true, workerData }));
  }

  /** One round. @returns GB/s of all threads together */
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

/** Bytes of all threads over the time from the first one's start to the last one's end, in GB/s. */
export function readingRate(threads: readonly ReadingTime[], bytes: number): number {
  const ms = Math.max(...threads.map(([, end]) => end)) - Math.min(...threads.map(([start]) => start));
  return (threads.length * bytes) / ms / 1e6;
}
