// Progress on a terminal's last line.

import type { LoadProgress } from "@readme-moe/engine";
import type { DownloadProgress } from "@readme-moe/model";

const BAR_WIDTH = 24;

/** Shows a line on a terminal in place of the one before; an empty text clears it. Does nothing without a terminal. */
export function showStatus(text = ""): void {
  // Returns to the start of the line and clears it.
  if (process.stderr.isTTY) process.stderr.write(`\r\u001B[K${text}`);
}

/** Shows the progress of a download; clears the line when called without it. */
export function showDownload(progress?: DownloadProgress): void {
  if (!progress) return showStatus();
  const { file, doneBytes, ofBytes } = progress;
  showStatus(`downloading ${file} ${(doneBytes / 1e6).toFixed(1)} of ${(ofBytes / 1e6).toFixed(1)} MB`);
}

/** Shows the progress of opening a model; clears the line when called without it. */
export function showLoading(progress?: LoadProgress): void {
  showStatus(progress && describe(progress));
}

function describe({ stage, doneBytes, ofBytes }: LoadProgress): string {
  if (stage === "opening") return "opening the model …";
  if (stage === "loading") return "loading the weights …";
  const share = ofBytes > 0 ? doneBytes / ofBytes : 0;
  const filled = Math.round(share * BAR_WIDTH);
  const bar = "█".repeat(filled) + "░".repeat(BAR_WIDTH - filled);
  return `packing the weights (first start only) ${bar} ${Math.round(share * 100)} %`;
}
