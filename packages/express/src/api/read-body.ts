// Bodies of requests: their bytes within limits, and the JSON in them, which clients take turns to parse.

import { promisify } from "node:util";
import { brotliDecompress, gunzip, inflate, type InputType } from "node:zlib";
import { isUtf8 } from "node:buffer";
import type { Incoming, Step } from "../http/types.ts";
import { ApiError, badRequest, bodyTimeout, bodyTooLarge, sendError } from "../http/errors.ts";
import type { Admission } from "../edge/admission.ts";
import type { ServedModels } from "../edge/served-models.ts";
import { clientName, localsOf } from "../http/request.ts";
import { LIMITS } from "../limits.ts";
import { findExcess } from "./check-body.ts";
import type { ResolvedApiOptions } from "./options.ts";

/** Whether a request has a body, which may be empty. */
function hasBody({ headers }: Pick<Incoming, "headers">): boolean {
  return headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? NaN) >= 0;
}

/** Returns the length that a request declares for its body. */
function declaredBytes({ headers }: Pick<Incoming, "headers">): number | undefined {
  const length = headers["content-length"];
  return length === undefined ? undefined : Number(length);
}

const TOKEN = String.raw`[\w!#$%&'*+.^\x60|~-]+`;
const PARAMETER = String.raw`[ \t]*;[ \t]*${TOKEN}=(?:${TOKEN}|"(?:[^"\\]|\\.)*")`;
const JSON_TYPE = new RegExp(String.raw`^[ \t]*application/json(?:${PARAMETER})*[ \t]*$`, "i");

/** Whether a content type is that of JSON, with any parameters. */
function isJsonType(contentType: string): boolean {
  return JSON_TYPE.test(contentType);
}

const CHARSETS = ["utf-8", "utf-16", "utf-16le", "utf-16be"] as const;

/** Character set that bodies can have. */
type Charset = (typeof CHARSETS)[number];

/** Returns the character set of a content type, or `undefined` for one that cannot be read. @default utf-8 */
function charsetOf(contentType: string): Charset | undefined {
  const named = (/;[ \t]*charset="?([^\s;"]*)/i.exec(contentType)?.[1] ?? "utf-8").toLowerCase();
  return CHARSETS.find((charset) => charset === named);
}

/** Creates the error of a type, an encoding or a character set that this server cannot read. */
export function unreadable(message = "The body's encoding is not supported"): ApiError {
  return new ApiError({ status: 415, type: "invalid_request_error", code: "unsupported_media_type", message });
}

type Decompress = (bytes: InputType, options: { readonly maxOutputLength: number }) => Promise<Buffer>;

const DECOMPRESSORS: ReadonlyMap<string, Decompress> = new Map([
  ["gzip", promisify(gunzip)],
  ["deflate", promisify(inflate)],
  ["br", promisify(brotliDecompress)],
]);

/**
 * Receives a body and decompresses it.
 *
 * @param maxBytes - largest size before and after decompression
 * @throws {ApiError} 413 beyond `maxBytes`, 415 for an unknown encoding, 400 for a body that is cut off or damaged
 */
async function readBytes(request: Incoming, maxBytes: number): Promise<Buffer> {
  const encoding = (request.get("content-encoding") ?? "").toLowerCase();
  const decompress = DECOMPRESSORS.get(encoding);
  if (encoding !== "" && encoding !== "identity" && !decompress) throw unreadable();
  const bytes = await receive(request, maxBytes);
  if (!decompress) return bytes;
  try {
    return await decompress(bytes, { maxOutputLength: maxBytes });
  } catch (cause) {
    if (cause instanceof RangeError) throw bodyTooLarge(cause);
    throw badRequest({ message: "The request could not be read", code: "invalid_request", cause });
  }
}

function endsEarly(cause?: unknown): ApiError {
  return badRequest({ message: "The body ended early", code: "invalid_body", cause });
}

