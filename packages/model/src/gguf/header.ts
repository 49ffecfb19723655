import { isUtf8 } from "node:buffer";
import { ReadMeError } from "@readme-moe/core";
import { corrupt, quoted, unsupported } from "../files/errors.ts";
import type { ByteSource } from "../files/read-file.ts";
import { countValues } from "../tensor-store.ts";
import { GGML_TYPES, type GgmlType } from "./ggml-types.ts";

const MAGIC = 0x4655_4747; // "GGUF"
const DEFAULT_ALIGNMENT = 32;
const MAX_DIMENSIONS = 4; // ggml's own limit
// Smallest sizes of a key with its value, and of a tensor, in a file.
const MIN_ENTRY_BYTES = 13;
const MIN_TENSOR_BYTES = 24;
// Files have some 50 entries, and those with a tensor for each expert of a layer some 5,000 tensors.
const MAX_ENTRIES = 65_536;
const MAX_TENSORS = 65_536;

export interface GgufHeader {
  readonly version: number;
  readonly metadata: GgufMetadata;
  /** Places of the entries of `metadata`. */
  readonly entries: ReadonlyMap<string, EntryPlace>;
  /** Tensors by the file's own names, in the file's order. */
  readonly tensors: ReadonlyMap<string, GgufTensorInfo>;
}

/**
 * Reads and checks everything in front of the tensors' data.
 *
 * @throws {ReadMeError} `ERR_FILE_CORRUPT`, or `ERR_MODEL_UNSUPPORTED` for another version or byte order
 */
export async function readGgufHeader(source: ByteSource): Promise<GgufHeader> {
  const window = new HeaderWindow(source);
  const isGguf = source.size >= 4 && (await window.item("the header", () => window.uint32())) === MAGIC;
  if (!isGguf) throw corrupt(source.path, `is not a GGUF file but ${await contentOf(source)}`);
  const version = await window.item("the header", () => readVersion(source.path, window));
  const counts = await window.item("the header", () => {
    const tensors = window.size();
    const entries = window.size();
    window.expect(entries, MIN_ENTRY_BYTES, "metadata entries");
    window.expect(tensors, MIN_TENSOR_BYTES, "tensors");
    if (entries > MAX_ENTRIES) throw window.problem(`has ${entries} metadata entries, more than ${MAX_ENTRIES}`);
    if (tensors > MAX_TENSORS) throw window.problem(`has ${tensors} tensors, more than ${MAX_TENSORS}`);
    return { tensors, entries };
  });
  const { metadata, entries } = await readMetadata(window, counts.entries);
  const alignment = alignmentOf(source.path, metadata);
  const infos = new Map<string, RawTensorInfo>();
  for (let i = 0; i < counts.tensors; i++) {
    const info = await window.item(`tensor ${i} of ${counts.tensors}`, () => readTensorInfo(window));
    if (infos.has(info.name)) throw window.problem(`has the name ${quoted(info.name)}, which another has already`);
    infos.set(info.name, info);
  }
  const dataStart = Math.ceil(window.position / alignment) * alignment;
  return { version, metadata, entries, tensors: layOutTensors(source, infos.values(), dataStart, alignment) };
}

function readVersion(path: string, window: HeaderWindow): number {
  const version = window.uint32();
  if (version === 2 || version === 3) return version;
  const isBigEndian = version !== 0 && (version & 0xffff) === 0;
  const what = isBigEndian ? "a big-endian GGUF file" : `a GGUF file of version ${version}`;
  throw unsupported(path, `is ${what}; only little-endian versions 2 and 3 are supported`);
}

const OLD_FORMAT = "a file of llama.cpp from before GGUF; take a newer file of the model";

