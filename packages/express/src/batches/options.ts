// Options of batches, the room for files and batches, and the refusals of what has none.

import { integerOption, MAX_TIMER_MS, numberOption, rejectUnknownKeys } from "@readme-moe/core";
import { ApiError, badRequest, invalid, retryHeaders } from "../http/errors.ts";
import { LIMITS } from "../limits.ts";

/** Queue of `openBatchQueue`: gives each batch to one of the processes that share a folder. */
export interface BatchQueue {
  /**
   * Begins to take batches.
   *
   * @param name - the same for all processes that share the folder
   * @param most - batches that this process takes at once
   * @param run - runs a batch and resolves with whether it has ended: one that has not is given to a process again.
   *   `signal` aborts when another process has it.
   */
  start(name: string, most: number, run: (id: string, signal: AbortSignal) => Promise<boolean>): void;
  /** Adds a batch; does nothing if it is there. */
  add(id: string): Promise<void>;
  /** Takes no more batches, and resolves when those of this process have ended or are given back. */
  close(): Promise<void>;
}

/** Options of `/v1/files` and `/v1/batches`. */
export interface BatchesOptions {
  /** Folder of files and batches. It is made if it does not exist. */
  readonly folder: string;
  /**
   * Shares the batches among the servers that have the same folder, such as the fronts of a fleet.
   * @default this server alone runs them
   */
  readonly queue?: BatchQueue | undefined;
  /** Largest file that a client may upload, in bytes. @default 100 MiB */
  readonly maxFileBytes?: number | undefined;
  /** Longest time until a file has arrived, in ms. @default 3,600,000 */
  readonly maxUploadMs?: number | undefined;
  /** Files of all clients, answers of batches included. @default 1,000 */
  readonly maxFiles?: number | undefined;
  /** Bytes of these files. @default 2 GiB */
  readonly maxBytes?: number | undefined;
  /** Requests of one batch. @default 50,000 */
  readonly maxRequests?: number | undefined;
  /** Batches of all clients, those that have ended included. @default 1,000 */
  readonly maxBatches?: number | undefined;
  /**
   * Share of files, their bytes, places for arriving files and batches that one client may have, above 0 and at most 1.
   * @default 0.5
   */
  readonly maxClientShare?: number | undefined;
  /** Time for which files and ended batches are kept, in ms. @default 30 days */
  readonly maxAgeMs?: number | undefined;
  /**
   * Share of the engine's places (`maxNumSeqs`) up to which requests of batches begin, above 0 and at most 1. The rest
   * is free for other requests, which also run first. @default 0.5
   */
  readonly maxLoad?: number | undefined;
  /**
   * Called with each failure that keeps batches from going on, such as a full disk. They are tried again.
   * @default failures are not reported
   */
  readonly onError?: ((error: Error) => void) | undefined;
}

/** Options with their defaults. */
export type ResolvedBatchesOptions = {
  readonly [Name in Exclude<keyof BatchesOptions, "queue" | "maxAgeMs">]-?: NonNullable<BatchesOptions[Name]>;
} & { readonly queue: BatchQueue | undefined; readonly maxAgeSeconds: number };

const NAMES = [
  "folder",
  "queue",
  "maxFileBytes",
  "maxUploadMs",
  "maxFiles",
  "maxBytes",
  "maxRequests",
  "maxBatches",
  "maxClientShare",
  "maxAgeMs",
  "maxLoad",
  "onError",
] as const satisfies readonly (keyof BatchesOptions)[];

const MONTH_MS = 30 * 24 * 3_600_000;

/** @throws {TypeError | RangeError} naming the option, the expectation and the value */
export function resolveBatchesOptions(options: BatchesOptions): ResolvedBatchesOptions {
  rejectUnknownKeys("batches", options, NAMES);
  const { folder, queue, maxAgeMs = MONTH_MS, onError = () => undefined } = options;
  if (typeof folder !== "string" || folder === "") {
    throw new TypeError("Expected `batches.folder` to be the path of a folder");
  }
  if (typeof onError !== "function") throw new TypeError("Expected `batches.onError` to be a function");
  const whole = (name: keyof BatchesOptions & keyof ResolvedBatchesOptions, value: number): number =>
    integerOption(`batches.${name}`, Number(options[name] ?? value), 1);
  const maxUploadMs = integerOption(
    "batches.maxUploadMs",
    options.maxUploadMs ?? LIMITS.uploadMs.value,
    1,
    MAX_TIMER_MS,
  );
  const share = (name: "maxClientShare" | "maxLoad", value: number): number =>
    numberOption(`batches.${name}`, options[name] ?? value, Number.MIN_VALUE, 1);
  return {
    folder,
    queue,
    maxFileBytes: whole("maxFileBytes", 100 * 2 ** 20),
    maxUploadMs,
    maxFiles: whole("maxFiles", 1000),
    maxBytes: whole("maxBytes", 2 * 2 ** 30),
    maxRequests: whole("maxRequests", 50_000),
    maxBatches: whole("maxBatches", 1000),
    maxClientShare: share("maxClientShare", LIMITS.uploadShare.value),
    maxAgeSeconds: Math.ceil(integerOption("batches.maxAgeMs", maxAgeMs, 1) / 1000),
    maxLoad: share("maxLoad", 0.5),
    onError,
  };
}

/** A file of a store, as far as limits go. */
interface Held {
  readonly client: string;
  readonly bytes: number;
}

