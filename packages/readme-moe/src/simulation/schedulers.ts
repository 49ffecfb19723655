import { costAware, fcfs, readMe, type Scheduler } from "@readme-moe/core";

/** `decode-first` and `prefill-first` are the baselines of Read-ME, section 5. */
export const SCHEDULER_NAMES = ["cost-aware", "read-me", "fcfs", "decode-first", "prefill-first"] as const;

export type SchedulerName = (typeof SCHEDULER_NAMES)[number];

/** Each with its defaults. */
export const SCHEDULERS: Readonly<Record<SchedulerName, Scheduler>> = {
  "cost-aware": costAware(),
  "read-me": readMe(),
  fcfs: fcfs(),
  "decode-first": fcfs({ prefillShare: 0 }),
  "prefill-first": fcfs({ prefillShare: 1 }),
};