/** Files of other kinds under a GGUF file's name, by how they begin. */
const OTHER_CONTENTS: readonly (readonly [begins: string | RegExp, what: string])[] = [
  [
    "version https://git-lfs.github.com/",
    "a pointer of Git LFS: `git lfs pull` in its repository fetches the file that it stands for",
  ],
  [/^\s*<(?:!doctype\s+html|html|head)\b/i, "an HTML page, such as that of a login or an error"],
  ["tjgg", OLD_FORMAT],
  ["lmgg", OLD_FORMAT],
  ["fmgg", OLD_FORMAT],
  ["PK\u0003\u0004", "a ZIP archive"],
  ["\u001f\u008b", "compressed by gzip"],
  [/^.{8}\{"/s, "a safetensors file"],
  [/^\s*[{[]/, "JSON text"],
];
const TEXT = /^[\t\n\r\x20-\x7e\x80-\xff]+$/;
const SNIFFED_BYTES = 512;

/** Says what a file is that does not begin as a GGUF file does. */
async function contentOf(source: ByteSource): Promise<string> {
  if (source.size === 0) return "empty";
  const bytes = Buffer.from(await source.read(0, Math.min(SNIFFED_BYTES, source.size), "the header"));
  // Each byte is a character, without those of a byte order mark.
  const text = bytes.toString("latin1").replace(/^\xef\xbb\xbf/, "");
  const other = OTHER_CONTENTS.find(([begins]) =>
    typeof begins === "string" ? text.startsWith(begins) : begins.test(text),
  );
  if (other !== undefined) return other[1];
  return TEXT.test(text)
    ? "text"
    : `something else, which begins with the bytes ${bytes.subarray(0, 8).toString("hex")}`;
}

/** Bytes of a metadata entry in its file. */
interface EntryPlace {
  readonly offset: number;
  readonly byteLength: number;
}

async function readMetadata(window: HeaderWindow, count: number): Promise<Pick<GgufHeader, "metadata" | "entries">> {
  const metadata = new Map<string, GgufValue>();
  const entries = new Map<string, EntryPlace>();
  for (let i = 0; i < count; i++) {
    const offset = window.position;
    const { key, value } = await window.item(`metadata entry ${i} of ${count}`, () => {
      const name = window.string();
      window.subject = `metadata ${quoted(name)}`;
      return { key: name, value: readValue(window, window.uint32()) };
    });
    if (metadata.has(key)) throw window.problem("is there twice");
    metadata.set(key, value);
    entries.set(key, { offset, byteLength: window.position - offset });
  }
  return { metadata, entries };
}

function alignmentOf(path: string, metadata: GgufMetadata): number {
  const alignment = metadata.get("general.alignment") ?? DEFAULT_ALIGNMENT;
  const isValid = typeof alignment === "number" && Number.isInteger(Math.log2(alignment)) && alignment >= 8;
  if (isValid) return alignment;
  throw corrupt(path, `metadata "general.alignment" is ${quoted(String(alignment))}, not a power of two from 8 up`);
}

function readTensorInfo(window: HeaderWindow): RawTensorInfo {
  const name = window.string();
  window.subject = `tensor ${quoted(name)}`;
  const numDimensions = window.uint32();
  if (numDimensions > MAX_DIMENSIONS)
    throw window.problem(`has ${numDimensions} dimensions, more than ${MAX_DIMENSIONS}`);
  const shape = Array.from({ length: numDimensions }, () => window.size()).toReversed();
  window.spend(4);
  return { name, shape, ggmlType: window.uint32(), offset: window.size() };
}

/** Unchecked description of a tensor: `shape` outermost first, `offset` from the start of the data. */
interface RawTensorInfo {
  readonly name: string;
  readonly shape: readonly number[];
  readonly ggmlType: number;
  readonly offset: number;
}

export interface GgufTensorInfo {
  readonly name: string;
  /** Outermost dimension first. */
  readonly shape: readonly number[];
  readonly ggmlType: number;
  /** `undefined` for an unknown number. */
  readonly type: GgmlType | undefined;
  /** Offset from the start of the file, in bytes. */
  readonly offset: number;
  /** `undefined` when `type` is. */
  readonly byteLength: number | undefined;
}

/** Computes each tensor's place in the file and checks it: whole blocks, aligned, in range, no overlap. */
function layOutTensors(
  source: ByteSource,
  infos: Iterable<RawTensorInfo>,
  dataStart: number,
  alignment: number,
): ReadonlyMap<string, GgufTensorInfo> {
  const tensors = new Map<string, GgufTensorInfo>();
  for (const info of infos) {
    const fault = (problem: string): ReadMeError => corrupt(source.path, `tensor ${quoted(info.name)} ${problem}`);
    const type = GGML_TYPES.get(info.ggmlType);
    const byteLength = type === undefined ? undefined : byteLengthOf(info, type, fault);
    const dataBytes = Math.max(0, source.size - dataStart);
    if (info.offset + (byteLength ?? 0) > dataBytes) {
      const extent =
        byteLength === undefined ? `starts at byte ${info.offset}` : `ends at byte ${info.offset + byteLength}`;
      throw fault(`${extent} of the data, but the file holds ${dataBytes}`);
    }
    if (info.offset % alignment !== 0)
      throw fault(`starts at byte ${info.offset} of the data, which is not aligned to ${alignment}`);
    tensors.set(info.name, { ...info, type, byteLength, offset: dataStart + info.offset });
  }
  checkOverlap(source.path, tensors);
  return tensors;
}

function byteLengthOf(info: RawTensorInfo, type: GgmlType, fault: (problem: string) => ReadMeError): number {
  const rowLength = info.shape.at(-1) ?? 1;
  if (rowLength % type.blockValues !== 0) {
    throw fault(`has rows of ${rowLength} values, which are no whole ${type.name} blocks of ${type.blockValues}`);
  }
  const numValues = info.shape.every(Number.isSafeInteger) ? countValues(info.shape) : undefined;
  if (numValues === undefined) throw fault(`has the impossible shape [${info.shape.join(", ")}]`);
  return (numValues / type.blockValues) * type.blockBytes;
}

function checkOverlap(path: string, tensors: ReadonlyMap<string, GgufTensorInfo>): void {
  const byOffset = [...tensors.values()].toSorted(
    (a, b) => a.offset - b.offset || (a.byteLength ?? 0) - (b.byteLength ?? 0),
  );
  let before: GgufTensorInfo | undefined;
  for (const tensor of byOffset) {
    // A tensor without bytes overlaps nothing.
    if (tensor.byteLength === 0) continue;
    if (before !== undefined && tensor.offset < before.offset + (before.byteLength ?? 0)) {
      throw corrupt(path, `tensor ${quoted(tensor.name)} overlaps tensor ${quoted(before.name)}`);
    }
    before = tensor;
  }
}

/**
 * Value of a GGUF file's metadata. Integers are numbers if they are safe integers, else bigints. Arrays of numbers are
 * typed arrays, of floats for 64-bit integers that are all safe; other arrays are plain ones.
 */
export type GgufValue =
  | number
  | bigint
  | boolean
  | string
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigInt64Array
  | BigUint64Array
  | readonly GgufValue[];

/** Metadata of a GGUF file by key, such as `llama.block_count` or `tokenizer.ggml.tokens`. */
export type GgufMetadata = ReadonlyMap<string, GgufValue>;

const MAX_NESTING = 8;
const UINT8 = 0;
const BOOL = 7;
const STRING = 8;
const ARRAY = 9;
const UINT64 = 10;
const INT64 = 11;

type Numbers = Exclude<GgufValue, number | bigint | boolean | string | readonly GgufValue[]>;

/** Plain number types by their number in a file: bytes of one number, and the constructor of an array. */
const NUMBERS: ReadonlyMap<number, { readonly bytes: number; readonly arrayOf: (bytes: Uint8Array) => Numbers }> =
  new Map([
    [UINT8, { bytes: 1, arrayOf: (bytes: Uint8Array): Numbers => bytes }],
    [1, { bytes: 1, arrayOf: ({ buffer }: Uint8Array): Numbers => new Int8Array(buffer) }],
    [2, { bytes: 2, arrayOf: ({ buffer }: Uint8Array): Numbers => new Uint16Array(buffer) }],
    [3, { bytes: 2, arrayOf: ({ buffer }: Uint8Array): Numbers => new Int16Array(buffer) }],
    [4, { bytes: 4, arrayOf: ({ buffer }: Uint8Array): Numbers => new Uint32Array(buffer) }],
    [5, { bytes: 4, arrayOf: ({ buffer }: Uint8Array): Numbers => new Int32Array(buffer) }],
    [6, { bytes: 4, arrayOf: ({ buffer }: Uint8Array): Numbers => new Float32Array(buffer) }],
    [UINT64, { bytes: 8, arrayOf: ({ buffer }: Uint8Array): Numbers => integersOf(new BigUint64Array(buffer)) }],
    [INT64, { bytes: 8, arrayOf: ({ buffer }: Uint8Array): Numbers => integersOf(new BigInt64Array(buffer)) }],
    [12, { bytes: 8, arrayOf: ({ buffer }: Uint8Array): Numbers => new Float64Array(buffer) }],
  ]);

/** Converts integers to floats if all are safe. */
function integersOf(integers: BigInt64Array | BigUint64Array): Float64Array | BigInt64Array | BigUint64Array {
  const floats = new Float64Array(integers.length);
  for (let i = 0; i < floats.length; i++) {
    const value = Number(integers[i]);
    if (!Number.isSafeInteger(value)) return integers;
    floats[i] = value;
  }
  return floats;
}

function readValue(window: HeaderWindow, type: number): GgufValue {
  const number = NUMBERS.get(type);
  if (number !== undefined) return number.arrayOf(window.take(number.bytes))[0] ?? 0;
  switch (type) {
    case BOOL:
      return readBool(window);
    case STRING:
      return window.string();
    case ARRAY:
      return readArray(window, MAX_NESTING);
    default:
      throw window.problem(`has a value of the unknown type ${type}`);
  }
}

function readArray(window: HeaderWindow, nestingLeft: number): GgufValue {
  if (nestingLeft === 0) throw window.problem(`nests arrays deeper than ${MAX_NESTING} levels`);
  const type = window.uint32();
  const length = window.size();
  const number = NUMBERS.get(type);
  if (number !== undefined) {
    window.expect(length, number.bytes, "numbers");
    window.spend(1);
    return number.arrayOf(window.take(length * number.bytes));
  }
  switch (type) {
    case BOOL:
      window.expect(length, 1, "booleans");
      return readElements(window, length, () => readBool(window));
    case STRING:
      // Each string counts itself.
      window.expect(length, 8, "strings");
      window.holdStrings(length);
      return readElements(window, length, () => window.string(), 0);
    case ARRAY:
      window.expect(length, 12, "arrays");
      return readElements(window, length, () => readArray(window, nestingLeft - 1), 4);
    default:
      throw window.problem(`has an array of the unknown type ${type}`);
  }
}

function readElements(
  window: HeaderWindow,
  length: number,
  read: () => GgufValue,
  objectsEach = 1,
): readonly GgufValue[] {
  window.spend(length * objectsEach);
  const elements: GgufValue[] = [];
  for (let i = 0; i < length; i++) elements.push(read());
  return elements;
}

function readBool(window: HeaderWindow): boolean {
  const byte = window.uint8();
  if (byte > 1) throw window.problem(`has a boolean that is ${byte}`);
  return byte === 1;
}

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
class HeaderWindow {
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
    return corrupt(this.#source.path, `${this.subject} ${message}`);
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
