import type { LoadProgress } from "@readme-moe/engine";
import { showStatus } from "./status-line.ts";

const BAR_WIDTH = 24;

/** Shows how far opening a model is; nothing once it is over. */
export function showLoading(progress?: LoadProgress): void {
  showStatus(progress && describe(progress));
}

function describe({ stage, doneBytes, ofBytes }: LoadProgress): string {
  if (stage === "opening") return "opening the model …";
  if (stage === "loading") return "loading the weights …";
  const share = ofBytes > 0 ? doneBytes / ofBytes : 0;
  const filled = Math.round(share * BAR_WIDTH);
  const bar = "█".repeat(filled) + "░".repeat(BAR_WIDTH - filled);
  return `packing the weights, once ${bar} ${Math.round(share * 100)} %`;
}
