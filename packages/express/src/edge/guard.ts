// Middleware in front of the API: request ids, API keys, rate limits, versions and permissions of web pages.

import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { describeValue, integerOption, isTraceparent, ReadMeEmitter, rejectUnknownKeys } from "@readme-moe/core";
import type { Request } from "express";
import { type RateLimiterAbstract, RateLimiterMemory, RateLimiterRes } from "rate-limiter-flexible";
import { type ApiError, invalid, refusal, retryHeaders, sendError } from "../http/errors.ts";
import {
  clientName,
  hostRequest,
  identify as identifyRequest,
  type Incoming,
  localsOf,
  type Reply,
  type Step,
} from "../http/request.ts";

/**
 * Decides whether a request may be answered. `HostRequest` is the request of the host: by default Express's.
 *
 * @returns a name for limits, logs and metrics, or `true` for a request without a name; anything else refuses with 401.
 * A thrown `ApiError` is the answer.
 */
export type Authorize<HostRequest = Request> = (request: HostRequest) => Authorization | Promise<Authorization>;
type Authorization = string | boolean | undefined;

/** API keys: a list, or keys by the names that limits, logs and metrics use. */
export type Keys = readonly string[] | Readonly<Record<string, string>>;

export interface GuardOptions<HostRequest = Request> {
  /** API keys, by name where limits, logs and metrics shall name them. @default no key is needed */
  readonly keys?: Keys | undefined;
  /** Replaces the check of `keys`. */
  readonly authorize?: Authorize<HostRequest> | undefined;
  /**
   * Requests per minute of a key, or of an address where there are no keys, and beside them as many reads (`GET` and
   * `HEAD`); or a limiter of `rate-limiter-flexible`, such as one on Redis that several servers share.
   * @default no limit
   */
  readonly requestsPerMinute?: number | RateLimiterAbstract | undefined;
  /** Tokens per minute of a key or address, prompts and completions together. @default no limit */
  readonly tokensPerMinute?: number | RateLimiterAbstract | undefined;
  /** Bus of `request:answered`. @default no event is emitted */
  readonly events?: ReadMeEmitter | undefined;
}

/**
 * Creates the middleware, which puts `{ key, requestId, traceparent, arrivalMs, spendTokens }` into
 * `res.locals.readMe`.
 * @throws {TypeError | RangeError} on wrong options
 */
export function guard(options: GuardOptions<never> = {}): Step[] {
  const { keys, authorize, requestsPerMinute, tokensPerMinute, events = new ReadMeEmitter() } = options;
  if (keys !== undefined && authorize !== undefined) throw new TypeError("Expected `keys` or `authorize`, got both");
  if (authorize !== undefined && typeof authorize !== "function") {
    throw new TypeError("Expected `authorize` to be a function");
  }
  const decide = keys === undefined ? authorizeByHook(authorize) : authorizeByKeys(keys);
  return [
    identify(events),
    ...(decide ? [authenticate(decide)] : []),
    ...(requestsPerMinute === undefined ? [] : [limitRequests(limiterOf("requestsPerMinute", requestsPerMinute))]),
    ...(tokensPerMinute === undefined ? [] : [limitTokens(limiterOf("tokensPerMinute", tokensPerMinute))]),
  ];
}

/** Status of an answer whose client had disconnected. It is never sent. */
const CLIENT_CLOSED = 499;

/** Notes a request's id, trace and arrival, and emits `request:answered` at its end. */
function identify(events: ReadMeEmitter): Step {
  return (request, response, next) => {
    void identifyRequest(request, response, (error?: unknown) => {
      const locals = localsOf(response);
      // A second guard leaves the request to the first.
      if (locals.spendTokens) return next(error);
      locals.spendTokens = () => undefined;
      const traceparent = request.get("traceparent");
      // Otherwise the trace begins anew.
      if (traceparent !== undefined && isTraceparent(traceparent)) {
        locals.traceparent = traceparent;
        response.setHeader("traceparent", traceparent);
      }
      response.once("close", () => emitAnswered(events, request, response));
      next(error);
    });
  };
}

function emitAnswered(events: ReadMeEmitter, request: Incoming, response: Reply): void {
  const { requestId, traceparent, key, arrivalMs } = localsOf(response);
  const status = response.writableFinished ? response.statusCode : CLIENT_CLOSED;
  const { method } = request;
  const handler = handlerOf(request);
  const durationMs = performance.now() - arrivalMs;
  events.emit("request:answered", { requestId, traceparent, key, method, handler, status, durationMs });
}

