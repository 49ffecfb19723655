import { integerOption, numberOption, rejectUnknownKeys } from "@readme-moe/core";
import type { Request } from "express";
import type { ChatBody } from "./schemas/chat-body.ts";
import type { CompletionBody } from "./schemas/completion-body.ts";
import type { SseOptions } from "./sse-writer.ts";
import type { BodyOptions } from "./read-json.ts";
import { systemTimers, type Timers } from "../http/timers.ts";
import { LIMITS } from "../limits.ts";
import { MAX_TIMER_MS } from "../http/max-timer-ms.ts";

/** What a hook may want to know beside the body. */
export interface RequestContext {
  readonly endpoint: "/v1/chat/completions" | "/v1/completions";
  /** Express's own. */
  readonly request: Request;
  readonly requestId: string;
  /** Name of the client's API key, where keys are asked for. */
  readonly key: string | undefined;
  /** Aborts when the client is gone. */
  readonly signal: AbortSignal;
}

/**
 * Changes or refuses a request once it was read and checked, before a model is chosen for it.
 *
 * @returns a body to be used instead, which is checked again, or nothing
 * @throws {ApiError} which is the answer then; anything else becomes a 500
 */
export type OnRequest = <Body extends ChatBody | CompletionBody>(
  body: Body,
  context: RequestContext,
) => Body | void | Promise<Body | void>;

/** How the API reads requests and writes answers. Times in ms, sizes in bytes. */
export interface ApiOptions {
  readonly onRequest?: OnRequest | undefined;
  /** Of a body; larger ones get 413. @default 4 MiB */
  readonly maxBodyBytes?: number | undefined;
  /** A body that is not whole by then gets 408. @default 30,000 */
  readonly bodyTimeoutMs?: number | undefined;
  /** A stream without news gets a comment this often. @default 15,000 */
  readonly keepAliveMs?: number | undefined;
  /** Of a stream that its reader has not taken yet; a reader that lets more pile up is dropped. @default 256 KiB */
  readonly maxBufferedBytes?: number | undefined;
  /** A reader that takes nothing for so long is dropped. @default 30,000 */
  readonly slowReaderMs?: number | undefined;
  /**
   * The largest `read_me.priority` that clients may send; larger ones get 400. `onRequest` and an admission policy may give
   * any. @default 0
   */
  readonly maxPriority?: number | undefined;
  /** Where waiting comes from. @default Node's timers */
  readonly timers?: Timers | undefined;
}

export interface ResolvedApiOptions extends BodyOptions, SseOptions {
  readonly onRequest: OnRequest | undefined;
  readonly maxPriority: number;
}

export const API_OPTION_NAMES = [
  "onRequest",
  "maxBodyBytes",
  "bodyTimeoutMs",
  "keepAliveMs",
  "maxBufferedBytes",
  "slowReaderMs",
  "maxPriority",
  "timers",
] as const satisfies readonly (keyof ApiOptions)[];

/** @throws {TypeError | RangeError} naming the option, what was expected and what came */
export function resolveApiOptions(options: ApiOptions): ResolvedApiOptions {
  rejectUnknownKeys("the API", options, API_OPTION_NAMES);
  const { onRequest, timers = systemTimers } = options;
  if (onRequest !== undefined && typeof onRequest !== "function") {
    throw new TypeError("Expected `onRequest` to be a function");
  }
  if (typeof timers?.after !== "function") throw new TypeError("Expected `timers` to have a function `after`");
  return {
    onRequest,
    timers,
    maxPriority: numberOption("maxPriority", options.maxPriority ?? LIMITS.priority.value, 0, 1e9),
    maxBodyBytes: integerOption("maxBodyBytes", options.maxBodyBytes ?? LIMITS.bodyBytes.value, 1),
    bodyTimeoutMs: integerOption("bodyTimeoutMs", options.bodyTimeoutMs ?? LIMITS.bodyMs.value, 1, MAX_TIMER_MS),
    keepAliveMs: integerOption("keepAliveMs", options.keepAliveMs ?? 15_000, 1, MAX_TIMER_MS),
    maxBufferedBytes: integerOption("maxBufferedBytes", options.maxBufferedBytes ?? LIMITS.bufferedBytes.value, 1),
    slowReaderMs: integerOption("slowReaderMs", options.slowReaderMs ?? LIMITS.slowReaderMs.value, 1, MAX_TIMER_MS),
  };
}
