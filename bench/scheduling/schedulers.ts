import type { SchedulingOptions } from "@readme-moe/engine";

/** Compared schedulers: the paper's two baselines, its algorithm, and ours. */
export const SCHEDULERS: Readonly<Record<string, SchedulingOptions>> = {
  "decode-first": { scheduler: "fcfs", prefillShare: 0 },
  "prefill-first": { scheduler: "fcfs", prefillShare: 1 },
  "read-me": { scheduler: "read-me" },
  "cost-aware": { scheduler: "cost-aware" },
};
