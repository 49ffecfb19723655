import { choiceOption, costAware, describeValue, fcfs, numberOption, readMe, type Scheduler } from "@readme-moe/core";
import {
  functionModuleOption,
  importFunction,
  type FunctionModule,
  type ResolvedFunctionModule,
} from "./function-module.ts";

/** Who runs next in an engine. */
export interface SchedulingOptions {
  /**
   * Whoever makes most of the time that a step is predicted to take; whole expert queues, the longest first (Read-ME,
   * Algorithm 1); who came first; or a function of your own, core's `Scheduler`, exported by a module.
   * @default "cost-aware", or "fcfs" with `prefillShare`
   */
  readonly scheduler?: "cost-aware" | "read-me" | "fcfs" | FunctionModule | undefined;
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

type SchedulerName = Extract<SchedulingOptions["scheduler"], string>;

/** Defaults that are not filled in are the schedulers' own. */
export type ResolvedSchedulingOptions = Omit<SchedulingOptions, "scheduler"> & {
  readonly scheduler: SchedulerName | ResolvedFunctionModule;
};

/** Of which scheduler an option is. */
const SCHEDULERS_OF: Readonly<Record<"prefillShare" | "maxDelayMs" | "maxStepMs", readonly SchedulerName[]>> = {
  prefillShare: ["fcfs"],
  maxDelayMs: ["cost-aware", "read-me", "fcfs"],
  maxStepMs: ["cost-aware"],
};

/** @throws {TypeError | RangeError} naming the option, what was expected and what came */
export function resolveSchedulingOptions(options: SchedulingOptions): ResolvedSchedulingOptions {
  const { prefillShare, maxDelayMs, maxStepMs } = options;
  const { scheduler = prefillShare === undefined ? "cost-aware" : "fcfs" } = options;
  const resolved = {
    scheduler:
      functionModuleOption("scheduler", scheduler) ??
      choiceOption("scheduler", scheduler as SchedulerName, ["fcfs", "read-me", "cost-aware"] as const),
    prefillShare: prefillShare === undefined ? undefined : shareOption(prefillShare),
    maxDelayMs: maxDelayMs === undefined ? undefined : numberOption("maxDelayMs", maxDelayMs, 0),
    maxStepMs: maxStepMs === undefined ? undefined : numberOption("maxStepMs", maxStepMs, 1),
  };
  for (const [name, schedulers] of Object.entries(SCHEDULERS_OF)) {
    const value = resolved[name as keyof typeof SCHEDULERS_OF];
    if (value === undefined || schedulers.some((one) => one === resolved.scheduler)) continue;
    const known = schedulers.map((one) => `"${one}"`).join(", ");
    const came = typeof resolved.scheduler === "string" ? `"${resolved.scheduler}"` : "a function of your own";
    throw new TypeError(`Expected \`${name}\` with the scheduler ${known} only, got it with ${came}`);
  }
  return resolved;
}

/** The scheduler that options name. @throws {ReadMeError} `ERR_MODULE` when it is a module's, and cannot be had */
export async function schedulerOf(options: ResolvedSchedulingOptions): Promise<Scheduler> {
  const { scheduler } = options;
  if (typeof scheduler !== "string") return importFunction<Scheduler>(scheduler);
  return { fcfs, "read-me": readMe, "cost-aware": costAware }[scheduler](options);
}

function shareOption(value: unknown): number | "by-arrival" {
  if (typeof value === "number") return numberOption("prefillShare", value, 0, 1);
  if (value === "by-arrival") return value;
  throw new TypeError(`Expected \`prefillShare\` to be a number or "by-arrival", got ${describeValue(value)}`);
}
