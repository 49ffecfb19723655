// Rate limits of a client: requests and tokens per minute. Counts are in a store of `rate-limiter-flexible`: this
// process's memory, or a store that several servers share.

import { integerOption } from "@readme-moe/core";
import { RateLimiterMemory, RateLimiterRes, type RateLimiterAbstract } from "rate-limiter-flexible";
import type { Incoming, Reply, Step } from "../http/border.ts";
import { ApiError, retryHeaders, sendError } from "../http/errors.ts";
import { clientName, localsOf } from "../http/request.ts";

type Unit = "requests" | "tokens";

interface Usage {
  readonly remaining: number;
  readonly resetMs: number;
  readonly isExceeded: boolean;
}

/** @param limit - a number per minute, or a limiter with its own store */
export function limiterOf(name: string, limit: number | RateLimiterAbstract): RateLimiterAbstract {
  if (typeof limit === "object") return limit;
  const points = integerOption(name, limit, 1);
  return new RateLimiterMemory({ points, duration: 60, keyPrefix: name });
}

/** Counts a request, and refuses requests beyond the limit with 429. Reads are counted apart from other requests. */
export function limitRequests(limiter: RateLimiterAbstract): Step {
  return limiting(limiter, "requests", async (client) => {
    try {
      return usageOf(limiter, await limiter.consume(client), false);
    } catch (refusal) {
      if (refusal instanceof RateLimiterRes) return usageOf(limiter, refusal, true);
      throw refusal;
    }
  });
}

/**
 * Refuses requests with 429 while the client has used up its tokens. A request's tokens are known and counted only at
 * its end, by `spendTokens`, so requests that run at the same time may exceed the limit. Reads have no tokens.
 */
export function limitTokens(limiter: RateLimiterAbstract): Step {
  const limit = limiting(limiter, "tokens", async (client, response) => {
    localsOf(response).spendTokens = (tokens) => {
      integerOption("tokens", tokens, 0);
      // If the store fails now, the next request is refused.
      limiter.penalty(client, tokens).catch(() => undefined);
    };
    const known = await limiter.get(client);
    const usage = known && usageOf(limiter, known, known.consumedPoints >= limiter.points);
    return usage ?? { remaining: limiter.points, resetMs: 0, isExceeded: false };
  });
  return (request, response, next) => (isRead(request) ? next() : limit(request, response, next));
}

function limiting(
  limiter: RateLimiterAbstract,
  unit: Unit,
  look: (client: string, response: Reply) => Promise<Usage>,
): Step {
  return async (request, response, next) => {
    // Its answer has headers alone.
    if (request.method === "OPTIONS") return next();
    let usage: Usage;
    try {
      usage = await look(limitedName(request, response), response);
    } catch (cause) {
      sendError(response, unavailable(cause));
      return;
    }
    response.setHeader(`x-ratelimit-limit-${unit}`, `${limiter.points}`);
    response.setHeader(`x-ratelimit-remaining-${unit}`, `${usage.remaining}`);
    response.setHeader(`x-ratelimit-reset-${unit}`, durationText(usage.resetMs));
    if (usage.isExceeded) sendError(response, exceeded(unit, limiter.points, usage.resetMs));
    else next();
  };
}

/** Names what is limited: a client, and apart from it its batches and its reads, which must not use up its limit. */
function limitedName(request: Incoming, response: Reply): string {
  const client = clientName(request, response);
  if (isRead(request)) return `read:${client}`;
  return localsOf(response).batch ? `batch:${client}` : client;
}

function isRead({ method }: Incoming): boolean {
  return method === "GET" || method === "HEAD";
}

function usageOf(
  limiter: RateLimiterAbstract,
  { consumedPoints, msBeforeNext }: RateLimiterRes,
  isExceeded: boolean,
): Usage {
  return { remaining: Math.max(0, limiter.points - consumedPoints), resetMs: Math.max(0, msBeforeNext), isExceeded };
}

function exceeded(unit: Unit, limit: number, resetMs: number): ApiError {
  const message = `Rate limit reached: ${limit} ${unit} per minute. Try again in ${durationText(resetMs)}.`;
  const headers = retryHeaders(resetMs);
  return new ApiError({ status: 429, type: unit, code: "rate_limit_exceeded", message, headers });
}

function unavailable(cause: unknown): ApiError {
  const message = "Rate limits cannot be checked at the moment; try again later.";
  const details = { status: 503, type: "server_error", code: "rate_limiter_unavailable", message } as const;
  return new ApiError({ ...details, headers: retryHeaders(1000), cause });
}

/** Formats a time as OpenAI's headers do: `120ms`, `1s`, `6m0s`, `1h2m3s`. */
export function durationText(ms: number): string {
  if (ms <= 999) return `${Math.max(0, Math.ceil(ms))}ms`;
  const seconds = Math.ceil(ms / 1000);
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  if (hours > 0) return `${hours}h${minutes}m${seconds % 60}s`;
  return minutes > 0 ? `${minutes}m${seconds % 60}s` : `${seconds}s`;
}
