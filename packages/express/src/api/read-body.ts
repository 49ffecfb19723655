// Reads request bodies: JSON in UTF-8, up to a size, within a time, and in turns between clients.

import { isUtf8 } from "node:buffer";
import type { Admission } from "../edge/admission.ts";
import type { ServedModels } from "../edge/served-models.ts";
import type { Step } from "../http/border.ts";
import { badRequest, bodyTimeout, bodyTooLarge, sendError, type ApiError } from "../http/errors.ts";
import {
  charsetOf,
  type Charset,
  declaredBytes,
  hasBody,
  isJsonType,
  readBytes,
  unreadable,
} from "../http/read-bytes.ts";
import { clientName, localsOf } from "../http/request.ts";
import { LIMITS } from "../limits.ts";
import { findExcess } from "./check-body.ts";
import type { ResolvedApiOptions } from "./options.ts";

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
