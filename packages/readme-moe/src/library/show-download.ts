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
 */
export function shownDownload(onPlan: (plan: DownloadPlan) => void = () => undefined): ShownDownload {
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
