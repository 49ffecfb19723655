// All limits of what one client can use. Options take their defaults from here, and the docs their table.

import { SAMPLING_PARAMETERS } from "@readme-moe/core";

/** A limit, as the docs show it. */
export interface Limit {
  /** Description of the limited quantity. */
  readonly of: string;
  readonly value: number;
  readonly unit: "bytes" | "ms" | "tokens" | "requests" | "items" | "levels" | "choices" | "share" | "";
  /** Response to a client that exceeds the limit. */
  readonly beyond: string;
  /** Option of the middleware, and flag of `readme-moe serve`, that change the limit. */
  readonly option?: string;
  readonly flag?: string;
}

/** Makes a limit of what a body may have. */
function ofBody(of: string, value: number, unit: Limit["unit"] = "items"): Limit {
  return { of, value, unit, beyond: "400 `invalid_value`" };
}

/** Limits by name. The value is the default of an option, or fixed where there is no option. */
export const LIMITS = {
  reconnectMs: ofBody("`read_me.reconnect_ms`, for which a stream without a reader is generated on", 60_000, "ms"),
  pipelined: {
    of: "requests of one connection that wait for an earlier answer",
    value: 16,
    unit: "requests",
    beyond: "the connection is closed",
  },
  bodyBytes: {
    of: "size of a decompressed body, with the kept items that it goes on with",
    value: 4 << 20,
    unit: "bytes",
    beyond: "413 `request_too_large`",
    option: "maxBodyBytes",
  },
  bodyMs: {
    of: "time until a body has arrived",
    value: 30_000,
    unit: "ms",
    beyond: "408 `body_timeout`",
    option: "bodyTimeoutMs",
  },
  uploads: {
    of: "files that arrive at once (`/v1/files`)",
    value: 8,
    unit: "items",
    beyond: "503 `server_overloaded`",
  },
  uploadShare: {
    of: "share of the places for arriving files that other keys (without keys, addresses) leave free",
    value: 0.5,
    unit: "share",
    beyond: "429 `rate_limit_exceeded`",
    option: "batches.maxClientShare",
  },
  uploadSliceMs: {
    of: "time in which 64 KiB or the rest of a file arrive",
    value: 30_000,
    unit: "ms",
    beyond: "408 `body_timeout`",
    option: "bodyTimeoutMs",
  },
  uploadMs: {
    of: "time until a file has arrived",
    value: 3_600_000,
    unit: "ms",
    beyond: "408 `body_timeout`",
    option: "batches.maxUploadMs",
  },
  bodyValues: ofBody(
    "values of a body, and its lists, objects and properties. Numbers in lists are not counted",
    65_536,
  ),
  bodyItems: ofBody("items of lists and properties of objects in a body, including numbers", 524_288),
  bodyDepth: ofBody("nesting of a body", 64, "levels"),
  messageItems: ofBody(
    "messages of a request, kept ones too, with parts and tool calls; parts of a `prediction`",
    8192,
  ),
  prompts: ofBody("texts or lists of token ids in `prompt`", 128),
  inputs: ofBody("texts or lists of token ids in `input` of embeddings, and `documents` of rankings", 2048),
  tokenIds: ofBody("ids in a list of tokens, and tokens that `/tokenize` counts", 262_144),
  logitBiases: ofBody("`logit_bias`", SAMPLING_PARAMETERS.logitBias.maxItems),
  stopTokens: ofBody("`stop_token_ids`", SAMPLING_PARAMETERS.stopTokenIds.maxItems),
  stops: ofBody("`stop`", SAMPLING_PARAMETERS.stop.maxItems),
  guidedChoices: ofBody("`guided_choice` and `structured_outputs.choice`", 1024),
  extraFiles: ofBody("`input_extra`", 256),
  tools: ofBody("`tools`", 128),
  metadata: ofBody("`metadata`", 64),
  templateVariables: ofBody("`chat_template_kwargs`", 64),
  choices: ofBody("choices of all prompts of a request", SAMPLING_PARAMETERS.n.max, "choices"),
  priority: {
    of: "`read_me.priority` of clients",
    value: 0,
    unit: "",
    beyond: "400 `invalid_value`",
    option: "maxPriority",
    flag: "--max-priority",
  },
  requests: {
    of: "admitted requests",
    value: 256,
    unit: "requests",
    beyond: "503 `server_overloaded`",
    option: "admission.maxRequests",
    flag: "--max-requests",
  },
  tokens: {
    of: "tokens that admitted requests may use",
    value: 2 ** 20,
    unit: "tokens",
    beyond: "503 `server_overloaded`",
    option: "admission.maxTokens",
    flag: "--max-tokens",
  },
  bytes: {
    of: "bodies of admitted requests and log-probabilities kept for them, arriving bodies, and answers that are read, each apart",
    value: 64 << 20,
    unit: "bytes",
    beyond: "503 `server_overloaded`",
    option: "admission.maxBytes",
    flag: "--max-bytes",
  },
  clientShare: {
    of: "share of requests, tokens and bytes of one key or address; of bodies and reads, of what others leave",
    value: 0.875,
    unit: "share",
    beyond: "429 `rate_limit_exceeded`",
    option: "admission.maxClientShare",
    flag: "--max-client-share",
  },
  loopShare: {
    of: "share of the event loop's time for reading a client's bodies and writing what it reads",
    value: 0.2,
    unit: "share",
    beyond: "its next bodies are read later",
  },
  queueMs: {
    of: "time until the engine begins to read the prompt",
    value: 300_000,
    unit: "ms",
    beyond: "408 `queue_timeout`",
    option: "admission.maxQueueMs",
    flag: "--max-queue-ms",
  },
  responses: {
    of: "kept responses",
    value: 1000,
    unit: "requests",
    beyond: "the least recently used are removed",
    option: "responses.maxResponses",
  },
  responseBytes: {
    of: "kept responses and conversations: as JSON, and 256 for each item",
    value: 64 << 20,
    unit: "bytes",
    beyond: "the least recently used are removed",
    option: "responses.maxBytes",
  },
  responseClientShare: {
    of: "share of kept responses and their bytes of one key (of one address on servers without keys)",
    value: 0.5,
    unit: "share",
    beyond: "its least recently used are removed",
    option: "responses.maxClientShare",
  },
  responseMs: {
    of: "time that a response is kept",
    value: 3_600_000,
    unit: "ms",
    beyond: "the response is removed",
    option: "responses.maxAgeMs",
  },
  bufferedBytes: {
    of: "part of a stream that its reader has not taken",
    value: 256 << 10,
    unit: "bytes",
    beyond: "the connection is closed",
    option: "maxBufferedBytes",
  },
  slowReaderMs: {
    of: "time in which a reader takes 64 KiB or the rest of an answer",
    value: 30_000,
    unit: "ms",
    beyond: "the connection is closed",
    option: "slowReaderMs",
  },
} as const satisfies Readonly<Record<string, Limit>>;
