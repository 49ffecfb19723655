import { integerOption, numberOption, ReadMeEmitter, rejectUnknownKeys } from "@readme-moe/core";
import { LIMITS } from "../../limits.ts";
import type { Load } from "./load.ts";
import type { AdmissionPolicy } from "./policy.ts";
import { MAX_TIMER_MS } from "../../http/timers.ts";

/** Limits of what a server takes in at once. */
export interface AdmissionOptions {
  /** Requests that may be in, those that wait included. @default 256 */
  readonly maxRequests?: number | undefined;
  /** Tokens that those requests may come to, prompts and completions together. @default 1,048,576 */
  readonly maxTokens?: number | undefined;
  /** Bytes of their bodies. @default 64 MiB */
  readonly maxBytes?: number | undefined;
  /** Requests that one key may have in. @default `maxRequests` */
  readonly maxRequestsPerKey?: number | undefined;
  /**
   * The part of requests, tokens and bytes that one client may have, above 0 and at most 1: one key, or one address where
   * there are no keys. The rest is kept for others, so that nobody can fill the server alone.
   * @default 0.875
   */
  readonly maxClientShare?: number | undefined;
  /** How long a request may wait for its first token. @default 30,000 */
  readonly maxQueueMs?: number | undefined;
  /** How long a request may take from its arrival to the end of its answer. @default no limit */
  readonly maxRequestMs?: number | undefined;
  /** What a full server answers with: 503, or 429 for gateways that know no other. @default 503 */
  readonly overloadStatus?: 503 | 429 | undefined;
  /**
   * Lets a request of more priority take the places of waiting ones of less, which are told to come back. Only where
   * clients cannot choose their priority themselves.
   * @default false
   */
  readonly displaceWaiting?: boolean | undefined;
  /**
   * Sees a request's routes before the engine gets it; see `AdmissionPolicy`. Prompts are routed apart for it.
   * @default none
   */
  readonly policy?: AdmissionPolicy | undefined;
  /** Where `request:admitted` and the like are told. @default a bus of its own */
  readonly events?: ReadMeEmitter | undefined;
}

export interface ResolvedAdmissionOptions {
  readonly limits: Load;
  readonly maxRequestsPerKey: number;
  readonly maxClientShare: number;
  readonly maxQueueMs: number;
  /** `Infinity` where there is no limit. */
  readonly maxRequestMs: number;
  readonly overloadStatus: 503 | 429;
  readonly displaceWaiting: boolean;
  readonly policy: AdmissionPolicy | undefined;
  readonly events: ReadMeEmitter;
}

const NAMES = [
  "maxRequests",
  "maxTokens",
  "maxBytes",
  "maxRequestsPerKey",
  "maxClientShare",
  "maxQueueMs",
  "maxRequestMs",
  "overloadStatus",
  "displaceWaiting",
  "policy",
  "events",
] as const satisfies readonly (keyof AdmissionOptions)[];

/** @throws {TypeError | RangeError} naming the option, what was expected and what came */
export function resolveAdmissionOptions(options: AdmissionOptions): ResolvedAdmissionOptions {
  rejectUnknownKeys("admission", options, NAMES);
  const requests = integerOption("maxRequests", options.maxRequests ?? LIMITS.requests.value, 1);
  const { overloadStatus = 503, policy } = options;
  if (policy !== undefined && typeof policy !== "function") throw new TypeError("Expected `policy` to be a function");
  if (overloadStatus !== 503 && overloadStatus !== 429) {
    throw new RangeError(`Expected \`overloadStatus\` to be 503 or 429, got \`${String(overloadStatus)}\``);
  }
  return {
    limits: {
      requests,
      tokens: integerOption("maxTokens", options.maxTokens ?? LIMITS.tokens.value, 1),
      bytes: integerOption("maxBytes", options.maxBytes ?? LIMITS.bytes.value, 1),
    },
    maxRequestsPerKey: integerOption("maxRequestsPerKey", options.maxRequestsPerKey ?? requests, 1),
    maxClientShare: numberOption(
      "maxClientShare",
      options.maxClientShare ?? LIMITS.clientShare.value,
      Number.MIN_VALUE,
      1,
    ),
    maxQueueMs: integerOption("maxQueueMs", options.maxQueueMs ?? LIMITS.queueMs.value, 1, MAX_TIMER_MS),
    maxRequestMs:
      options.maxRequestMs === undefined
        ? Infinity
        : integerOption("maxRequestMs", options.maxRequestMs, 1, MAX_TIMER_MS),
    overloadStatus,
    displaceWaiting: options.displaceWaiting ?? false,
    policy,
    events: options.events ?? new ReadMeEmitter(),
  };
}