async function receive(request: Incoming, maxBytes: number): Promise<Buffer> {
  const declared = declaredBytes(request);
  if (declared !== undefined && declared > maxBytes) throw bodyTooLarge();
  const chunks: Uint8Array[] = [];
  let numBytes = 0;
  // `for await` would end the connection after a refusal, which has to be sent first.
  const reader = request[Symbol.asyncIterator]();
  for (;;) {
    // oxlint-disable-next-line no-await-in-loop -- chunks come one after the other
    const { done, value } = await reader.next().catch((cause: unknown) => Promise.reject(endsEarly(cause)));
    if (done === true) break;
    numBytes += value.byteLength;
    if (numBytes > maxBytes) throw bodyTooLarge();
    chunks.push(value);
  }
  if (declared !== undefined && declared !== numBytes) throw endsEarly();
  return Buffer.concat(chunks, numBytes);
}

interface Entrance {
  readonly models: Pick<ServedModels, "isDraining">;
  readonly admission: Pick<Admission, "refuseIfFull" | "arrive">;
  readonly maxBodyBytes: number;
}

/**
 * Middleware that refuses a request before its body is read, if the server has no room for it or if its declared length
 * is too large. Otherwise reserves room for the body, until `endArrival` of `res.locals.readMe` is called or the
 * response is closed.
 */
export function refuseEarly({ models, admission, maxBodyBytes }: Entrance): Step {
  return (request, response, next) => {
    // A server that shuts down refuses with another error, which tells clients not to retry.
    if (models.isDraining) return next();
    const length = declaredBytes(request) ?? NaN;
    // The declared length of a compressed body says nothing about its contents.
    const isKnown = length >= 0 && request.headers["content-encoding"] === undefined;
    const locals = localsOf(response);
    const about = { key: locals.key, client: clientName(request, response) };
    try {
      if (length > maxBodyBytes) throw bodyTooLarge();
      admission.refuseIfFull({ ...about, bytes: isKnown ? length : 0 });
      locals.endArrival = admission.arrive({ ...about, bytes: isKnown ? length : maxBodyBytes });
      response.once("close", locals.endArrival);
    } catch (error) {
      return next(error);
    }
    next();
  };
}

/** Middleware that refuses a body by its declared length, before it is read. */
export function refuseLong(maxBodyBytes: number): Step {
  return (request, _response, next) => {
    next((declaredBytes(request) ?? 0) > maxBodyBytes ? bodyTooLarge() : undefined);
  };
}

/** Middleware that parses a body into `request.body`. */
export function readJson({
  maxBodyBytes,
  bodyTimeoutMs,
  timers,
  paces,
}: Pick<ResolvedApiOptions, "maxBodyBytes" | "bodyTimeoutMs" | "timers"> & { readonly paces: Paces }): Step {
  return (request, response, next) => {
    // Middleware in front of the API has parsed the body.
    if (request.body !== undefined) return next();
    const contentType = request.get("content-type") ?? "";
    if (hasBody(request) && !isJsonType(contentType)) {
      return next(unreadable("Expected the content type application/json"));
    }
    const charset = charsetOf(contentType);
    if (charset === undefined) return next(unreadable());
    const locals = localsOf(response);
    let isOver = false;
    const stopTimer = timers.after(bodyTimeoutMs, () => {
      isOver = true;
      response.setHeader("Connection", "close");
      response.once("finish", () => request.destroy());
      sendError(response, bodyTimeout());
    });
    const client = clientName(request, response);
    let recordDuration: ReturnType<Paces["begin"]> | undefined;
    const read = (): void => {
      if (isOver || request.destroyed) return stopTimer();
      const nowMs = performance.now();
      const waitMs = paces.waitMs(client, nowMs);
      if (waitMs > 0) {
        setTimeout(read, waitMs);
        return;
      }
      recordDuration = paces.begin(client, declaredBytes(request) ?? 0, nowMs);
      if (hasBody(request)) void readBytes(request, maxBodyBytes).then(onRead, onFailed);
      else onParsed();
    };
    const onRead = (bytes: Buffer): void => {
      if (isOver) return;
      locals.bodyBytes = bytes.length;
      locals.wholeMs = performance.now();
      try {
        request.body = parseJson(bytes, charset);
      } catch (error) {
        return onFailed(error);
      }
      onParsed();
    };
    const onFailed = (error: unknown): void => {
      // Close rather than receive the rest of a refused body.
      if (!isOver && !request.complete) response.setHeader("Connection", "close");
      onParsed(error);
    };
    const onParsed = (error?: unknown): void => {
      stopTimer();
      if (isOver) return;
      locals.bodyBytes ??= 0;
      next(error);
      // `next` has checked the body synchronously, so the duration includes it and nothing of other requests.
      const nowMs = performance.now();
      recordDuration?.(nowMs - (locals.wholeMs ?? nowMs), nowMs);
    };
    read();
  };
}

