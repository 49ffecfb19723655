// Gauges of a server that must be 0 when it has no requests.

import { setTimeout as sleep } from "node:timers/promises";
import { scrape } from "../../test/support/prometheus.ts";

const GAUGES = [
  "num_requests_running",
  "num_requests_waiting",
  "kv_cache_usage_perc",
  "admission_requests",
  "admission_waiting_requests",
  "admission_tokens",
  "admission_bytes",
];
const PATIENCE_MS = 15_000;

/** Returns the gauges that are missing or not 0 now. */
async function busyGauges(url: string): Promise<readonly string[]> {
  const metrics = await scrape(url);
  return GAUGES.flatMap((name) => {
    const value = metrics.value(`readme_${name}`);
    return value === 0 ? [] : [`${name} ${value}`];
  });
}

/** Returns the gauges that are still not 0 after a while without requests. */
export async function stuckGauges(url: string): Promise<readonly string[]> {
  for (const endMs = performance.now() + PATIENCE_MS; ;) {
    const busy = await busyGauges(url);
    if (busy.length === 0 || performance.now() > endMs) return busy;
    await sleep(100);
  }
}

/** Makes a note; empty when no gauge is stuck. */
export function stuckNote(stuck: readonly string[]): string {
  return stuck.length > 0 ? ` Not 0: ${stuck.join(", ")}.` : "";
}

/** Returns the number of tokens generated so far, including running requests. */
export async function generatedTokens(url: string): Promise<number> {
  return (await scrape(url)).value("readme_generation_tokens_total") ?? 0;
}

/** Returns the number of sequences that were aborted because their client left. */
export async function cancelledSequences(url: string): Promise<number> {
  return (await scrape(url)).value("readme_request_success_total", { finished_reason: "abort" }) ?? 0;
}
