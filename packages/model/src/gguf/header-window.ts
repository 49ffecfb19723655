import { isUtf8 } from "node:buffer";
import { ReadMeError } from "@readme-moe/core";
import type { ByteSource } from "../files/byte-source.ts";

const FIRST_WINDOW_BYTES = 2 ** 20;
// Headers with the largest vocabularies have some 15 MB. Reading takes up to five times as much memory.
const MAX_HEADER_BYTES = 2 ** 25;
// Each value takes up to some 100 bytes of memory, even if it takes fewer in the file. The largest vocabularies have
// 262,144 tokens and 514,906 merges.
const MAX_OBJECTS = 2 ** 21;

/** Signals that an item reaches beyond the bytes read so far. It is only thrown within this file. */
class WindowEnded extends Error {
  readonly neededBytes: number;
  constructor(neededBytes: number) {
    super();
    this.neededBytes = neededBytes;
  }
}

/**
 * Cursor over the front of a file, with only a part of it in memory.
 *
 * No count in the file is trusted: `take` and `expect` compare it with the rest of the file before anything is
 * allocated, and `spend` bounds the number of values.
 */
export class HeaderWindow {
  readonly #source: ByteSource;
  /** `[#start, #start + #bytes.length)` of the file. */
  #bytes: Buffer = Buffer.alloc(0);
  #view: DataView = new DataView(new ArrayBuffer(0));
  #start = 0;
  #at = 0;
  #objectsLeft = MAX_OBJECTS;
  /** Name of the part that is being read, for messages. */
  subject = "the header";

  constructor(source: ByteSource) {
    this.#source = source;
  }

  /** Offset from the start of the file, in bytes. */
  get position(): number {
    return this.#start + this.#at;
  }

  /** Runs `read`, and repeats it from its beginning when more of the file had to be read. */
  async item<Item>(subject: string, read: () => Item): Promise<Item> {
    this.subject = subject;
    const { position } = this;
    const objectsLeft = this.#objectsLeft;
    for (;;) {
      try {
        return read();
      } catch (error) {
        if (!(error instanceof WindowEnded)) throw error;
        await this.#grow(position, error.neededBytes);
        this.#objectsLeft = objectsLeft;
      }
    }
  }

  uint8(): number {
    return this.#view.getUint8(this.#advance(1));
  }

  uint32(): number {
    return this.#view.getUint32(this.#advance(4), true);
  }

  /** Reads a 64-bit count, length or offset. */
  size(): number {
    const at = this.#advance(8);
    const high = this.#view.getUint32(at + 4, true);
    // An unsafe integer is beyond any file's end; infinity fails every comparison with it.
    return high < 2 ** 21 ? high * 2 ** 32 + this.#view.getUint32(at, true) : Infinity;
  }

  string(): string {
    const length = this.size();
    this.spend(1);
    const from = this.#advance(length);
    const to = from + length;
    let at = from;
    while (at < to && this.#bytes[at]! < 0x80) at++;
    if (at < to && !isUtf8(this.#bytes.subarray(at, to))) throw this.problem("has a string that is no valid UTF-8");
    return this.#bytes.toString(at < to ? "utf8" : "latin1", from, to);
  }

  /** Reads more of the file unless it has `count` strings here: reading more repeats the item, and they take long. */
  holdStrings(count: number): void {
    const [view, length] = [this.#view, this.#bytes.byteLength];
    let at = this.#at;
    for (let left = count; left > 0; left--) {
      if (at + 8 <= length) at += 8 + view.getUint32(at, true) + 2 ** 32 * view.getUint32(at + 4, true);
      else at += 8;
      // Strings beyond the file's end are refused when they are read.
      if (this.#start + at > this.#source.size) return;
      if (at > length) throw new WindowEnded(this.#start + at);
    }
  }

  /** Copies the next bytes. */
  take(byteLength: number): Uint8Array {
    const from = this.#advance(byteLength);
    return new Uint8Array(this.#bytes.subarray(from, from + byteLength));
  }

  /** Checks a count. @throws {ReadMeError} when `count` items of at least `itemBytes` are not left in the file */
  expect(count: number, itemBytes: number, what: string): void {
    const left = this.#source.size - this.position;
    if (count * itemBytes <= left) return;
    const claim = count === Infinity ? "2^53 or more" : String(count);
    throw this.problem(`claims ${claim} ${what}, but only ${left} bytes are left in the file`);
  }

  /** Counts values. @throws {ReadMeError} when there are more than any header has, even if the file is large enough */
  spend(numObjects: number): void {
    this.#objectsLeft -= numObjects;
    if (this.#objectsLeft < 0) throw this.problem(`has more than ${MAX_OBJECTS} values, which no model's header has`);
  }

  /** Makes an error about the file's content, which the caller throws. */
  problem(message: string): ReadMeError {
    return new ReadMeError("ERR_FILE_CORRUPT", `${this.#source.path}: ${this.subject} ${message}`);
  }

  #advance(byteLength: number): number {
    this.expect(byteLength, 1, "bytes");
    const from = this.#at;
    if (from + byteLength > this.#bytes.byteLength) throw new WindowEnded(this.position + byteLength);
    this.#at += byteLength;
    return from;
  }

  /** Reads the window `[start, …)`, at least to `neededEnd`, and moves the cursor to its beginning. */
  async #grow(start: number, neededEnd: number): Promise<void> {
    if (neededEnd > MAX_HEADER_BYTES)
      throw this.problem(`has more than ${MAX_HEADER_BYTES} bytes before its end, which no model's header has`);
    const wanted = Math.max(neededEnd - start, FIRST_WINDOW_BYTES, 2 * (this.#start + this.#bytes.byteLength - start));
    const end = Math.min(start + wanted, MAX_HEADER_BYTES, this.#source.size);
    // Two windows are never in memory together.
    this.#bytes = Buffer.alloc(0);
    this.#view = new DataView(this.#bytes.buffer, 0, 0);
    const bytes = await this.#source.read(start, end - start, this.subject);
    this.#bytes = Buffer.from(bytes.buffer);
    this.#view = new DataView(bytes.buffer);
    this.#start = start;
    this.#at = 0;
  }
}
