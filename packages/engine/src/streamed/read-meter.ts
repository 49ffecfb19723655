// How fast units are read. Only reads that steps wait for are measured: while the kernel runs, nobody sees a read end.

/** Bytes of the measurements from which older ones weigh half. */
const MEMORY_BYTES = 1 << 28;

/** Counts reads in progress, and estimates the speed of reading. */
export class ReadMeter {
  #pendingBytes = 0;
  #bytes = 0;
  #ms = 0;

  /** Bytes of reads in progress. */
  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  /** Bytes that are read in a ms; `undefined` before the first measurement. */
  get bytesPerMs(): number | undefined {
    return this.#ms > 0 ? this.#bytes / this.#ms : undefined;
  }

  begin(bytes: number): void {
    this.#pendingBytes += bytes;
  }

  end(bytes: number): void {
    this.#pendingBytes -= bytes;
  }

  /** Adds reads that took a step's whole time, from the begin of the first one to the end of the last one. */
  measure(bytes: number, durationMs: number): void {
    this.#bytes += bytes;
    this.#ms += durationMs;
    if (this.#bytes < MEMORY_BYTES) return;
    this.#bytes /= 2;
    this.#ms /= 2;
  }
}
