// Limits of what one client can cause, in one place: options have these defaults, and the documentation's table is made from them.

/** One limit, as the documentation shows it. */
export interface Limit {
  /** What is limited. */
  readonly of: string;
  readonly value: number;
  readonly unit: "bytes" | "ms" | "tokens" | "requests" | "items" | "levels" | "choices" | "share" | "";
  /** What a client sees beyond it. */
  readonly beyond: string;
  /** Option of the middleware, and flag of `readme-moe serve`, that change it. */
  readonly option?: string;
  readonly flag?: string;
}

/** Limits by name. Values are defaults where there is an option, and fixed elsewhere. */
export const LIMITS = {
  pipelined: {
    of: "requests of one connection that wait for the answer to an earlier one",
    value: 16,
    unit: "requests",
    beyond: "the connection is closed",
  },
  bodyBytes: {
    of: "a body, inflated",
    value: 4 << 20,
    unit: "bytes",
    beyond: "413 `request_too_large`",
    option: "maxBodyBytes",
  },
  bodyMs: {
    of: "the time until a body is whole",
    value: 30_000,
    unit: "ms",
    beyond: "408 `body_timeout`",
    option: "bodyTimeoutMs",
  },
  bodyValues: {
    of: "values in a body; and its lists, objects and properties; numbers in lists are not counted",
    value: 65_536,
    unit: "items",
    beyond: "400 `invalid_value`",
  },
  bodyItems: {
    of: "items of lists and properties of objects in a body, numbers as well",
    value: 524_288,
    unit: "items",
    beyond: "400 `invalid_value`",
  },
  bodyDepth: { of: "nesting of a body", value: 64, unit: "levels", beyond: "400 `invalid_value`" },
  messageItems: {
    of: "messages of a request, their parts and tool calls together",
    value: 8192,
    unit: "items",
    beyond: "400 `invalid_value`",
  },
  prompts: {
    of: "texts, or lists of token ids, in `prompt`",
    value: 128,
    unit: "items",
    beyond: "400 `invalid_value`",
  },
  tokenIds: {
    of: "ids in one list of tokens, and tokens that `/tokenize` counts",
    value: 262_144,
    unit: "items",
    beyond: "400 `invalid_value`",
  },
  logitBiases: { of: "`logit_bias`", value: 1024, unit: "items", beyond: "400 `invalid_value`" },
  stopTokens: { of: "`stop_token_ids`", value: 1024, unit: "items", beyond: "400 `invalid_value`" },
  stops: { of: "`stop`", value: 64, unit: "items", beyond: "400 `invalid_value`" },
  tools: { of: "`tools`", value: 128, unit: "items", beyond: "400 `invalid_value`" },
  metadata: { of: "`metadata`", value: 64, unit: "items", beyond: "400 `invalid_value`" },
  templateVariables: { of: "`chat_template_kwargs`", value: 64, unit: "items", beyond: "400 `invalid_value`" },
  choices: {
    of: "choices of one request, all prompts together",
    value: 128,
    unit: "choices",
    beyond: "400 `invalid_value`",
  },
  priority: {
    of: "`read_me.priority`, as clients may send it",
    value: 0,
    unit: "",
    beyond: "400 `invalid_value`",
    option: "maxPriority",
    flag: "--max-priority",
  },
  requests: {
    of: "requests that are in",
    value: 256,
    unit: "requests",
    beyond: "503 `server_overloaded`",
    option: "admission.maxRequests",
    flag: "--max-requests",
  },
  tokens: {
    of: "tokens that these may come to",
    value: 2 ** 20,
    unit: "tokens",
    beyond: "503 `server_overloaded`",
    option: "admission.maxTokens",
    flag: "--max-tokens",
  },
  bytes: {
    of: "bytes of requests that are in, and as many again of bodies that still arrive",
    value: 64 << 20,
    unit: "bytes",
    beyond: "503 `server_overloaded`",
    option: "admission.maxBytes",
    flag: "--max-bytes",
  },
  clientShare: {
    of: "the part of requests, tokens and bytes that one key (one address, where there are no keys) may have",
    value: 0.875,
    unit: "share",
    beyond: "429 `rate_limit_exceeded`",
    option: "admission.maxClientShare",
    flag: "--max-client-share",
  },
  loopShare: {
    of: "the part of the event loop's time that reading one client's bodies may take",
    value: 0.2,
    unit: "share",
    beyond: "its next bodies are read later",
  },
  queueMs: {
    of: "the wait for a first token",
    value: 30_000,
    unit: "ms",
    beyond: "408 `queue_timeout`",
    option: "admission.maxQueueMs",
    flag: "--max-queue-ms",
  },
  bufferedBytes: {
    of: "a stream that its reader has not taken yet",
    value: 256 << 10,
    unit: "bytes",
    beyond: "the connection is closed",
    option: "maxBufferedBytes",
  },
  slowReaderMs: {
    of: "the time in which a reader has to take 64 KiB, or what is left of an answer",
    value: 30_000,
    unit: "ms",
    beyond: "the connection is closed",
    option: "slowReaderMs",
  },
} as const satisfies Readonly<Record<string, Limit>>;
