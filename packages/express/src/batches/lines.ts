// Lines of input files: where they are, and whether they are requests.

import { isRecord } from "@readme-moe/core";
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { parseJson } from "../api/read-body.ts";
import { ApiError } from "../http/errors.ts";
import type { BatchEndpoint, BatchError } from "./schemas.ts";

/** Place of a line in its file, in bytes, without its end. */
export interface LinePlace {
  readonly offset: number;
  readonly length: number;
}

/** A line whose bytes are there. They are missing where the line is longer than allowed. */
export interface Line extends LinePlace {
  /** Number of the line, from 1. */
  readonly number: number;
  readonly bytes: Buffer | undefined;
  /** Whether the line has an end. The last line that a killed writer has begun has none. */
  readonly hasEnd: boolean;
}

/** Places of the lines of a file by index, in 12 bytes each. */
export class LinePlaces {
  #offsets = new Float64Array(64);
  #lengths = new Uint32Array(64);
  #count = 0;

  get count(): number {
    return this.#count;
  }

  at(index: number): LinePlace {
    const [offset, length] = [this.#offsets[index], this.#lengths[index]];
    if (index >= this.#count || offset === undefined || length === undefined) throw new RangeError("Expected a line");
    return { offset, length };
  }

  /** Adds a place. @returns the number of places */
  push({ offset, length }: LinePlace): number {
    if (this.#count === this.#offsets.length) this.#grow();
    this.#offsets[this.#count] = offset;
    this.#lengths[this.#count] = length;
    return ++this.#count;
  }

  #grow(): void {
    const [offsets, lengths] = [new Float64Array(2 * this.#count), new Uint32Array(2 * this.#count)];
    offsets.set(this.#offsets);
    lengths.set(this.#lengths);
    [this.#offsets, this.#lengths] = [offsets, lengths];
  }
}

const [NEWLINE, MARK] = [0x0a, Buffer.from("\uFEFF")];

/**
 * Reads the lines of a file. Lines without any text are left out.
 *
 * @param maxBytes - most bytes of one line
 * @param maxLines - most lines, those without text included. The line after them is the last one that is returned.
 */
export async function* readLines(path: string, maxBytes: number, maxLines = Infinity): AsyncGenerator<Line, void> {
  let [number, offset, kept, isLong] = [1, 0, [] as Buffer[], false];
  let length = 0;
  const take = (chunk: Buffer): void => {
    length += chunk.length;
    isLong ||= length > maxBytes;
    if (isLong) kept = [];
    else kept.push(chunk);
  };
  const line = (hasEnd: boolean): Line | undefined => {
    const [first, ...others] = kept;
    const whole = isLong ? undefined : others.length === 0 ? first : Buffer.concat(kept);
    if (!isLong && (!whole || isBlank(whole)) && number <= maxLines) return undefined;
    return { number, offset, length, bytes: whole, hasEnd };
  };
  for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) {
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, start)) {
      take(chunk.subarray(start, end));
      const found = line(true);
      if (found) yield found;
      if (number > maxLines) return;
      [number, offset, kept, isLong, length] = [number + 1, offset + length + 1, [], false, 0];
      start = end + 1;
    }
    take(chunk.subarray(start));
  }
  const last = length > 0 ? line(false) : undefined;
  if (last) yield last;
}

function isBlank(bytes: Buffer): boolean {
  return bytes.equals(MARK) || bytes.every((byte) => byte === 0x20 || (byte >= 0x09 && byte <= 0x0d));
}

/** A request of a batch. */
export interface BatchRequest {
  readonly customId: string;
  readonly body: Readonly<Record<string, unknown>>;
}

/**
 * Reads the request of a line.
 *
 * @throws {LineError} naming what is wrong
 */
export function parseLine(bytes: Buffer | undefined, endpoint: BatchEndpoint): BatchRequest {
  if (!bytes) throw new LineError("line_too_long", "The line is longer than a body may be.");
  const line = parsedLine(bytes);
  const { custom_id: customId, method, url, body } = line;
  if (typeof customId !== "string" || customId === "" || customId.length > MAX_ID) {
    throw new LineError("invalid_custom_id", `Expected a text of 1 to ${MAX_ID} characters.`, "custom_id");
  }
  if (method !== "POST") throw new LineError("invalid_method", "Expected POST.", "method");
  if (url !== endpoint) {
    throw new LineError("mismatched_endpoint", `Expected the endpoint of the batch, ${endpoint}.`, "url");
  }
  if (!isRecord(body)) throw new LineError("invalid_body", "Expected an object.", "body");
  return { customId, body };
}

const MAX_ID = 512;

function parsedLine(bytes: Buffer): Readonly<Record<string, unknown>> {
  let line: unknown;
  try {
    line = parseJson(bytes, "utf-8");
  } catch (error) {
    const message = error instanceof ApiError ? error.message.replace("body", "line") : "The line is not valid JSON";
    throw new LineError("invalid_json_line", message);
  }
  if (!isRecord(line)) throw new LineError("invalid_json_line", "Expected an object.");
  return line;
}

/** A line that is no request. */
class LineError extends Error {
  override readonly name = "LineError";
  readonly code: string;
  readonly param: string | null;

  constructor(code: string, message: string, param: string | null = null) {
    super(message);
    this.code = code;
    this.param = param;
  }
}

/** Result of the check of an input file. */
export interface CheckedInput {
  readonly lines: LinePlaces;
  /** Errors of the file. If there are any, no line may run. */
  readonly errors: readonly BatchError[];
}

/** Bounds of an input file. */
export interface InputLimits {
  readonly endpoint: BatchEndpoint;
  readonly maxLineBytes: number;
  readonly maxRequests: number;
}

/** Errors of a file that are listed. */
const MAX_ERRORS = 100;

/** Checks an input file. */
export async function checkInput(path: string, limits: InputLimits, signal: AbortSignal): Promise<CheckedInput> {
  const { endpoint, maxLineBytes, maxRequests } = limits;
  const [lines, errors, seen] = [new LinePlaces(), [] as BatchError[], new Set<string>()];
  const maxLines = 2 * maxRequests;
  const refuse = (code: string, message: string, line: number | null, param: string | null = null): void =>
    void errors.push({ code, message, line, param });
  for await (const { bytes, number, ...place } of readLines(path, maxLineBytes, maxLines)) {
    signal.throwIfAborted();
    if (errors.length >= MAX_ERRORS) break;
    if (number > maxLines) {
      refuse("too_many_lines", `Expected at most ${maxLines} lines, those without a request included.`, number);
      break;
    }
    if (lines.push(place) > maxRequests) {
      refuse("too_many_requests", `Expected at most ${maxRequests} requests.`, number);
      break;
    }
    try {
      const { customId } = parseLine(bytes, endpoint);
      const digest = digestOf(customId);
      if (seen.has(digest)) {
        throw new LineError("duplicate_custom_id", "The id is that of another line.", "custom_id");
      }
      seen.add(digest);
    } catch (error) {
      if (!(error instanceof LineError)) throw error;
      refuse(error.code, error.message, number, error.param);
    }
  }
  if (lines.count === 0 && errors.length === 0) refuse("empty_file", "The file has no requests.", null);
  return { lines, errors };
}

/** Reduces an id to 32 bytes, which differ for all ids. Kept whole, long ids would take hundreds of megabytes. */
function digestOf(customId: string): string {
  return createHash("sha256").update(customId, "utf16le").digest("binary");
}

/** Reads one line again. */
export async function readLine(handle: FileHandle, { offset, length }: LinePlace): Promise<Buffer> {
  const bytes = Buffer.alloc(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await handle.read(bytes, done, length - done, offset + done);
    if (bytesRead === 0) throw new Error("The input file has become shorter");
    done += bytesRead;
  }
  return bytes;
}
