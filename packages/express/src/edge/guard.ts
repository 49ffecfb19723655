// What stands in front of the API: ids, keys, and what each client may use.

import { ReadMeEmitter, rejectUnknownKeys } from "@readme-moe/core";
import type { RequestHandler } from "express";
import type { RateLimiterAbstract } from "rate-limiter-flexible";
import { authenticate, authorizeByKeys, type Authorize } from "./guard/authenticate.ts";
import { identify } from "./guard/identify.ts";
import { limiterOf, limitRequests, limitTokens } from "./guard/rate-limits.ts";

export interface GuardOptions {
  /** API keys, by name where limits, logs and metrics shall name them. @default everybody may ask */
  readonly keys?: readonly string[] | Readonly<Record<string, string>> | undefined;
  /** Decides in the place of `keys`. */
  readonly authorize?: Authorize | undefined;
  /**
   * Requests that a key (an address, where there are no keys) may send in a minute; or a limiter of
   * `rate-limiter-flexible`, such as one on Redis that several servers share. @default no limit
   */
  readonly requestsPerMinute?: number | RateLimiterAbstract | undefined;
  /** Tokens that it may use in a minute, prompts and completions together. @default no limit */
  readonly tokensPerMinute?: number | RateLimiterAbstract | undefined;
  /** Where `request:answered` is told. @default nowhere */
  readonly events?: ReadMeEmitter | undefined;
}

const NAMES = ["keys", "authorize", "requestsPerMinute", "tokensPerMinute", "events"] as const;

/**
 * Middleware for before the API. Puts `{ key, requestId, traceparent, arrivalMs, spendTokens }` into `res.locals.readMe`.
 * @throws {TypeError | RangeError} on wrong options
 */
export function guard(options: GuardOptions = {}): RequestHandler[] {
  rejectUnknownKeys("the guard", options, NAMES);
  const { keys, authorize, requestsPerMinute, tokensPerMinute, events = new ReadMeEmitter() } = options;
  if (keys !== undefined && authorize !== undefined) throw new TypeError("Expected `keys` or `authorize`, got both");
  if (authorize !== undefined && typeof authorize !== "function") {
    throw new TypeError("Expected `authorize` to be a function");
  }
  const decide = keys === undefined ? authorize : authorizeByKeys(keys);
  return [
    identify(events),
    ...(decide ? [authenticate(decide)] : []),
    ...(requestsPerMinute === undefined ? [] : [limitRequests(limiterOf("requestsPerMinute", requestsPerMinute))]),
    ...(tokensPerMinute === undefined ? [] : [limitTokens(limiterOf("tokensPerMinute", tokensPerMinute))]),
  ];
}
