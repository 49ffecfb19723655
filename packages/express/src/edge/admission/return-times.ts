// When those who are turned away should come back: in turn, as places are expected to be given back, or else as fast as
// they have been lately. Everybody told "in a second" would be there together in a second.

import type { Forecast } from "./forecast.ts";

/** What is remembered of places given back, and of returns that were promised. */
export interface ReturnTimes {
  /** When places were given back lately, ascending. */
  readonly releasesMs: readonly number[];
  /** Up to when returns were promised already. */
  readonly promisedUntilMs: number;
}

interface Turned {
  /** Places that have to be given back before the request fits, at least 1. */
  readonly places: number;
  /** Admitted requests that wait for their first token. */
  readonly numWaiting: number;
  /** How long one may wait for its first token. */
  readonly maxQueueMs: number;
  /** What the requests that are in will take, from now; where it can be told. */
  readonly forecast?: Forecast | undefined;
}

const MAX_RELEASES = 32;
const WINDOW_MS = 60_000;
/** Per place, while nothing is known. */
const UNKNOWN_MS = 1000;
/** Between two that come back together; less than clients can tell. */
const TIE_MS = 0.01;
/** Clients of the OpenAI API do not believe in longer ones. */
const MAX_WAIT_MS = 60_000;

export const NO_RETURN_TIMES: ReturnTimes = { releasesMs: [], promisedUntilMs: 0 };

export function recordRelease({ releasesMs, promisedUntilMs }: ReturnTimes, nowMs: number): ReturnTimes {
  return { releasesMs: [...releasesMs.slice(1 - MAX_RELEASES), nowMs], promisedUntilMs };
}

/** Mean time between two places given back, the silence since the last one included. */
export function msPerRelease({ releasesMs }: ReturnTimes, nowMs: number): number {
  const recent = releasesMs.filter((ms) => nowMs - ms < WINDOW_MS);
  return recent[0] === undefined ? UNKNOWN_MS : Math.max(1, (nowMs - recent[0]) / recent.length);
}

/**
 * Promises a return: after those who were promised one before, and not before the queue is so short that its end is
 * reached in time.
 *
 * @returns what to remember, and the wait in ms, an integer from 1 to 60,000
 */
export function promiseReturn(
  times: ReturnTimes,
  { places, numWaiting, maxQueueMs, forecast }: Turned,
  nowMs: number,
): { readonly times: ReturnTimes; readonly waitMs: number } {
  const perReleaseMs = msPerRelease(times, nowMs);
  const promisedMs = forecast
    ? nthReturnMs(forecast, places, times.promisedUntilMs, nowMs)
    : Math.max(nowMs, times.promisedUntilMs) + places * perReleaseMs;
  const shortQueueMs = nowMs + (forecast?.turnMs ?? numWaiting * perReleaseMs) - maxQueueMs;
  const untilMs = Math.min(nowMs + MAX_WAIT_MS, Math.max(promisedMs, shortQueueMs));
  const waitMs = Math.min(MAX_WAIT_MS, Math.max(1, Math.ceil(untilMs - nowMs)));
  return { times: { ...times, promisedUntilMs: Math.min(untilMs, promisedMs) }, waitMs };
}

/** When the n-th place is given back after those that were promised already. Later ones come as fast as those before. */
function nthReturnMs({ returnsMs }: Forecast, places: number, promisedUntilMs: number, nowMs: number): number {
  const lastMs = returnsMs.at(-1) ?? 0;
  const perReleaseMs = Math.max(1, lastMs / Math.max(1, returnsMs.length));
  // Places that come back together are promised one after the other.
  const left = returnsMs.map((ms, index) => nowMs + ms + index * TIE_MS).filter((ms) => ms > promisedUntilMs);
  const known = left[places - 1];
  return known ?? Math.max(nowMs + lastMs, promisedUntilMs) + (places - left.length) * perReleaseMs;
}
