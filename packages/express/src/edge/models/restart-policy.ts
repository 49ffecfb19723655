import { integerOption, numberOption, rejectUnknownKeys } from "@readme-moe/core";
import { MAX_TIMER_MS } from "../../http/timers.ts";

/** How an engine that has failed is opened again. */
export interface RestartOptions {
  /** Before the first attempt; each further one waits twice as long. @default 1,000 */
  readonly firstDelayMs?: number | undefined;
  /** Longest wait before an attempt. @default 60,000 */
  readonly maxDelayMs?: number | undefined;
  /** Attempts without success until the engine counts as failed for good. @default 10 */
  readonly maxAttempts?: number | undefined;
  /** An engine that fails sooner than this after a restart has not recovered: the waits go on growing. @default 60,000 */
  readonly settledMs?: number | undefined;
  /** Largest share of a wait that chance takes off, 0 to 1, so that servers that failed together do not come back together. @default 0.25 */
  readonly jitter?: number | undefined;
  /** Gives the chance for `jitter`, in [0, 1). @default Math.random */
  readonly random?: (() => number) | undefined;
}

export type RestartPolicy = { readonly [Name in keyof RestartOptions]-?: NonNullable<RestartOptions[Name]> };

const NAMES = [
  "firstDelayMs",
  "maxDelayMs",
  "maxAttempts",
  "settledMs",
  "jitter",
  "random",
] as const satisfies readonly (keyof RestartOptions)[];

/** @throws {TypeError | RangeError} naming the option, what was expected and what came */
export function resolveRestartOptions(options: RestartOptions): RestartPolicy {
  rejectUnknownKeys("`restart`", options, NAMES);
  const firstDelayMs = integerOption("firstDelayMs", options.firstDelayMs ?? 1000, 0, MAX_TIMER_MS);
  const { random = Math.random } = options;
  if (typeof random !== "function") throw new TypeError("Expected `random` to be a function");
  return {
    firstDelayMs,
    maxDelayMs: integerOption("maxDelayMs", options.maxDelayMs ?? 60_000, firstDelayMs, MAX_TIMER_MS),
    maxAttempts: integerOption("maxAttempts", options.maxAttempts ?? 10, 1),
    settledMs: integerOption("settledMs", options.settledMs ?? 60_000, 0),
    jitter: numberOption("jitter", options.jitter ?? 0.25, 0, 1),
    random,
  };
}

/** What came of the attempts so far. */
export interface Attempts {
  /** Since the engine last worked for long. */
  readonly count: number;
  /** When the last one succeeded. */
  readonly succeededMs: number | undefined;
}

export const NO_ATTEMPTS: Attempts = { count: 0, succeededMs: undefined };

/**
 * Decides what to do about a failure: wait this long and try again, or give up (`undefined`).
 *
 * @param failedMs - when the engine began to fail; it has settled if it had worked for long by then
 */
export function nextAttempt(
  policy: RestartPolicy,
  { count, succeededMs }: Attempts,
  failedMs: number,
): { readonly count: number; readonly delayMs: number } | undefined {
  const hasSettled = succeededMs !== undefined && failedMs - succeededMs >= policy.settledMs;
  const before = hasSettled ? 0 : count;
  if (before >= policy.maxAttempts) return undefined;
  const wholeMs = Math.min(policy.maxDelayMs, policy.firstDelayMs * 2 ** before);
  return { count: before + 1, delayMs: wholeMs * (1 - policy.jitter * policy.random()) };
}
