// Options of batches, with their limits.

import { integerOption, MAX_TIMER_MS, numberOption, rejectUnknownKeys } from "@readme-moe/core";
import { LIMITS } from "../limits.ts";

/** Options of `/v1/files` and `/v1/batches`. */
export interface BatchesOptions {
  /** Folder of files and batches. It is made if it does not exist. Servers that share it share the batches. */
  readonly folder: string;
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
export interface ResolvedBatchesOptions {
  readonly folder: string;
  readonly maxFileBytes: number;
  readonly maxUploadMs: number;
  readonly maxFiles: number;
  readonly maxBytes: number;
  readonly maxRequests: number;
  readonly maxBatches: number;
  readonly maxClientShare: number;
  readonly maxAgeSeconds: number;
  readonly maxLoad: number;
  readonly onError: (error: Error) => void;
}

const NAMES = [
  "folder",
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
  const { folder, maxAgeMs = MONTH_MS, onError = () => undefined } = options;
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
