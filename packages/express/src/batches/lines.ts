// Lines of input files: where they are, and whether they are requests. Lines of answers, and the files made of them.

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { isRecord } from "@readme-moe/core";
import { parseJson } from "../api/body.ts";
import { ApiError } from "../http/errors.ts";
import { hasCode } from "./files.ts";
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

/** Places of the lines of a file by index, in 16 bytes each. */
export class LinePlaces {
  readonly #numbers: number[] = [];

  get count(): number {
    return this.#numbers.length / 2;
  }

  at(index: number): LinePlace {
    const [offset, length] = this.#numbers.slice(2 * index, 2 * index + 2);
    if (offset === undefined || length === undefined) throw new RangeError("Expected a line");
    return { offset, length };
  }

  /** Adds a place. @returns the number of places */
  push({ offset, length }: LinePlace): number {
    return this.#numbers.push(offset, length) / 2;
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

export interface LineAnswer {
  readonly requestId: string;
  readonly status: number;
  readonly retryAfterMs: number | undefined;
  /** The body, which is JSON. */
  readonly text: string;
}

/** File that an answer belongs to: `o` for the output, `e` for errors. */
type AnswerKind = "o" | "e";

/** An answer on disk, without its index and kind. */
interface FoundAnswer extends LinePlace {
  readonly kind: AnswerKind;
  readonly path: string;
}

/** Answers on disk, by the index of the request. */
export type FoundAnswers = ReadonlyMap<number, FoundAnswer>;

/** Counts answers by the file that they belong to. */
export function countsOf(answers: FoundAnswers): { readonly completed: number; readonly failed: number } {
  let completed = 0;
  for (const { kind } of answers.values()) if (kind === "o") completed++;
  return { completed, failed: answers.size - completed };
}

/** Id and name of an answered line. */
interface Answered {
  readonly batchId: string;
  readonly index: number;
  readonly customId: string;
}

/** Writes the line of an answer. @param json - the answer's body, which is JSON */
export function answerLine({ batchId, index, customId }: Answered, answer: LineAnswer): string {
  const { status, requestId, text } = answer;
  const body = isJson(text) ? text : JSON.stringify(text);
  const response = `{"status_code":${status},"request_id":${JSON.stringify(requestId)},"body":${body}}`;
  const head = `"id":${JSON.stringify(lineId(batchId, index))},"custom_id":${JSON.stringify(customId)}`;
  const kind: AnswerKind = status < 300 ? "o" : "e";
  return `${index} ${kind} {${head},"response":${response},"error":null}\n`;
}

/** Writes the line of a request that was not answered in time. */
export function expiredLine({ batchId, index, customId }: Answered): string {
  const message = "This request could not be executed before the completion window expired.";
  const error = { code: "batch_expired", message };
  return `${JSON.stringify({ id: lineId(batchId, index), custom_id: customId, response: null, error })}\n`;
}

function lineId(batchId: string, index: number): string {
  return `${batchId.replace("batch_", "batch_req_")}_${index}`;
}

/** Tells whether a text is JSON on one line. Answers are: the server has written them. */
function isJson(text: string): boolean {
  return /^[{[]/.test(text) && !text.includes("\n");
}

/** File of answers that grows line by line. */
export class AnswerLog {
  readonly #handle: FileHandle;
  #last: Promise<void> = Promise.resolve();

  private constructor(handle: FileHandle) {
    this.#handle = handle;
  }

  /** Makes the file, which must not exist. */
  static async create(path: string): Promise<AnswerLog> {
    return new AnswerLog(await open(path, "ax"));
  }

  /** Adds a line. After a failure, all further ones fail, since the file may end within a line. */
  append(line: string): Promise<void> {
    // A long line takes several writes, between which no other line may come.
    this.#last = this.#last.then(() => this.#handle.appendFile(line));
    return this.#last;
  }

  async sync(): Promise<void> {
    await this.#last;
    await this.#handle.sync();
  }

  async close(): Promise<void> {
    await this.#last.catch(() => undefined);
    await this.#handle.close();
  }
}

/**
 * Finds the answers in the files of all runs. The first one of each request counts, and a line without an end does not:
 * its writer was killed.
 *
 * @param paths - in the order of the runs
 * @param total - number of requests
 */
export async function findAnswers(paths: readonly string[], total: number): Promise<FoundAnswers> {
  const found = new Map<number, FoundAnswer>();
  for (const path of paths) {
    try {
      for await (const { bytes, offset, length, hasEnd } of readLines(path, Infinity)) {
        const head = /^(\d+) ([oe]) /.exec(bytes?.subarray(0, 32).toString("latin1") ?? "");
        const index = Number(head?.[1]);
        if (!head || !hasEnd || index >= total || found.has(index)) continue;
        const [{ length: skipped }, , kind] = head;
        found.set(index, { kind: kind as AnswerKind, path, offset: offset + skipped, length: length - skipped });
      }
    } catch (error) {
      // The batch may have ended elsewhere, and its answers are removed.
      if (!hasCode(error, "ENOENT")) throw error;
    }
  }
  return found;
}

/** Bytes that are gathered before they are written. */
const PIECE_BYTES = 1 << 20;

/** Reads the lines of one of the files that clients get, in the order of the requests. */
export async function* answerLines(answers: FoundAnswers, kind: AnswerKind): AsyncGenerator<Buffer, void> {
  const handles = new Map<string, FileHandle>();
  const end = Buffer.from("\n");
  try {
    let [pieces, numBytes] = [[] as Buffer[], 0];
    const places = [...answers].filter(([, place]) => place.kind === kind).toSorted(([one], [other]) => one - other);
    for (const [, place] of places) {
      const handle = handles.get(place.path) ?? (await open(place.path));
      handles.set(place.path, handle);
      const line = await readLine(handle, place);
      pieces.push(line, end);
      numBytes += line.length + 1;
      if (numBytes < PIECE_BYTES) continue;
      yield Buffer.concat(pieces);
      [pieces, numBytes] = [[], 0];
    }
    if (numBytes > 0) yield Buffer.concat(pieces);
  } finally {
    for (const handle of handles.values()) await handle.close();
  }
}
