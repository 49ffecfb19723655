import { constants, fstatSync, type Stats } from "node:fs";
import { type FileHandle, open, stat } from "node:fs/promises";
import { describeValue, isRecord, ReadMeError } from "@readme-moe/core";
import { allocateFor, corrupt, fileError } from "./errors.ts";

// One read of the system moves at most 2 GiB - 4 KiB, and libuv refuses more than an int32.
const MAX_PIECE_BYTES = 2 ** 30;

/** A file that is read by byte range. Reads are positional, so any number of them may run at once. */
export class ByteSource {
  readonly path: string;
  /** Length in bytes when the file was opened. */
  readonly size: number;
  readonly #maxPieceBytes: number;
  readonly #changedMs: number;
  /** Uses of the file by native code. */
  readonly #lent = new Set<Promise<void>>();
  #handle: FileHandle | undefined;

  private constructor(path: string, handle: FileHandle, { size, mtimeMs }: Stats, maxPieceBytes: number) {
    this.path = path;
    this.size = size;
    this.#changedMs = mtimeMs;
    this.#handle = handle;
    this.#maxPieceBytes = maxPieceBytes;
  }

  /**
   * @param options.maxPieceBytes - bytes that one read of the system asks for; smaller in tests. @default 1 GiB
   * @throws {ReadMeError} `ERR_FILE_NOT_FOUND`; `ERR_FILE_UNREADABLE` for anything but a regular file
   */
  static async open(path: string, options: { readonly maxPieceBytes?: number } = {}): Promise<ByteSource> {
    const { maxPieceBytes = MAX_PIECE_BYTES } = options;
    let handle: FileHandle;
    try {
      // Without O_NONBLOCK, opening a FIFO waits for a writer that may never come. Regular files ignore it.
      handle = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
    } catch (error) {
      throw fileError(path, error);
    }
    try {
      const stats = await handle.stat();
      if (!stats.isFile())
        throw new ReadMeError("ERR_FILE_UNREADABLE", `${path}: is ${kindOf(stats)}, not a regular file`);
      return new ByteSource(path, handle, stats, maxPieceBytes);
    } catch (error) {
      await handle.close();
      throw error instanceof ReadMeError ? error : fileError(path, error);
    }
  }

