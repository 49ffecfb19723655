import type { DownloadProgress } from "@readme-moe/model";
import { showStatus } from "./status-line.ts";

/** Shows how far a download is; nothing once it is over. */
export function showDownload(progress?: DownloadProgress): void {
  if (!progress) return showStatus();
  const { file, doneBytes, ofBytes } = progress;
  showStatus(`downloading ${file} ${(doneBytes / 1e6).toFixed(1)} of ${(ofBytes / 1e6).toFixed(1)} MB`);
}