/** Returns the route's pattern. The path itself comes from the client, and must not become a label of a metric. */
function handlerOf(request: Incoming): string {
  const route: { readonly path?: unknown } | undefined = request.route;
  return typeof route?.path === "string" ? `${request.baseUrl}${route.path}` : "none";
}

type Decide = Authorize<Incoming>;

function authorizeByHook(authorize: Authorize<never> | undefined): Decide | undefined {
  // The host's hook gets the host's requests.
  const decide = authorize as Authorize<object> | undefined;
  return decide && ((request) => decide(hostRequest(request)));
}

function authorizeByKeys(keys: Keys): Decide {
  const ring = new KeyRing(keys);
  return (request) => {
    const key = presentedKey(request);
    return key === undefined ? undefined : ring.nameOf(key);
  };
}

function authenticate(authorize: Decide): Step {
  return async (request, response, next) => {
    try {
      const answer = await authorize(request);
      if (typeof answer === "string" && answer !== "") localsOf(response).key = answer;
      else if (answer !== true) throw invalidKey(presentedKey(request) !== undefined);
    } catch (error) {
      sendError(response, error);
      return;
    }
    next();
  };
}

/** Returns the key of OpenAI's header, else that of Anthropic's. */
function presentedKey(request: Incoming): string | undefined {
  const bearer = /^bearer +([\x21-\x7e]+) *$/i.exec(request.get("authorization") ?? "")?.[1];
  return bearer ?? /^[\x21-\x7e]+$/.exec(request.get("x-api-key") ?? "")?.[0];
}

function invalidKey(wasPresented: boolean): ApiError {
  const message = wasPresented
    ? "Incorrect API key provided."
    : "You didn't provide an API key; send one as `Authorization: Bearer …` or as `x-api-key`.";
  return refusal(401, "invalid_api_key", message, { headers: { "www-authenticate": "Bearer" } });
}

type Equal = (a: Buffer, b: Buffer) => boolean;

/**
 * Compares API keys in a time that reveals nothing about them: all keys are hashed to the same length, and every hash
 * is compared.
 */
export class KeyRing {
  /** Hashes are used in this process only. */
  readonly #secret = randomBytes(32);
  readonly #hashes: readonly { readonly name: string; readonly hash: Buffer }[];
  readonly #equal: Equal;

  /**
   * @param keys - the n-th key of a list is called `key-n`
   * @param equal - has to take the same time for all arguments
   * @param option - name of the keys in messages
   * @throws {TypeError} on empty and on duplicate keys
   */
  constructor(keys: Keys, equal: Equal = timingSafeEqual, option = "keys") {
    this.#equal = equal;
    this.#hashes = namedKeys(keys, option).map(([name, key]) => ({ name, hash: this.#hash(key) }));
  }

  /** @returns the key's name, or `undefined` for an unknown key */
  nameOf(presented: string): string | undefined {
    const presentedHash = this.#hash(presented);
    let found: string | undefined;
    for (const { name, hash } of this.#hashes) if (this.#equal(hash, presentedHash)) found = name;
    return found;
  }

  #hash(key: string): Buffer {
    return createHmac("sha256", this.#secret).update(key).digest();
  }
}

/** @returns pairs of a name and a key. The name stands for the key wherever the key must not be shown. */
function namedKeys(keys: Keys, option: string): readonly (readonly [name: string, key: string])[] {
  const named = Object.entries(keys).map(([name, key]): [string, string] => [
    Array.isArray(keys) ? `key-${Number(name) + 1}` : name,
    key,
  ]);
  if (named.length === 0) throw new TypeError(`Expected \`${option}\` to have at least one key`);
  for (const [name, key] of named) {
    if (typeof key !== "string" || key === "") throw new TypeError(`Expected key \`${name}\` to be a non-empty string`);
    if (/[^\x21-\x7e]/.test(key)) {
      throw new TypeError(`Expected key \`${name}\` to have printable ASCII characters only`);
    }
  }
  const numDistinct = new Set(named.map(([, key]) => key)).size;
  if (numDistinct < named.length) throw new TypeError(`Expected \`${option}\` to be distinct`);
  return named;
}

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
    } catch (error) {
      if (error instanceof RateLimiterRes) return usageOf(limiter, error, true);
      throw error;
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
  return refusal(429, "rate_limit_exceeded", message, { type: unit, headers: retryHeaders(resetMs) });
}

function unavailable(cause: unknown): ApiError {
  const message = "Rate limits cannot be checked at the moment; try again later.";
  return refusal(503, "rate_limiter_unavailable", message, { headers: retryHeaders(1000), cause });
}

