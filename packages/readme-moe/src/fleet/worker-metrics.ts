// The state of a worker in the text format of Prometheus.

import type { PublishedWorker } from "@readme-moe/fleet";

type Metric = readonly [name: string, type: "gauge" | "counter", help: string, of: (state: PublishedWorker) => number];

const METRICS: readonly Metric[] = [
  ["running_sequences", "gauge", "Sequences that hold a place", (one) => one.runningSeqs],
  ["free_sequences", "gauge", "Further sequences that may run", (one) => one.freeSeqs],
  ["step_seconds", "gauge", "Mean duration of recent steps", (one) => one.stepMs / 1000],
  ["pulls_total", "counter", "Requests taken from the queues", (one) => one.pulls],
  ["tokens_total", "counter", "Generated tokens", (one) => one.counters.tokens],
  ["answered_total", "counter", "Requests that ended here", (one) => one.counters.answered],
  ["cancelled_total", "counter", "Requests that were cancelled", (one) => one.counters.cancelled],
  ["resumed_total", "counter", "Requests that another worker had begun", (one) => one.counters.resumed],
  ["released_total", "counter", "Requests handed to other workers", (one) => one.counters.released],
  ["lost_total", "counter", "Requests that others took because this worker was silent", (one) => one.counters.foreign],
  [
    "different_tokens_total",
    "counter",
    "Tokens that differ from those in a request's log; always 0",
    (one) => one.counters.different,
  ],
  ["refused_total", "counter", "Jobs that no front writes", (one) => one.counters.refused],
];

export function workerMetrics(state: PublishedWorker): string {
  const label = `{worker=${JSON.stringify(state.id)}}`;
  const lines = METRICS.flatMap(([name, type, help, of]) => {
    const full = `readme_moe_worker_${name}`;
    return [`# HELP ${full} ${help}`, `# TYPE ${full} ${type}`, `${full}${label} ${of(state)}`];
  });
  return `${lines.join("\n")}\n`;
}
