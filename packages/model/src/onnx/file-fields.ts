// Walks through the fields of a protobuf file that may be larger than memory.

import type { ByteSource } from "../files/byte-source.ts";
import { corrupt } from "../files/errors.ts";
import { fixedBytes, type Message, type ProtoField, readVarint, splitTag, type WireType } from "./proto-fields.ts";

const WINDOW_BYTES = 2 ** 20;
/** A node or a small tensor; a graph within a node may have several megabytes. */
const MAX_TAKEN_BYTES = 2 ** 26;
const MAX_HEAD_BYTES = 20;
// Files of the largest graphs have some 100,000 fields outside of nodes.
const MAX_HEADS = 2 ** 20;
const NOTHING = new Uint8Array(0);

/** Beginning of a field: its content is still to be taken or skipped. */
export interface FieldHead {
  readonly number: number;
  readonly wire: WireType;
  readonly integer: number;
  readonly byteLength: number;
}

/** Cursor over a file's fields, with one window of it in memory. */
export class FileFields {
  readonly path: string;
  readonly size: number;
  readonly #source: ByteSource;
  #window: Uint8Array = NOTHING;
  #start = 0;
  #takenBytes = 0;
  #numHeads = 0;
  /** Offset from the beginning of the file, in bytes. */
  position = 0;

  constructor(source: ByteSource) {
    this.#source = source;
    this.path = source.path;
    this.size = source.size;
  }

  /** Reads the head of the next field of a message that ends at `end`. @throws {ReadMeError} `ERR_FILE_CORRUPT` */
  async head(end: number): Promise<FieldHead> {
    const start = this.position;
    if (++this.#numHeads > MAX_HEADS) throw corrupt(this.path, `has more than ${MAX_HEADS} fields, which no graph has`);
    await this.#load(Math.min(MAX_HEAD_BYTES, end - start));
    const { number, wire } = splitTag(this.path, this.#varint(end), start);
    if (wire === 0) return { number, wire, integer: this.#varint(end), byteLength: 0 };
    const byteLength = fixedBytes(wire) ?? this.#varint(end);
    if (!(byteLength >= 0 && byteLength <= end - this.position)) {
      throw corrupt(this.path, `has a field at byte ${start} that is longer than the part that it belongs to`);
    }
    return { number, wire, integer: 0, byteLength };
  }

  /** Reads a field's content. @throws {ReadMeError} `ERR_FILE_CORRUPT` when it is larger than any graph's */
  async take({ byteLength }: FieldHead): Promise<Message> {
    this.#takenBytes += byteLength;
    if (this.#takenBytes > MAX_TAKEN_BYTES) {
      throw corrupt(this.path, `has a graph of more than ${MAX_TAKEN_BYTES} bytes, which no language model has`);
    }
    await this.#load(byteLength);
    const from = this.position - this.#start;
    const offset = this.position;
    this.position += byteLength;
    return { path: this.path, bytes: this.#window.slice(from, from + byteLength), offset };
  }

  /** Reads a whole field. */
  async field(head: FieldHead): Promise<ProtoField> {
    return { ...head, ...(await this.take(head)) };
  }

  skip({ byteLength }: FieldHead): void {
    this.position += byteLength;
  }

  #varint(end: number): number {
    const limit = end - this.#start;
    const read = readVarint(this.#window.subarray(0, limit), this.position - this.#start);
    if (read === undefined) throw corrupt(this.path, `has a damaged number at byte ${this.position}`);
    this.position += read.byteLength;
    return read.value;
  }

  async #load(byteLength: number): Promise<void> {
    const { position } = this;
    const end = this.#start + this.#window.byteLength;
    if (position >= this.#start && position + byteLength <= end) return;
    const wanted = Math.min(Math.max(byteLength, WINDOW_BYTES), this.size - position);
    this.#window = await this.#source.read(position, wanted, "the graph");
    this.#start = position;
  }
}
