// When a refused client should come back: as fast as places were released lately. Refused clients get different times,
// so that a crowd does not return all at once.

/** Releases of places, and the returns that were promised. */
export interface ReturnTimes {
  /** Times of the latest releases, ascending. */
  readonly releasesMs: readonly number[];
  /** Time of the latest promised return. */
  readonly promisedUntilMs: number;
}

interface Refusal {
  /** Places that have to be released before the request fits, at least 1. */
  readonly places: number;
  /** Admitted requests that wait for their first token. */
  readonly numWaiting: number;
  /** Longest time that a request may wait for its first token. */
  readonly maxQueueMs: number;
}

const MAX_RELEASES = 32;
const WINDOW_MS = 60_000;
/** Time per release while none is known. */
const UNKNOWN_MS = 1000;
/** Clients of the OpenAI API ignore longer waits. */
const MAX_WAIT_MS = 60_000;

export const NO_RETURN_TIMES: ReturnTimes = { releasesMs: [], promisedUntilMs: 0 };

export function recordRelease({ releasesMs, promisedUntilMs }: ReturnTimes, nowMs: number): ReturnTimes {
  return { releasesMs: [...releasesMs.slice(1 - MAX_RELEASES), nowMs], promisedUntilMs };
}

/** Computes the mean time between two releases of the last minute, including the time since the last one. */
export function msPerRelease({ releasesMs }: ReturnTimes, nowMs: number): number | undefined {
  const recent = releasesMs.filter((ms) => nowMs - ms < WINDOW_MS);
  return recent[0] === undefined ? undefined : Math.max(1, (nowMs - recent[0]) / recent.length);
}

/**
 * Promises a return: after all earlier promises, and not before the queue is short enough for a request to get its
 * first token within `maxQueueMs`.
 *
 * @returns the updated times, and the wait in ms, an integer from 1 to 60,000
 */
export function promiseReturn(
  times: ReturnTimes,
  { places, numWaiting, maxQueueMs }: Refusal,
  nowMs: number,
): { readonly times: ReturnTimes; readonly waitMs: number } {
  const perReleaseMs = msPerRelease(times, nowMs) ?? UNKNOWN_MS;
  const promisedMs = Math.max(nowMs, times.promisedUntilMs) + places * perReleaseMs;
  const shortQueueMs = nowMs + numWaiting * perReleaseMs - maxQueueMs;
  const untilMs = Math.min(nowMs + MAX_WAIT_MS, Math.max(promisedMs, shortQueueMs));
  const waitMs = Math.min(MAX_WAIT_MS, Math.max(1, Math.ceil(untilMs - nowMs)));
  return { times: { ...times, promisedUntilMs: Math.min(untilMs, promisedMs) }, waitMs };
}
