import { isUtf8 } from "node:buffer";
import { ReadMeError } from "@readme-moe/core";
import type { ByteSource } from "../files/byte-source.ts";

const FIRST_WINDOW_BYTES = 2 ** 20;
// Vocabularies make headers of up to some 30 MB.
const MAX_ITEM_BYTES = 2 ** 28;
// Values of which each takes some 100 bytes of memory or less, however few it takes in the file.
const MAX_OBJECTS = 2 ** 23;

/** Says that an item reaches beyond the bytes that were read so far. Never leaves this file. */
class WindowEnded extends Error {
  readonly neededBytes: number;
  constructor(neededBytes: number) {
    super();
    this.neededBytes = neededBytes;
  }
}

/**
 * A cursor over the front of a file, of which it holds only a part.
 *
 * No count of the file is trusted: `take` and `expect` compare it with what is left of the file
 * before anything is allocated, and `spend` bounds how many values may be made of it.
 */
export class HeaderWindow {
  readonly #source: ByteSource;
  /** `[#start, #start + #bytes.length)` of the file. */
  #bytes: Buffer = Buffer.alloc(0);
  #view: DataView = new DataView(new ArrayBuffer(0));
  #start = 0;
  #at = 0;
  #objectsLeft = MAX_OBJECTS;
  /** What is being read, for messages. */
  subject = "the header";

  constructor(source: ByteSource) {
    this.#source = source;
  }

  /** From the start of the file, in bytes. */
  get position(): number {
    return this.#start + this.#at;
  }

  /** Runs `read`, which may be run again from its beginning with more of the file at hand. */
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

  /** A 64-bit count, length or offset. */
  size(): number {
    const value = this.#view.getBigUint64(this.#advance(8), true);
    // What is no safe integer is beyond any file's end, and infinity fails every such comparison.
    return value > BigInt(Number.MAX_SAFE_INTEGER) ? Infinity : Number(value);
  }

  string(): string {
    const length = this.size();
    this.spend(1);
    const from = this.#advance(length);
    const bytes = this.#bytes.subarray(from, from + length);
    if (!isUtf8(bytes)) throw this.problem("has a string that is no valid UTF-8");
    return bytes.toString("utf8");
  }

  /** The next bytes, in fresh memory. */
  take(byteLength: number): Uint8Array {
    const from = this.#advance(byteLength);
    return new Uint8Array(this.#bytes.subarray(from, from + byteLength));
  }

  /** @throws {ReadMeError} when `count` items of at least `itemBytes` each cannot be left in the file */
  expect(count: number, itemBytes: number, what: string): void {
    const left = this.#source.size - this.position;
    if (count * itemBytes <= left) return;
    const claim = count === Infinity ? "2^53 or more" : String(count);
    throw this.problem(`claims ${claim} ${what}, but only ${left} bytes are left in the file`);
  }

  /** @throws {ReadMeError} when so many values make no sense for a header, though the file be large enough */
  spend(numObjects: number): void {
    this.#objectsLeft -= numObjects;
    if (this.#objectsLeft < 0) throw this.problem(`has more than ${MAX_OBJECTS} values, which no model's header has`);
  }

  /** The error that the file's content deserves, to be thrown by the caller. */
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

  /** Makes the window `[start, …)`, at least to `neededEnd`, and moves the cursor to its beginning. */
  async #grow(start: number, neededEnd: number): Promise<void> {
    const atLeast = neededEnd - start;
    if (atLeast > MAX_ITEM_BYTES)
      throw this.problem(`has more than ${MAX_ITEM_BYTES} bytes, which no model's header has`);
    const wanted = Math.max(atLeast, FIRST_WINDOW_BYTES, 2 * (this.#start + this.#bytes.byteLength - start));
    const bytes = await this.#source.read(start, Math.min(wanted, this.#source.size - start), this.subject);
    this.#bytes = Buffer.from(bytes.buffer);
    this.#view = new DataView(bytes.buffer);
    this.#start = start;
    this.#at = 0;
  }
}