/** Formats a time as OpenAI's headers do: `120ms`, `1s`, `6m0s`, `1h2m3s`. */
export function durationText(ms: number): string {
  if (ms <= 999) return `${Math.max(0, Math.ceil(ms))}ms`;
  const seconds = Math.ceil(ms / 1000);
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  if (hours > 0) return `${hours}h${minutes}m${seconds % 60}s`;
  return minutes > 0 ? `${minutes}m${seconds % 60}s` : `${seconds}s`;
}

/** Versions of Anthropic's API. Their answers have the same shape here. */
const VERSIONS = ["2023-06-01", "2026-10-21"] as const;

/** Refuses clients of unknown versions of Anthropic's API, on any of its paths. */
export const checkVersion: Step = (request, _response, next) => {
  const version = request.get("anthropic-version");
  const isKnown = version === undefined || VERSIONS.some((known) => known === version);
  next(isKnown ? undefined : invalid("anthropic-version", `expected ${VERSIONS.join(" or ")}`));
};

/** Web pages that may call the API from a browser. */
export interface CorsOptions {
  /** Origins, such as `https://app.example.com`, or `"*"` for every page. */
  readonly origins: readonly string[] | "*";
  /** Time that browsers may remember the permission, in seconds. @default 600 */
  readonly maxAgeSeconds?: number | undefined;
}

const ALLOWED_METHODS = "GET, HEAD, POST, DELETE";
const EXPOSED_HEADERS = [
  "x-request-id",
  "request-id",
  "retry-after",
  "retry-after-ms",
  "x-should-retry",
  "openai-processing-ms",
  ...["limit", "remaining", "reset"].flatMap((what) => [`x-ratelimit-${what}-requests`, `x-ratelimit-${what}-tokens`]),
].join(", ");

/**
 * Creates middleware that lets pages of the named origins read answers, and answers preflight requests, which carry no
 * key. Requests of other pages get no permission, and their browser hides the answer. Cookies are never allowed: keys
 * travel in headers.
 *
 * @throws {TypeError | RangeError} on wrong options
 */
export function cors(options: CorsOptions): Step {
  rejectUnknownKeys("cors", options, ["origins", "maxAgeSeconds"]);
  const isAllowed = originTest(options.origins);
  const maxAge = integerOption("cors.maxAgeSeconds", options.maxAgeSeconds ?? 600, 0, 86_400);
  return (request, response, next) => {
    // A cache must not give one page the permission of another.
    response.vary("Origin");
    const origin = request.get("origin");
    if (origin === undefined || !isAllowed(origin)) return next();
    response.setHeader("Access-Control-Allow-Origin", options.origins === "*" ? "*" : origin);
    response.setHeader("Access-Control-Expose-Headers", EXPOSED_HEADERS);
    const isPreflight = request.method === "OPTIONS" && request.get("access-control-request-method") !== undefined;
    if (!isPreflight) return next();
    response.vary("Access-Control-Request-Headers");
    response.setHeader("Access-Control-Allow-Methods", ALLOWED_METHODS);
    // SDKs send headers of their own, such as `x-stainless-os`; none of them gives access.
    const asked = request.get("access-control-request-headers");
    if (asked !== undefined && HEADER_NAMES.test(asked)) response.setHeader("Access-Control-Allow-Headers", asked);
    response.setHeader("Access-Control-Max-Age", String(maxAge));
    response.statusCode = 204;
    response.end();
  };
}

const HEADER_NAMES = /^[\w-]{1,64}(\s*,\s*[\w-]{1,64}){0,63}$/;

/** @throws {TypeError} naming the value that is no origin */
function originTest(origins: unknown): (origin: string) => boolean {
  if (origins === "*") return () => true;
  if (!Array.isArray(origins) || origins.length === 0) {
    throw new TypeError(`Expected \`cors.origins\` to be "*" or a list of origins, got ${describeValue(origins)}`);
  }
  for (const origin of origins) {
    if (isOrigin(origin)) continue;
    const got = describeValue(origin);
    throw new TypeError(`Expected \`cors.origins\` to have origins such as https://app.example.com, got ${got}`);
  }
  const known: ReadonlySet<unknown> = new Set(origins);
  return (origin) => known.has(origin);
}

/** Whether a text is an origin as browsers send it: no path, and no trailing slash. */
function isOrigin(value: unknown): boolean {
  if (typeof value !== "string" || !URL.canParse(value)) return false;
  const { origin } = new URL(value);
  // Browsers of extensions and apps have their own schemes, whose origins URL does not know.
  return origin === value || (origin === "null" && /^[a-z][a-z0-9+.-]*:\/\/[^/?#]+$/.test(value));
}
