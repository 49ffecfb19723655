import { LoadMeter, type LoadProgress, loadText, type MeteredProgress } from "@readme-moe/core";
import type { DownloadModelOptions, DownloadPlan } from "@readme-moe/model";
import { showStatus } from "../terminal.ts";
import { DownloadMeter, type DownloadState } from "./download-meter.ts";
import { durationText, sizeText } from "./sizes.ts";

/** A download that is shown on a terminal. */
export type ShownDownload = Required<Pick<DownloadModelOptions, "onPlan" | "onProgress">>;

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
