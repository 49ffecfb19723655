import type { DownloadPlan, DownloadProgress } from "@readme-moe/model";

/** Progress of a download. */
export interface DownloadState {
  readonly doneBytes: number;
  readonly ofBytes: number;
  /** Rate of the last seconds; `undefined` until there is one. */
  readonly bytesPerSecond: number | undefined;
  /** Time left at this rate, in seconds; `undefined` without a rate. */
  readonly secondsLeft: number | undefined;
}

interface Sample {
  readonly atMs: number;
  readonly bytes: number;
}

// Long enough to even out bursts, short enough to follow a line that changes its speed.
const WINDOW_MS = 5000;
// A rate from less time than this jumps with every chunk.
const LEAST_MS = 500;

/** Adds up the progress of a download's files, and measures its rate. Time is passed in. */
export class DownloadMeter {
  readonly #doneBytes = new Map<string, number>();
  readonly #ofBytes = new Map<string, number>();
  #samples: Sample[] = [];

  /** Sets what is downloaded. Bytes that are there already are done, and count for no rate. */
  plan({ files }: Pick<DownloadPlan, "files">): void {
    this.#samples = [];
    for (const { name, bytes, missingBytes } of files) {
      this.#doneBytes.set(name, bytes - missingBytes);
      this.#ofBytes.set(name, bytes);
    }
  }

  /** Notes the progress of one file, and returns that of all. @param nowMs - time of a clock that is never set */
  update({ file, doneBytes, ofBytes }: DownloadProgress, nowMs: number): DownloadState {
    const before = this.#doneBytes.get(file);
    this.#doneBytes.set(file, doneBytes);
    this.#ofBytes.set(file, ofBytes);
    const bytes = sum(this.#doneBytes);
    // A file that begins, or that begins again after damage, says nothing about the rate.
    if (before === undefined || doneBytes < before) this.#samples = [];
    this.#samples = [...this.#samples.filter(({ atMs }) => atMs >= nowMs - WINDOW_MS), { atMs: nowMs, bytes }];
    return this.#stateOf(bytes, nowMs);
  }

  #stateOf(doneBytes: number, nowMs: number): DownloadState {
    const ofBytes = sum(this.#ofBytes);
    const first = this.#samples[0] ?? { atMs: nowMs, bytes: doneBytes };
    const durationMs = nowMs - first.atMs;
    const rate = durationMs < LEAST_MS ? undefined : ((doneBytes - first.bytes) / durationMs) * 1000;
    const bytesPerSecond = rate !== undefined && rate > 0 ? rate : undefined;
    const secondsLeft = bytesPerSecond === undefined ? undefined : (ofBytes - doneBytes) / bytesPerSecond;
    return { doneBytes, ofBytes, bytesPerSecond, secondsLeft };
  }
}

function sum(bytes: ReadonlyMap<string, number>): number {
  return [...bytes.values()].reduce((total, one) => total + one, 0);
}
