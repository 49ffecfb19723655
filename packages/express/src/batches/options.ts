// Options of batches, the room for files and batches, and the refusals of what has none.

import {
  checkedOptions,
  functionOption,
  integerCheck,
  MAX_TIMER_MS,
  numberCheck,
  type OptionChecks,
} from "@readme-moe/core";
import { type ApiError, invalid, refusal, retryHeaders, shownId } from "../http/errors.ts";
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

const MONTH_MS = 30 * 24 * 3_600_000;

const CHECKS = {
  folder(folder: string, name: string) {
    if (typeof folder === "string" && folder !== "") return folder;
    throw new TypeError(`Expected \`${name}\` to be the path of a folder`);
  },
  queue: (queue: BatchQueue | undefined) => queue,
  maxFileBytes: integerCheck(100 * 2 ** 20, 1),
  maxUploadMs: integerCheck(LIMITS.uploadMs.value, 1, MAX_TIMER_MS),
  maxFiles: integerCheck(1000, 1),
  maxBytes: integerCheck(2 * 2 ** 30, 1),
  maxRequests: integerCheck(50_000, 1),
  maxBatches: integerCheck(1000, 1),
  maxClientShare: numberCheck(LIMITS.uploadShare.value, Number.MIN_VALUE, 1),
  maxAgeMs: integerCheck(MONTH_MS, 1),
  maxLoad: numberCheck(0.5, Number.MIN_VALUE, 1),
  onError: (onError: (error: Error) => void = () => undefined, name: string) => functionOption(name, onError),
} satisfies OptionChecks<BatchesOptions>;

export type ResolvedBatchesOptions = ReturnType<typeof resolveBatchesOptions>;

/** @throws {TypeError | RangeError} naming the option, the expectation and the value */
export function resolveBatchesOptions(options: BatchesOptions) {
  const { maxAgeMs, ...others } = checkedOptions(options, CHECKS, "batches", "batches.");
  return { ...others, maxAgeSeconds: Math.ceil(maxAgeMs / 1000) };
}

/** A file of a store, as far as limits go. */
interface Held {
  readonly client: string;
  readonly bytes: number;
}

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

/** A batch of a store, as far as limits go. */
interface HeldBatch {
  readonly id: string;
  readonly client: string;
  readonly createdAt: number;
  /** Time at which it ended, in seconds since 1970; `undefined` while it has not. */
  readonly endedAt: number | undefined;
}

export type BatchLimits = Pick<ResolvedBatchesOptions, "maxBatches" | "maxClientShare" | "maxAgeSeconds">;

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

export const fileNotFound = (id: string): ApiError =>
  refusal(404, "file_not_found", `No such File object: ${shownId(id)}`, { param: "id" });

export const batchNotFound = (id: string): ApiError =>
  refusal(404, "batch_not_found", `No batch found with id '${shownId(id)}'.`, { param: "batch_id" });

/** Creates the refusal of a page that begins after an item that the list does not have. */
export const unknownPlace = (): ApiError => invalid("after", "expected the id of an item of the list");

export const fileInUse = (id: string): ApiError =>
  refusal(400, "file_in_use", `The file ${id} is the input of a batch that has not ended; cancel the batch first.`);

/** Creates the refusal of a file that the store has no room for. @param measure - what it would exceed */
export const storeFull = (measure: string): ApiError =>
  refusal(413, "storage_full", `The server keeps no more ${measure}; delete files that you do not need.`);

export const tooManyBatches = (): ApiError =>
  refusal(429, "too_many_batches", "Too many batches have not ended; wait until one has, or cancel one.", {
    type: "requests",
    headers: retryHeaders(60_000),
  });

/** Wait before a refused upload is tried again, in ms. */
export const UPLOAD_RETRY_MS = 1000;

export const tooManyUploads = (): ApiError =>
  refusal(503, "server_overloaded", "Too many files are arriving; try again later.", {
    headers: retryHeaders(UPLOAD_RETRY_MS),
  });

export const batchHasEnded = (status: string): ApiError =>
  refusal(400, "invalid_value", `Cannot cancel a batch with status '${status}'.`);
