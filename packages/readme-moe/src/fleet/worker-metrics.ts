// The state of a worker in the text format of Prometheus.

import type { PublishedWorker } from "@readme-moe/fleet";

interface Metric {
  readonly name: string;
  readonly type: "gauge" | "counter";
  readonly help: string;
  readonly of: (state: PublishedWorker) => number;
}

const METRICS: readonly Metric[] = [
  { name: "running_sequences", type: "gauge", help: "Sequences that hold a place", of: (one) => one.runningSeqs },
  { name: "free_sequences", type: "gauge", help: "Further sequences that may run", of: (one) => one.freeSeqs },
  { name: "step_seconds", type: "gauge", help: "Mean duration of recent steps", of: (one) => one.stepMs / 1000 },
  { name: "pulls_total", type: "counter", help: "Requests taken from the queues", of: (one) => one.pulls },
  { name: "tokens_total", type: "counter", help: "Generated tokens", of: (one) => one.counters.tokens },
  { name: "answered_total", type: "counter", help: "Requests that ended here", of: (one) => one.counters.answered },
  {
    name: "cancelled_total",
    type: "counter",
    help: "Requests that were cancelled",
    of: (one) => one.counters.cancelled,
  },
  {
    name: "resumed_total",
    type: "counter",
    help: "Requests that another worker had begun",
    of: (one) => one.counters.resumed,
  },
  {
    name: "released_total",
    type: "counter",
    help: "Requests handed to other workers",
    of: (one) => one.counters.released,
  },
  {
    name: "lost_total",
    type: "counter",
    help: "Requests that others took because this worker was silent",
    of: (one) => one.counters.foreign,
  },
  {
    name: "different_tokens_total",
    type: "counter",
    help: "Tokens that differ from those in a request's log; always 0",
    of: (one) => one.counters.different,
  },
  { name: "refused_total", type: "counter", help: "Jobs that no front writes", of: (one) => one.counters.refused },
];

/** Writes the metrics of a worker. */
export function workerMetrics(state: PublishedWorker): string {
  const label = `{worker=${JSON.stringify(state.id)}}`;
  const lines = METRICS.flatMap(({ name, type, help, of }) => {
    const full = `readme_moe_worker_${name}`;
    return [`# HELP ${full} ${help}`, `# TYPE ${full} ${type}`, `${full}${label} ${of(state)}`];
  });
  return `${lines.join("\n")}\n`;
}
