import { constants, fstatSync, type Stats } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { ReadMeError } from "@readme-moe/core";
import { allocateFor, fileError } from "./errors.ts";

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

function endsEarly(where: string, offset: number, byteLength: number, size: number): ReadMeError {
  const message = `${where} needs bytes ${offset} to ${offset + byteLength}, but the file ends at byte ${size}`;
  return new ReadMeError("ERR_FILE_CORRUPT", message);
}

function kindOf(stats: Stats): string {
  if (stats.isDirectory()) return "a folder";
  return stats.isFIFO() ? "a named pipe" : "a device or socket";
}