/** Most files and bytes of a store, and the share of one client. */
type FileLimits = Pick<ResolvedBatchesOptions, "maxFiles" | "maxBytes" | "maxClientShare">;

/**
 * Finds what a store has no room for.
 *
 * @param held - files that are there or arriving, without the new one
 * @param bytes - those of the new file so far
 * @returns a word for it, or `undefined` where there is room
 */
export function missingRoom(
  held: readonly Held[],
  { client, bytes }: Held,
  { maxFiles, maxBytes, maxClientShare }: FileLimits,
): "files" | "bytes" | undefined {
  const own = held.filter((file) => file.client === client);
  if (held.length >= maxFiles || own.length >= Math.ceil(maxFiles * maxClientShare)) return "files";
  const total = (files: readonly Held[]): number => files.reduce((sum, file) => sum + file.bytes, bytes);
  return total(held) > maxBytes || total(own) > maxBytes * maxClientShare ? "bytes" : undefined;
}

/**
 * Tells whether one more file may arrive. A client has at most its share of the places that the others leave free, so
 * that not even several clients together can take all places.
 *
 * @param arriving - the clients of the files that are arriving
 * @returns whose files are too many, or `undefined` where there is a place
 */
export function uploadOverflow(
  arriving: readonly string[],
  client: string,
  { maxUploads, maxClientShare }: Readonly<Record<"maxUploads" | "maxClientShare", number>>,
): "all" | "client" | undefined {
  if (arriving.length >= maxUploads) return "all";
  const numOwn = arriving.filter((one) => one === client).length;
  const numLeft = maxUploads - (arriving.length - numOwn);
  return numOwn >= Math.ceil(numLeft * maxClientShare) ? "client" : undefined;
}

/** A batch of a store, as far as limits go. */
interface HeldBatch {
  readonly id: string;
  readonly client: string;
  readonly createdAt: number;
  /** Time at which it ended, in seconds since 1970; `undefined` while it has not. */
  readonly endedAt: number | undefined;
}

type BatchLimits = Pick<ResolvedBatchesOptions, "maxBatches" | "maxClientShare" | "maxAgeSeconds">;

/** Selects the ended batches that are too old. */
export function agedBatches(
  held: readonly HeldBatch[],
  nowSeconds: number,
  { maxAgeSeconds }: BatchLimits,
): readonly string[] {
  return held.filter(({ endedAt = Infinity }) => endedAt + maxAgeSeconds <= nowSeconds).map(({ id }) => id);
}

/**
 * Selects the ended batches that leave for one more of a client: the client's oldest if it has its share, else the
 * oldest of all.
 *
 * @returns `undefined` if too many have not ended
 */
export function displacedBatches(
  held: readonly HeldBatch[],
  client: string,
  { maxBatches, maxClientShare }: BatchLimits,
): readonly string[] | undefined {
  const own = held.filter((batch) => batch.client === client);
  const ofClient = overflow(own, Math.ceil(maxBatches * maxClientShare));
  const left = held.filter(({ id }) => !ofClient?.includes(id));
  const others = overflow(left, maxBatches);
  return ofClient && others && [...ofClient, ...others];
}

/** Selects the oldest ended batches that leave for one more. */
function overflow(held: readonly HeldBatch[], most: number): readonly string[] | undefined {
  const excess = held.length + 1 - most;
  if (excess <= 0) return [];
  const ended = held.filter(({ endedAt }) => endedAt !== undefined).toSorted((a, b) => a.createdAt - b.createdAt);
  return ended.length < excess ? undefined : ended.slice(0, excess).map(({ id }) => id);
}

export function fileNotFound(id: string): ApiError {
  return notFound(`No such File object: ${shown(id)}`, "id", "file_not_found");
}

export function batchNotFound(id: string): ApiError {
  return notFound(`No batch found with id '${shown(id)}'.`, "batch_id", "batch_not_found");
}

/** Creates the refusal of a page that begins after an item that the list does not have. */
export function unknownPlace(): ApiError {
  return invalid("after", "expected the id of an item of the list");
}

export function fileInUse(id: string): ApiError {
  const message = `The file ${id} is the input of a batch that has not ended; cancel the batch first.`;
  return badRequest({ message, code: "file_in_use" });
}

/** Creates the refusal of a file that the store has no room for. @param measure - what it would exceed */
export function storeFull(measure: string): ApiError {
  const message = `The server keeps no more ${measure}; delete files that you do not need.`;
  return new ApiError({ status: 413, code: "storage_full", message });
}

export function tooManyBatches(): ApiError {
  const message = "Too many batches have not ended; wait until one has, or cancel one.";
  return new ApiError({
    status: 429,
    type: "requests",
    code: "too_many_batches",
    message,
    headers: retryHeaders(60_000),
  });
}

/** Wait before a refused upload is tried again, in ms. */
export const UPLOAD_RETRY_MS = 1000;

export function tooManyUploads(): ApiError {
  const message = "Too many files are arriving; try again later.";
  return new ApiError({
    status: 503,
    code: "server_overloaded",
    message,
    headers: retryHeaders(UPLOAD_RETRY_MS),
  });
}

export function batchHasEnded(status: string): ApiError {
  return badRequest({ message: `Cannot cancel a batch with status '${status}'.`, code: "invalid_value" });
}

function notFound(message: string, param: string, code: string): ApiError {
  return new ApiError({ status: 404, message, param, code });
}

/** Shortens an id, which comes from a client and may have any length. */
function shown(id: string): string {
  return id.slice(0, 200);
}
