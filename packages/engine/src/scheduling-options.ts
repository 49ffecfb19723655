import { choiceOption, costAware, describeValue, fcfs, numberOption, readMe, type Scheduler } from "@readme-moe/core";

/** Who runs next in an engine. */
export interface SchedulingOptions {
  /**
   * Who came first; whole expert queues, the longest first (Read-ME, Algorithm 1); or whoever makes most tokens of the
   * time that a step is predicted to take.
   * @default "fcfs"
   */
  readonly scheduler?: "fcfs" | "read-me" | "cost-aware" | undefined;
  /**
   * Of `"fcfs"`: the share of a step that prefill may take while others decode, from 0, decode first, to 1, prefill
   * first; or neither before the other. @default "by-arrival"
   */
  readonly prefillShare?: number | "by-arrival" | undefined;
  /**
   * A sequence that was not in a step for longer than this goes first, from 0. Nobody waits longer than this and one step
   * for each sequence that holds KV memory. @default 500, of `"fcfs"` Infinity
   */
  readonly maxDelayMs?: number | undefined;
  /** Of `"cost-aware"`: that a step may take with prefill in it while others decode, from 1. @default 250 */
  readonly maxStepMs?: number | undefined;
}

/** Defaults that are not filled in are the schedulers' own. */
export type ResolvedSchedulingOptions = SchedulingOptions & {
  readonly scheduler: Exclude<SchedulingOptions["scheduler"], undefined>;
};

/** @throws {TypeError | RangeError} naming the option, what was expected and what came */
export function resolveSchedulingOptions(options: SchedulingOptions): ResolvedSchedulingOptions {
  const { scheduler = "fcfs", prefillShare, maxDelayMs, maxStepMs } = options;
  return {
    scheduler: choiceOption("scheduler", scheduler, ["fcfs", "read-me", "cost-aware"] as const),
    prefillShare: prefillShare === undefined ? undefined : shareOption(prefillShare),
    maxDelayMs: maxDelayMs === undefined ? undefined : numberOption("maxDelayMs", maxDelayMs, 0),
    maxStepMs: maxStepMs === undefined ? undefined : numberOption("maxStepMs", maxStepMs, 1),
  };
}

/** The scheduler that options name. */
export function schedulerOf(options: ResolvedSchedulingOptions): Scheduler {
  switch (options.scheduler) {
    case "fcfs":
      return fcfs(options);
    case "read-me":
      return readMe(options);
    case "cost-aware":
      return costAware(options);
    default:
      throw new TypeError(`Unknown scheduler: ${String(options.scheduler satisfies never)}`);
  }
}

function shareOption(value: unknown): number | "by-arrival" {
  if (typeof value === "number") return numberOption("prefillShare", value, 0, 1);
  if (value === "by-arrival") return value;
  throw new TypeError(`Expected \`prefillShare\` to be a number or "by-arrival", got ${describeValue(value)}`);
}
