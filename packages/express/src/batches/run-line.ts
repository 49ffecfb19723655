// Runs a line of a batch as the HTTP request that it stands for, without a connection.

import { randomUUID } from "node:crypto";
import { onceAborted } from "@readme-moe/core";
import type { Handler, Step } from "../http/types.ts";
import { unsupported } from "../http/errors.ts";
import { asStep, runSteps } from "../http/routes.ts";
import { WebReply, WebRequest } from "../http/web.ts";
import type { BatchRequest } from "./lines.ts";
import type { BatchRecord } from "./state.ts";

/** Priority of all requests of batches, below that of any client who does not ask for less. */
const BATCH_PRIORITY = -10_000;

/** A line that runs. */
export interface RunningLine {
  readonly record: BatchRecord;
  readonly line: BatchRequest;
  /** Bytes of the line. */
  readonly bytes: number;
  readonly signal: AbortSignal;
}

/** Handlers of the endpoints. */
export type LineHandlers = Readonly<Record<BatchRecord["endpoint"], Handler>>;

/** Handlers of lines, and the steps before them. */
export interface LineRunner {
  /** Steps before the handlers. */
  readonly front: readonly Step[];
  readonly handlers: LineHandlers;
  /** Whether hooks of the host get requests of the web. */
  readonly isWeb: boolean;
}

/** The answer of a line. */
export interface LineAnswer {
  readonly requestId: string;
  readonly status: number;
  readonly retryAfterMs: number | undefined;
  /** The body, which is JSON. */
  readonly text: string;
}

/**
 * Runs a line. A line that asks for a stream is refused.
 *
 * @returns the answer; any answer soon after `signal` aborts
 */
export async function runLine(
  { front, handlers, isWeb }: LineRunner,
  { record, line, bytes, signal }: RunningLine,
): Promise<LineAnswer> {
  const { endpoint, client, key, id } = record;
  const requestId = randomUUID();
  if (line.body["stream"] === true) {
    const refusal = unsupported("stream", "A request of a batch cannot be streamed");
    return { requestId, status: refusal.status, retryAfterMs: undefined, text: JSON.stringify(refusal) };
  }
  // A request stays among the listeners of its signal until it is collected, so each has one of its own.
  const controller = new AbortController();
  const detach = onceAborted(signal, () => controller.abort());
  const web = new Request(`http://localhost${endpoint}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    signal: controller.signal,
  });
  const address = client.replace(/^address:/, "");
  const request = new WebRequest(web, { baseUrl: "", address, isWeb });
  const reply = new WebReply(request);
  request.body = bodyOf(endpoint, line);
  request.route = { path: endpoint };
  reply.locals.readMe = {
    key,
    requestId,
    arrivalMs: performance.now(),
    bodyBytes: bytes,
    batch: { id, customId: line.customId, priority: BATCH_PRIORITY },
  };
  runSteps([...front, asStep(handlers[endpoint])], request, reply);
  try {
    const response = await reply.response;
    const text = await response.text().catch(() => "");
    const wait = Number(response.headers.get("retry-after-ms") ?? NaN);
    return { requestId, status: response.status, retryAfterMs: wait >= 0 ? wait : undefined, text };
  } finally {
    detach();
  }
}

/** Returns the body that runs. Responses of batches are not kept unless that is asked for. */
function bodyOf(endpoint: BatchRecord["endpoint"], { body }: BatchRequest): object {
  return endpoint === "/v1/responses" ? { store: false, ...body } : { ...body };
}

/** Reads the code of an error. */
export function errorCode(text: string): string | undefined {
  try {
    const { error } = JSON.parse(text) as { readonly error?: { readonly code?: unknown } };
    return typeof error?.code === "string" ? error.code : undefined;
  } catch {
    return undefined;
  }
}
