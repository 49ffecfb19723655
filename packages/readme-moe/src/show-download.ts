import { LoadMeter, type LoadProgress, loadText, type MeteredProgress, type Rate, RateMeter } from "@readme-moe/core";
import type { DownloadModelOptions, DownloadPlan, DownloadProgress } from "@readme-moe/model";
import { durationText, showStatus, sizeText } from "./terminal.ts";

type ShownDownload = Required<Pick<DownloadModelOptions, "onPlan" | "onProgress">>;

const INTERVAL_MS = 100;

/**
 * Shows a download on the terminal's last line: its share, rate and time left. `showStatus` clears the line.
 * @param onPlan - called with what will be downloaded, before it is
 * @param onLoading - gets the progress of all files together, instead of the terminal
 */
export function shownDownload(
  onPlan: (plan: DownloadPlan) => void = () => undefined,
  onLoading?: (progress: LoadProgress) => void,
): ShownDownload {
  const meter = new DownloadMeter();
  let shownAtMs = -Infinity;
  return {
    onPlan: (plan) => {
      meter.plan(plan);
      if (plan.terms !== undefined) console.error(`note: ${plan.terms}`);
      onPlan(plan);
    },
    onProgress: (progress) => {
      const nowMs = performance.now();
      const state = meter.update(progress, nowMs);
      if (onLoading) {
        onLoading({ stage: "downloading", doneBytes: state.doneBytes, ofBytes: state.ofBytes });
        return;
      }
      if (nowMs - shownAtMs < INTERVAL_MS && progress.doneBytes < progress.ofBytes) return;
      shownAtMs = nowMs;
      showStatus(downloadLine(progress.file, state));
    },
  };
}

/** Describes the progress of a download in one line. */
export function downloadLine(file: string, state: DownloadState): string {
  const { doneBytes, ofBytes, bytesPerSecond, secondsLeft } = state;
  const share = ofBytes > 0 ? Math.floor((100 * doneBytes) / ofBytes) : 100;
  const rate = bytesPerSecond === undefined ? "" : `, ${sizeText(bytesPerSecond)}/s`;
  const left = secondsLeft === undefined ? "" : `, ${durationText(secondsLeft)} left`;
  return `downloading ${file}: ${share} % of ${sizeText(ofBytes)}${rate}${left}`;
}

/** Time of an opening before its first line in a log, and between two of them: most openings have none. */
const LINE_INTERVAL_MS = 5000;

/** Chooses which progress of one opening becomes a line of a log. Times are those of a clock that is never set. */
export class LoadingLines {
  #nextMs: number | undefined;

  isDue(nowMs: number): boolean {
    this.#nextMs ??= nowMs + LINE_INTERVAL_MS;
    if (nowMs < this.#nextMs) return false;
    this.#nextMs = nowMs + LINE_INTERVAL_MS;
    return true;
  }
}

/** Makes a function that shows the opening of a model: on a terminal's last line, or as lines of a log now and then. */
export function shownLoading(name: string): (progress: LoadProgress) => void {
  const meter = new LoadMeter();
  const lines = new LoadingLines();
  return (progress) => {
    const nowMs = performance.now();
    showLoading(loadingLine(name, meter.update(progress, nowMs)), lines.isDue(nowMs));
  };
}

/** @param isDue - whether a log gets the line */
export function showLoading(line: string, isDue: boolean): void {
  if (process.stderr.isTTY) showStatus(line);
  else if (isDue) console.error(line);
}

/** Describes the opening of a model in one line: `tiny: packing weights, 40 % of 1.07 GB, 12 s left`. */
export function loadingLine(name: string, progress: MeteredProgress): string {
  const { ofBytes, secondsLeft } = progress;
  const size = ofBytes > 0 ? ` of ${sizeText(ofBytes)}` : " …";
  const left = secondsLeft === undefined ? "" : `, ${durationText(secondsLeft)} left`;
  return `${name}: ${loadText(progress)}${size}${left}`;
}

/** Progress of a download. */
interface DownloadState extends Rate {
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