function notJson(message: string, cause?: unknown): ApiError {
  return badRequest({ message, code: "invalid_json", cause });
}

/** Parses an object or a list. @throws {ApiError} 400 */
export function parseJson(bytes: Buffer, charset: Charset): unknown {
  if (bytes.length === 0) return {};
  if (charset === "utf-8" && !isUtf8(bytes)) throw notJson("The body is not valid UTF-8");
  const text = new TextDecoder(charset).decode(bytes);
  const excess = findExcess(charset === "utf-8" ? bytes : Buffer.from(text));
  if (excess !== undefined) throw badRequest({ message: `Invalid body: ${excess}`, code: "invalid_value" });
  if (!/^[\t\n\r ]*[[{]/.test(text)) throw notJson("The body is not valid JSON");
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw notJson("The body is not valid JSON", cause);
  }
}

/** Duration that is not counted, in ms. */
const FREE_MS = 5;
/** Estimated time to parse and check a body. */
const MS_PER_BYTE = 12 / 2 ** 20;

/**
 * Shares the event loop's time between clients: a client whose bodies take long to read, or whose answers take long to
 * write, waits in proportion before the next one. Times in ms of any one clock.
 */
export class Paces {
  readonly #share: number;
  /** End of each waiting client's wait, by client. */
  readonly #readyMs = new Map<string, number>();

  /** @param share - the share of the time that one client may take, above 0 and at most 1 */
  constructor(share: number = LIMITS.loopShare.value) {
    this.#share = share;
  }

  /** Returns how long a client's next body has to wait: 0 for most clients. */
  waitMs(client: string, nowMs: number): number {
    return Math.max(0, (this.#readyMs.get(client) ?? 0) - nowMs);
  }

  /**
   * Counts a body's estimated time before it is read, so that bodies that arrive together take turns.
   *
   * @returns a function that corrects the estimate by the measured duration
   */
  begin(client: string, bytes: number, nowMs: number): (durationMs: number, nowMs: number) => void {
    const expectedMs = bytes * MS_PER_BYTE;
    this.#spend(client, expectedMs, nowMs);
    return (durationMs, endMs) => this.#spend(client, durationMs - expectedMs, endMs);
  }

  /** Runs work when the client's turn comes, and counts its time. */
  async run<Result>(client: string, work: () => Result): Promise<Result> {
    for (;;) {
      const waitMs = this.waitMs(client, performance.now());
      if (waitMs === 0) break;
      // oxlint-disable-next-line no-await-in-loop -- others of the client may go first
      await new Promise((resolve) => void setTimeout(resolve, waitMs));
    }
    const startMs = performance.now();
    try {
      return work();
    } finally {
      const endMs = performance.now();
      this.#spend(client, endMs - startMs, endMs);
    }
  }

  #spend(client: string, durationMs: number, nowMs: number): void {
    if (durationMs <= FREE_MS) return;
    const startMs = Math.max(nowMs, this.#readyMs.get(client) ?? 0);
    this.#readyMs.set(client, startMs + durationMs * (1 / this.#share - 1));
    for (const [other, readyMs] of this.#readyMs) if (readyMs <= nowMs) this.#readyMs.delete(other);
  }
}
