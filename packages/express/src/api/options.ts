import {
  type CheckedOptions,
  checkedOptions,
  describeValue,
  functionOption,
  integerCheck,
  MAX_TIMER_MS,
  numberCheck,
  type OptionChecks,
  switchCheck,
} from "@readme-moe/core";
import type { Request } from "express";
import type { ReaderOptions } from "../http/reply.ts";
import { type BatchLine, systemTimers, type Timers } from "../http/request.ts";
import { LIMITS } from "../limits.ts";
import type { ChatBody, ClassifyBody, CompletionBody, EmbeddingsBody, RerankBody } from "./request-schemas.ts";

/** A body as `onRequest` sees it: that of a chat, of a completion, of embeddings, of a ranking or of labels. */
export type RequestBody = ChatBody | CompletionBody | EmbeddingsBody | RerankBody | ClassifyBody;

/** Facts about a request that a hook may need beside its body. */
export interface RequestContext<HostRequest = Request> {
  /**
   * Path of the request; `/v1/rerank` for each path of rankings. Bodies of the Responses API and the Messages API are
   * given as chats, those of `/infill` and `/v1/fim/completions` as completions, those of `/v1/score` as rankings, and
   * those of `/embed`, `/predict` and Ollama's API as the others.
   */
  readonly endpoint:
    | "/v1/chat/completions"
    | "/v1/completions"
    | "/v1/responses"
    | "/v1/messages"
    | "/v1/fim/completions"
    | "/infill"
    | "/v1/embeddings"
    | "/v1/rerank"
    | "/v1/score"
    | "/embed"
    | "/classify"
    | "/predict"
    | "/api/chat"
    | "/api/generate"
    | "/api/embed"
    | "/api/embeddings";
  /** The host's request: Express's, or that of the web. */
  readonly request: HostRequest;
  readonly requestId: string;
  /** Name of the client's API key, on servers that ask for keys. */
  readonly key: string | undefined;
  /** The batch whose line this is. The host's request has no headers of its client then. */
  readonly batch: BatchLine | undefined;
  /** Aborts when the client has left. */
  readonly signal: AbortSignal;
}

/**
 * Changes or refuses a request after its body was checked and before a model is chosen.
 *
 * @returns a body that replaces the request's and is checked again, or nothing
 * @throws {ApiError} which becomes the answer; any other error becomes a 500
 */
export type OnRequest<HostRequest = Request> = <Body extends RequestBody>(
  body: Body,
  context: RequestContext<HostRequest>,
) => Body | void | Promise<Body | void>;

/** Requests that share what an engine has cached. */
export type CacheSharing = "client" | "all";

/** Options of how the API reads requests and writes answers. Times in ms, sizes in bytes. */
export interface ApiOptions<HostRequest = Request> {
  /** Changes or refuses each request after its body was checked, before a model is chosen. @default none */
  readonly onRequest?: OnRequest<HostRequest> | undefined;
  /** Largest body. Larger ones are answered with 413. @default 4 MiB */
  readonly maxBodyBytes?: number | undefined;
  /** Longest time until a body has arrived completely. Slower ones are answered with 408. @default 30,000 */
  readonly bodyTimeoutMs?: number | undefined;
  /**
   * Longest pause of an answer before something is sent that keeps the connection open: a comment, or what the API has
   * for it. @default 5,000
   */
  readonly keepAliveMs?: number | undefined;
  /** Largest part of a stream that may wait for its reader. Slower readers are disconnected. @default 256 KiB */
  readonly maxBufferedBytes?: number | undefined;
  /** Longest time in which a reader may take nothing. Slower readers are disconnected. @default 30,000 */
  readonly slowReaderMs?: number | undefined;
  /**
   * Largest `read_me.priority` that clients may send. Larger ones are answered with 400. `onRequest` and an admission
   * policy may set any priority. @default 0
   */
  readonly maxPriority?: number | undefined;
  /**
   * Requests that share the beginnings of prompts that an engine has cached, and drafts that it learned from answers:
   * "client" for those of one key, or of one address where there are no keys; "all" for all of them. Sharing saves
   * time where clients send the same beginnings, and lets each of them find out by `cached_tokens` and by time what
   * others have sent. Prompts that the operator keeps (`keepPrompt`) are shared by all.
   *
   * @default "client" for requests with a key, "all" for those without
   */
  readonly cacheSharing?: CacheSharing | undefined;
  /**
   * Adds the routes of Ollama's API, below `/api`: chats, completions, embeddings and the list of models.
   * @default false, since an app often has routes of its own there
   */
  readonly ollama?: boolean | undefined;
  /**
   * Binds each call of a tool to its schema, as `strict` of a tool does. A request with a schema that answers cannot be
   * bound to is answered with 400.
   *
   * @default false
   */
  readonly toolsStrict?: boolean | undefined;
  /**
   * Returns the `traceparent` that the engine gets, such as that of OpenTelemetry's span of the request.
   * @default the client's
   */
  readonly traceparent?: ((request: HostRequest) => string | undefined) | undefined;
  /** Source of delays. @default Node's timers */
  readonly timers?: Timers | undefined;
}

const READER_CHECKS = {
  slowReaderMs: integerCheck(LIMITS.slowReaderMs.value, 1, MAX_TIMER_MS),
  timers(timers: Timers = systemTimers) {
    if (typeof timers?.after !== "function") throw new TypeError("Expected `timers` to have a function `after`");
    return timers;
  },
};

/** Checks of the options by name. The host's hooks get the host's requests. */
const API_CHECKS = {
  ...READER_CHECKS,
  onRequest: (hook: OnRequest<never> | undefined, name: string) =>
    functionOption(name, hook) as OnRequest<object> | undefined,
  maxBodyBytes: integerCheck(LIMITS.bodyBytes.value, 1),
  bodyTimeoutMs: integerCheck(LIMITS.bodyMs.value, 1, MAX_TIMER_MS),
  keepAliveMs: integerCheck(5000, 1, MAX_TIMER_MS),
  maxBufferedBytes: integerCheck(LIMITS.bufferedBytes.value, 1),
  maxPriority: numberCheck(LIMITS.priority.value, 0, 1e9),
  cacheSharing(sharing: CacheSharing | undefined) {
    if (sharing === undefined || sharing === "client" || sharing === "all") return sharing;
    throw new TypeError(`Expected \`cacheSharing\` to be "client" or "all", got ${describeValue(sharing)}`);
  },
  ollama: switchCheck,
  toolsStrict: switchCheck,
  traceparent: (hook: ((request: never) => string | undefined) | undefined, name: string) =>
    functionOption(name, hook) as ((request: object) => string | undefined) | undefined,
} satisfies OptionChecks<ApiOptions<never>>;

export type ResolvedApiOptions = CheckedOptions<typeof API_CHECKS>;

export const API_OPTION_NAMES: readonly string[] = Object.keys(API_CHECKS);

/** @throws {TypeError | RangeError} naming the option, the expectation and the value */
export function resolveReaderOptions(options: Pick<ApiOptions, "slowReaderMs" | "timers">): ReaderOptions {
  return checkedOptions(options, READER_CHECKS);
}

/** @throws {TypeError | RangeError} naming the option, the expectation and the value */
export function resolveApiOptions(options: ApiOptions<never>): ResolvedApiOptions {
  return checkedOptions(options, API_CHECKS);
}
