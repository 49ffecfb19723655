import { type Rate, RateMeter } from "@readme-moe/core";
import type { DownloadPlan, DownloadProgress } from "@readme-moe/model";

/** Progress of a download. */
export interface DownloadState extends Rate {
  readonly doneBytes: number;
  readonly ofBytes: number;
}

/** Adds up the progress of a download's files, and measures its rate. Time is passed in. */
export class DownloadMeter {
  readonly #doneBytes = new Map<string, number>();
  readonly #ofBytes = new Map<string, number>();
  readonly #rate = new RateMeter();

  /** Sets what is downloaded. Bytes that are there already are done, and count for no rate. */
  plan({ files }: Pick<DownloadPlan, "files">): void {
    this.#rate.restart();
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
    const all = { doneBytes: sum(this.#doneBytes), ofBytes: sum(this.#ofBytes) };
    // A file that begins, or that begins again after damage, says nothing about the rate.
    if (before === undefined || doneBytes < before) this.#rate.restart();
    return { ...all, ...this.#rate.update(all.doneBytes, all.ofBytes, nowMs) };
  }
}

function sum(bytes: ReadonlyMap<string, number>): number {
  return [...bytes.values()].reduce((total, one) => total + one, 0);
}
