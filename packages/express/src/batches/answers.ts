// Answers of a batch on disk: a line each in the folder of the owner that got them, and the files made of them.
// A line is the index of its request, `o` for an answer or `e` for an error, and the line of the file.

import { open, type FileHandle } from "node:fs/promises";
import { hasCode } from "./folder.ts";
import { readLine, readLines, type LinePlace } from "./lines.ts";
import type { LineAnswer } from "./run-line.ts";

/** File that an answer belongs to. */
export type AnswerKind = "o" | "e";

/** Answers on disk, by the index of the request: a few bytes for each, since a batch may have many. */
export class FoundAnswers {
  readonly #paths: readonly string[];
  /** Number of the answer's file, from 1; negative for errors, and 0 where there is no answer. */
  readonly #files: Int32Array;
  readonly #offsets: Float64Array;
  readonly #lengths: Uint32Array;
  #counts = { completed: 0, failed: 0 };

  /** @param total - number of requests */
  constructor(paths: readonly string[], total: number) {
    this.#paths = paths;
    this.#files = new Int32Array(total);
    this.#offsets = new Float64Array(total);
    this.#lengths = new Uint32Array(total);
  }

  get counts(): { readonly completed: number; readonly failed: number } {
    return { ...this.#counts };
  }

  has(index: number): boolean {
    return (this.#files[index] ?? 0) !== 0;
  }

  /** Adds the answer of a request that has none. @param file - index of its path */
  add(index: number, kind: AnswerKind, file: number, { offset, length }: LinePlace): void {
    this.#files[index] = kind === "o" ? file + 1 : -file - 1;
    this.#offsets[index] = offset;
    this.#lengths[index] = length;
    this.#counts[kind === "o" ? "completed" : "failed"]++;
  }

  /** Returns the places of the answers of one kind, in the order of the requests. */
  *places(kind: AnswerKind): Generator<LinePlace & { readonly path: string }, void> {
    for (const [index, file] of this.#files.entries()) {
      if (kind === "o" ? file <= 0 : file >= 0) continue;
      const path = this.#paths[Math.abs(file) - 1] ?? "";
      yield { path, offset: this.#offsets[index] ?? 0, length: this.#lengths[index] ?? 0 };
    }
  }
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
 * Finds the answers in the files of all owners. The first one of each request counts, and a line without an end does
 * not: its writer was killed.
 *
 * @param paths - in the order of the owners
 * @param total - number of requests
 * @returns places of the lines of the files that clients get
 */
export async function findAnswers(paths: readonly string[], total: number): Promise<FoundAnswers> {
  const found = new FoundAnswers(paths, total);
  for (const [file, path] of paths.entries()) {
    try {
      for await (const { bytes, offset, length, hasEnd } of readLines(path, Infinity)) {
        const head = /^(\d+) ([oe]) /.exec(bytes?.subarray(0, 32).toString("latin1") ?? "");
        const index = Number(head?.[1]);
        if (!head || !hasEnd || index >= total || found.has(index)) continue;
        const [{ length: skipped }, , kind] = head;
        found.add(index, kind as AnswerKind, file, { offset: offset + skipped, length: length - skipped });
      }
    } catch (error) {
      // An owner that was killed at once has no file.
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
    for (const place of answers.places(kind)) {
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
