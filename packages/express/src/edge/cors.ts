// Cross-origin requests of web pages (CORS). Off unless an option names the origins that may send them.

import { describeValue, integerOption, rejectUnknownKeys } from "@readme-moe/core";
import type { Step } from "../http/types.ts";

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
