import type { LoadProgress } from "@readme-moe/engine";

const BAR_WIDTH = 24;

/**
 * Shows on a terminal how far opening a model is; silent elsewhere.
 * @returns what to call with each piece of news, and with nothing once it is over
 */
export function loadingProgress(stream: NodeJS.WriteStream = process.stderr): (progress?: LoadProgress) => void {
  if (!stream.isTTY) return () => undefined;
  return (progress) => {
    // Back to the line's start, and clear it.
    stream.write("\r\u001B[K");
    if (progress) stream.write(describe(progress));
  };
}

function describe({ stage, doneBytes, ofBytes }: LoadProgress): string {
  if (stage === "opening") return "opening the model …";
  if (stage === "loading") return "loading the graph …";
  const share = ofBytes > 0 ? doneBytes / ofBytes : 0;
  const filled = Math.round(share * BAR_WIDTH);
  const bar = "█".repeat(filled) + "░".repeat(BAR_WIDTH - filled);
  return `building the graph, once ${bar} ${Math.round(share * 100)} %`;
}
