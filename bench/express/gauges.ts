// What a server says of itself that has to be 0 when nobody asks anything of it.

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

/** Those that are not 0, or not there, now. */
async function busyGauges(url: string): Promise<readonly string[]> {
  const metrics = await scrape(url);
  return GAUGES.flatMap((name) => {
    const value = metrics.value(`readme_${name}`);
    return value === 0 ? [] : [`${name} ${value}`];
  });
}

/** Those that are not 0 although nobody has asked anything for a while. */
export async function stuckGauges(url: string): Promise<readonly string[]> {
  for (const endMs = performance.now() + PATIENCE_MS; ;) {
    const busy = await busyGauges(url);
    if (busy.length === 0 || performance.now() > endMs) return busy;
    await sleep(100);
  }
}

/** For a note: nothing where none is stuck. */
export function stuckNote(stuck: readonly string[]): string {
  return stuck.length > 0 ? ` Not 0: ${stuck.join(", ")}.` : "";
}

/** Tokens that the server has generated so far, of requests that are under way as well. */
export async function generatedTokens(url: string): Promise<number> {
  return (await scrape(url)).value("readme_generation_tokens_total") ?? 0;
}

/** Sequences that the engine gave up because their client had gone. */
export async function cancelledSequences(url: string): Promise<number> {
  return (await scrape(url)).value("readme_request_success_total", { finished_reason: "abort" }) ?? 0;
}
