// The handler of web requests: the same routes as the middleware, without Express.

import { describeValue, switchCheck } from "@readme-moe/core";
import type { DrainOptions } from "./edge/models/options.ts";
import { sendError } from "./http/errors.ts";
import { answerUnknown, routeMatcher } from "./http/routes.ts";
import { foreignHost } from "./http/server.ts";
import { WebReply, WebRequest } from "./http/web.ts";
import { makeServices, type ReadMeOptions } from "./services.ts";

/** Options of `fetchHandler`: those of `readMe`, whose hooks get web requests. */
export interface FetchOptions extends ReadMeOptions<Request> {
  /** Path that all routes begin with, such as `/ai`. @default none */
  readonly basePath?: string | undefined;
  /**
   * Refuses requests whose `Host` is neither a local name nor a loopback address, as the middleware `localHostsOnly`
   * does: for servers that listen on this machine only and ask for no key. @default false
   */
  readonly localHostsOnly?: boolean | undefined;
}

/**
 * Facts about a request that are not in it. Rate limits and shares of clients without keys need the address; without
 * it, all of them count as one client. The second arguments that Bun and Deno give to `fetch` can be passed on.
 */
export interface FetchInfo {
  /** Address of the client. An object is ignored: Bun's server has its own address here. */
  readonly address?: string | object | undefined;
  /** Address of the client, as Deno gives it. */
  readonly remoteAddr?: { readonly hostname?: string };
  /** Looks the address up, as Bun's server does. */
  requestIP?(request: Request): { readonly address: string } | null;
}

/** A handler of web requests. Its functions need no `this`. */
export interface FetchHandler extends AsyncDisposable {
  /**
   * Answers a request. Other paths than those of the API and of operations get 404 `unknown_url`.
   *
   * @returns the answer as soon as its headers are known; its body is a stream
   * @throws {TypeError} if `request` is no web request, or if its body was read
   */
  readonly fetch: (request: Request, info?: FetchInfo) => Promise<Response>;
  /**
   * Refuses new requests, waits for those under way, ends what is left at the deadline, and disposes all engines, as
   * `ServedModels.drain` does.
   *
   * @returns the number of requests that were ended
   * @throws {RangeError} on wrong options
   */
  readonly dispose: (options?: DrainOptions) => Promise<number>;
}

/**
 * Creates a handler of web requests with the APIs of OpenAI and Anthropic over Read-ME engines, health checks and
 * metrics: for Hono, Next, Fastify, Bun, Deno and any other host of `fetch`. Express is not loaded.
 *
 * @throws {TypeError | RangeError} on wrong options
 */
export function fetchHandler(options: FetchOptions): FetchHandler {
  const { basePath, localHostsOnly, ...others } = options;
  const baseUrl = checkedBasePath(basePath);
  const isLocalOnly = switchCheck(localHostsOnly, "localHostsOnly");
  const { models, table } = makeServices("fetchHandler", others, { isWeb: true });
  const find = routeMatcher(table);
  const dispose = (drainOptions?: DrainOptions): Promise<number> => models.drain(drainOptions);
  return {
    dispose,
    async fetch(web, info) {
      checkRequest(web);
      const { pathname, host } = new URL(web.url);
      const isBelow = pathname.startsWith(`${baseUrl}/`);
      const request = new WebRequest(web, { baseUrl: isBelow ? baseUrl : "", address: addressOf(web, info) });
      const reply = new WebReply(request);
      const foreign = isLocalOnly ? foreignHost(request.get("host") ?? host) : undefined;
      const way = isBelow ? find(request) : undefined;
      if (foreign) sendError(reply, foreign);
      else (way ?? answerUnknown)(request, reply);
      return reply.response;
    },
    async [Symbol.asyncDispose]() {
      await dispose();
    },
  };
}

function checkedBasePath(basePath: string | undefined): string {
  if (basePath === undefined || basePath === "/") return "";
  if (typeof basePath !== "string" || !/^(\/[^/?#\s]+)+$/.test(basePath)) {
    const got = describeValue(basePath);
    throw new TypeError(`Expected \`basePath\` to be a path such as /ai, without a slash at its end, got ${got}`);
  }
  return new URL(basePath, "http://localhost").pathname;
}

function checkRequest(request: Request): void {
  if (typeof request?.url !== "string" || typeof request.headers?.get !== "function") {
    throw new TypeError(`Expected \`request\` to be a web Request, got ${describeValue(request)}`);
  }
  if (request.bodyUsed) throw new TypeError("Expected the body of `request` not to have been read before");
}

function addressOf(request: Request, info: FetchInfo | undefined): string | undefined {
  const { address, remoteAddr } = info ?? {};
  if (typeof address === "string") return address;
  return remoteAddr?.hostname ?? info?.requestIP?.(request)?.address;
}
