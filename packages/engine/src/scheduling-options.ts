import { choiceOption, costAware, describeValue, fcfs, numberOption, readMe, type Scheduler } from "@readme-moe/core";
import {
  functionModuleOption,
  importFunction,
  type FunctionModule,
  type ResolvedFunctionModule,
} from "./function-module.ts";

/** Options of the scheduler. */
export interface SchedulingOptions {
  /**
   * Scheduler: "cost-aware" makes the most of the predicted time of a step; "read-me" runs whole expert queues, the
   * longest first (Read-ME, Algorithm 1); "fcfs" is first come, first served. Or a function of your own, core's
   * `Scheduler`, that a module exports.
   * @default "cost-aware", or "fcfs" with `prefillShare`
   */
  readonly scheduler?: "cost-aware" | "read-me" | "fcfs" | FunctionModule | undefined;
  /**
   * Share of a step that prefill may take while other sequences decode, from 0 (decode first) to 1 (prefill first), or
   * "by-arrival" for no preference. Only for `"fcfs"`. @default "by-arrival"
   */
  readonly prefillShare?: number | "by-arrival" | undefined;
  /**
   * Longest time in ms that a sequence may be left out of steps before it goes first, from 0. No wait exceeds this by
   * more than one step for each sequence that holds KV memory. @default 500, with `"fcfs"` Infinity
   */
  readonly maxDelayMs?: number | undefined;
  /**
   * Longest predicted time in ms of a step with prefill while other sequences decode, from 1. Only for `"cost-aware"`.
   * @default 250
   */
  readonly maxStepMs?: number | undefined;
}

type SchedulerName = Extract<SchedulingOptions["scheduler"], string>;

/** Checked options; missing ones have the defaults of the scheduler. */
export type ResolvedSchedulingOptions = Omit<SchedulingOptions, "scheduler"> & {
  readonly scheduler: SchedulerName | ResolvedFunctionModule;
};

/** The schedulers that take each option. */
const SCHEDULERS_OF: readonly (readonly ["prefillShare" | "maxDelayMs" | "maxStepMs", readonly SchedulerName[]])[] = [
  ["prefillShare", ["fcfs"]],
  ["maxDelayMs", ["cost-aware", "read-me", "fcfs"]],
  ["maxStepMs", ["cost-aware"]],
];

/** Checks options. @throws {TypeError | RangeError} with the option, expectation and value */
export function resolveSchedulingOptions(options: SchedulingOptions): ResolvedSchedulingOptions {
  const { prefillShare, maxDelayMs, maxStepMs } = options;
  const { scheduler = prefillShare === undefined ? "cost-aware" : "fcfs" } = options;
  const resolved = {
    scheduler:
      functionModuleOption("scheduler", scheduler) ??
      choiceOption("scheduler", scheduler, ["fcfs", "read-me", "cost-aware"] as const),
    prefillShare: prefillShare === undefined ? undefined : shareOption(prefillShare),
    maxDelayMs: maxDelayMs === undefined ? undefined : numberOption("maxDelayMs", maxDelayMs, 0),
    maxStepMs: maxStepMs === undefined ? undefined : numberOption("maxStepMs", maxStepMs, 1),
  };
  for (const [name, schedulers] of SCHEDULERS_OF) {
    const value = resolved[name];
    if (value === undefined || schedulers.some((one) => one === resolved.scheduler)) continue;
    const known = schedulers.map((one) => `"${one}"`).join(", ");
    const got = typeof resolved.scheduler === "string" ? `"${resolved.scheduler}"` : "a function of your own";
    throw new TypeError(`Expected \`${name}\` with the scheduler ${known} only, got it with ${got}`);
  }
  return resolved;
}

/** Creates the scheduler. @throws {ReadMeError} `ERR_MODULE` if it is a module's function and cannot be imported */
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
