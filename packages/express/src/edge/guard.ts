// Middleware in front of the API: request ids, API keys and rate limits.

import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { isTraceparent, ReadMeEmitter, rejectUnknownKeys } from "@readme-moe/core";
import type { Request } from "express";
import type { RateLimiterAbstract } from "rate-limiter-flexible";
import { hostRequest, type Incoming, type Reply, type Step } from "../http/border.ts";
import { ApiError, sendError } from "../http/errors.ts";
import { identify as identifyRequest, localsOf } from "../http/request.ts";
import { limiterOf, limitRequests, limitTokens } from "./rate-limits.ts";

/**
 * Decides whether a request may be answered. `Asked` is the request of the host: by default Express's.
 *
 * @returns a name for limits, logs and metrics, or `true` for a request without a name; anything else refuses with 401.
 * A thrown `ApiError` is the answer.
 */
export type Authorize<Asked = Request> = (request: Asked) => Authorization | Promise<Authorization>;
type Authorization = string | boolean | undefined;

/** API keys: a list, or keys by the names that limits, logs and metrics use. */
export type Keys = readonly string[] | Readonly<Record<string, string>>;

export interface GuardOptions<Asked = Request> {
  /** API keys, by name where limits, logs and metrics shall name them. @default no key is needed */
  readonly keys?: Keys | undefined;
  /** Replaces the check of `keys`. */
  readonly authorize?: Authorize<Asked> | undefined;
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

const NAMES = ["keys", "authorize", "requestsPerMinute", "tokensPerMinute", "events"] as const;

/**
 * Creates the middleware, which puts `{ key, requestId, traceparent, arrivalMs, spendTokens }` into
 * `res.locals.readMe`.
 * @throws {TypeError | RangeError} on wrong options
 */
export function guard(options: GuardOptions<never> = {}): Step[] {
  rejectUnknownKeys("the guard", options, NAMES);
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
  return authorize && ((request) => authorize(hostRequest(request)));
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
  const headers = { "www-authenticate": "Bearer" };
  return new ApiError({ status: 401, type: "invalid_request_error", code: "invalid_api_key", message, headers });
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