  /**
   * Reads exactly `[offset, offset + byteLength)` into a new ArrayBuffer.
   * @param subject - name of the range in messages, such as `tensor "x"`
   * @throws {ReadMeError} `ERR_FILE_CORRUPT` when the file does not hold the range, before allocating
   *   anything; `ERR_DISPOSED` after `close`
   */
  async read(offset: number, byteLength: number, subject?: string): Promise<Uint8Array> {
    const where = subject === undefined ? this.path : `${this.path}: ${subject}`;
    const handle = this.#handle;
    if (handle === undefined) throw new ReadMeError("ERR_DISPOSED", `${where} was read after the file was closed`);
    if (offset + byteLength > this.size) throw endsEarly(where, offset, byteLength, this.size);
    const bytes = allocateFor(where, () => new Uint8Array(byteLength));
    let done = 0;
    while (done < byteLength) {
      const piece = Math.min(byteLength - done, this.#maxPieceBytes);
      const { bytesRead } = await handle.read(bytes, done, piece, offset + done).catch((error: unknown) => {
        throw fileError(this.path, error);
      });
      // The file was cut after it was opened.
      if (bytesRead === 0) throw endsEarly(where, offset, byteLength, offset + done);
      done += bytesRead;
    }
    return bytes;
  }

  /**
   * Lends the file to native code, and keeps it open until `use` settles.
   *
   * @param use - gets the number of the open file
   * @throws {ReadMeError} `ERR_FILE_CORRUPT` when the file has changed; `ERR_DISPOSED` after `close`
   */
  async lend<Result>(use: (descriptor: number) => Promise<Result>): Promise<Result> {
    const handle = this.#handle;
    if (handle === undefined) throw new ReadMeError("ERR_DISPOSED", `${this.path} was read after the file was closed`);
    const { size, mtimeMs } = fstatSync(handle.fd);
    if (size !== this.size || mtimeMs !== this.#changedMs)
      throw new ReadMeError("ERR_FILE_CORRUPT", `${this.path} was changed since it was opened`);
    const result = use(handle.fd);
    const ended = result.then(nothing, nothing).finally(() => this.#lent.delete(ended));
    this.#lent.add(ended);
    return result;
  }

  /** Closes the file; further calls do nothing. Running reads may fail. */
  async close(): Promise<void> {
    const handle = this.#handle;
    this.#handle = undefined;
    await Promise.all(this.#lent);
    await handle?.close();
  }
}

function nothing(): void {}

/** Something that stays open until it is closed. */
interface Closable {
  close(): Promise<unknown>;
}

/** Does the rest of an opening. Closes what is open when that fails. */
export async function orClose<Result>(opened: Closable, rest: () => Result | Promise<Result>): Promise<Result> {
  try {
    return await rest();
  } catch (error) {
    await opened.close();
    throw error;
  }
}

/** Makes one of several that are closed together, of those that there are then. */
export function together(opened: Iterable<Closable | undefined>): { close(): Promise<void> } {
  return { close: async () => void (await Promise.all(Array.from(opened, async (one) => one?.close()))) };
}

/** Tells whether there is a file or a folder. */
export function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/** Returns a file's size in bytes, links followed, or `undefined` when there is no such file. */
export async function fileSize(path: string): Promise<number | undefined> {
  const state = await stat(path).catch(() => undefined);
  return state?.isFile() ? state.size : undefined;
}

function endsEarly(where: string, offset: number, byteLength: number, size: number): ReadMeError {
  const message = `${where} needs bytes ${offset} to ${offset + byteLength}, but the file ends at byte ${size}`;
  return new ReadMeError("ERR_FILE_CORRUPT", message);
}

function kindOf(stats: Stats): string {
  if (stats.isDirectory()) return "a folder";
  return stats.isFIFO() ? "a named pipe" : "a device or socket";
}

/** An object of a JSON file, whose fields are not checked yet. */
export type JsonObject = Readonly<Record<string, unknown>>;

export function isList(value: unknown): value is readonly unknown[] {
  return Array.isArray(value);
}

/** @throws {ReadMeError} `ERR_FILE_CORRUPT` naming `path` and `where` when `value` is no JSON object */
export function expectObject(path: string, where: string, value: unknown): JsonObject {
  if (isRecord(value)) return value;
  throw corrupt(path, `expected ${where} to be an object, got ${describeValue(value)}`);
}

/**
 * Reads a whole text file; gives `undefined` when there is none.
 * @throws {ReadMeError} `ERR_FILE_CORRUPT` when it is larger than `maxBytes` (before reading it) or no UTF-8
 */
export async function readTextFile(path: string, maxBytes: number): Promise<string | undefined> {
  const source = await openIfPresent(path);
  if (source === undefined) return undefined;
  try {
    if (source.size > maxBytes) throw corrupt(path, `has ${source.size} bytes, expected at most ${maxBytes}`);
    return decodeUtf8(path, await source.read(0, source.size));
  } finally {
    await source.close();
  }
}

/** Reads a JSON file that holds one object; gives `undefined` when there is none. @throws as `readTextFile` */
export async function readJsonFile(path: string, maxBytes: number): Promise<JsonObject | undefined> {
  const value = await readJsonValue(path, maxBytes);
  return value === undefined ? undefined : expectObject(path, "the file", value);
}

/** Reads a JSON file; gives `undefined` when there is none. @throws as `readTextFile` and `parseJson` */
export async function readJsonValue(path: string, maxBytes: number): Promise<unknown> {
  const text = await readTextFile(path, maxBytes);
  return text === undefined ? undefined : parseJson(path, text);
}

/**
 * Parses JSON.
 * @param hasUniqueKeys - whether an object that has a key twice is refused
 * @throws {ReadMeError} `ERR_FILE_CORRUPT`, also for more values or levels than any model's file has
 */
export function parseJson(subject: string, text: string, hasUniqueKeys = false): unknown {
  const numKeys = checkExtent(subject, text);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw corrupt(subject, "is not valid JSON", { cause });
  }
  if (hasUniqueKeys && countKeys(value) !== numKeys) throw corrupt(subject, "has a key twice");
  return value;
}

function countKeys(value: unknown): number {
  if (typeof value !== "object" || value === null) return 0;
  const inner = Object.values(value).reduce((sum: number, one) => sum + countKeys(one), 0);
  return Array.isArray(value) ? inner : inner + Object.keys(value).length;
}

// The largest tokenizer.json has 262,144 tokens and 514,906 pairs of texts: some 2,100,000 values.
const MAX_VALUES = 2 ** 22;
const MAX_LEVELS = 100;

/**
 * Bounds the memory of parsed JSON, which takes up to 40 bytes for each value of two characters.
 * @returns the number of keys of all objects
 */
function checkExtent(path: string, text: string): number {
  let [values, level, keys] = [0, 0, 0];
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === QUOTE) {
      at = endOfString(text, at);
    } else if (code === COMMA) {
      if (++values > MAX_VALUES) throw corrupt(path, `has more than ${MAX_VALUES} values`);
    } else if (code === OPEN_LIST || code === OPEN_OBJECT) {
      if (++level > MAX_LEVELS) throw corrupt(path, `nests deeper than ${MAX_LEVELS} levels`);
      values++;
    } else if (code === CLOSE_LIST || code === CLOSE_OBJECT) level--;
    else if (code === COLON) keys++;
  }
  return keys;
}

const [QUOTE, BACKSLASH, COMMA, COLON] = [34, 92, 44, 58];
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [91, 93, 123, 125];

function endOfString(text: string, start: number): number {
  let at = start + 1;
  for (; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === BACKSLASH) at++;
    else if (code === QUOTE) break;
  }
  return at;
}

async function openIfPresent(path: string): Promise<ByteSource | undefined> {
  try {
    return await ByteSource.open(path);
  } catch (error) {
    if (error instanceof ReadMeError && error.code === "ERR_FILE_NOT_FOUND") return undefined;
    throw error;
  }
}

function decodeUtf8(path: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw corrupt(path, "is not UTF-8 text", { cause });
  }
}
