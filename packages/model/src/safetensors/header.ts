import { ReadMeError } from "@readme-moe/core";
import { corrupt, quoted } from "../files/errors.ts";
import type { ByteSource } from "../files/read-file.ts";
import { type BlockType, countValues, type StoredType, type TensorInfo } from "../tensor-store.ts";

/** Element types of safetensors files that this project reads and writes. */
export type SafetensorsType = Exclude<StoredType, BlockType>;

/** Bytes per element. */
export const SAFETENSORS_TYPE_BYTES: ReadonlyMap<string, number> = new Map<SafetensorsType, number>([
  ["F64", 8],
  ["F32", 4],
  ["F16", 2],
  ["BF16", 2],
  ["I64", 8],
  ["I32", 4],
  ["I16", 2],
  ["I8", 1],
  ["U8", 1],
  ["BOOL", 1],
]);

/** Types of the format that this project does not read. */
const UNREAD_TYPES: ReadonlySet<string> = new Set(
  "U64 U32 U16 C64 F8_E4M3 F8_E5M2 F8_E4M3FNUZ F8_E5M2FNUZ F8_E8M0 F6_E2M3 F6_E3M2 F4".split(" "),
);

/** Key of the file's metadata among the tensors of the header, which is one JSON object. */
export const METADATA_KEY = "__metadata__";

/** Largest JSON text. The format allows 100 MB; 150,000 tensors need 20. */
export const MAX_HEADER_BYTES = 33_554_432;
const MAX_DIMENSIONS = 16;

export interface SafetensorsEntry extends TensorInfo {
  readonly type: SafetensorsType;
  /** Offset from the start of the file, in bytes. */
  readonly offset: number;
}

/** The metadata of a file, such as `{ format: "pt" }`. */
export type SafetensorsMetadata = ReadonlyMap<string, string>;

export interface SafetensorsHeader {
  /** Tensors in the header's order. */
  readonly entries: ReadonlyMap<string, SafetensorsEntry>;
  readonly metadata: SafetensorsMetadata;
}

export function isSafetensorsType(name: string): name is SafetensorsType {
  return SAFETENSORS_TYPE_BYTES.has(name);
}

/**
 * Reads and checks the header: 8 bytes of length, the JSON text, then data that the tensors cover exactly, without
 * overlap or hole.
 * @throws {ReadMeError} `ERR_FILE_CORRUPT`, or `ERR_MODEL_UNSUPPORTED` for an element type that is not read here
 */
export async function readSafetensorsHeader(
  source: ByteSource,
  maxBytes: number = MAX_HEADER_BYTES,
): Promise<SafetensorsHeader> {
  const text = await readHeaderText(source, maxBytes);
  const dataStart = 8 + text.byteLength;
  const entries = new Map<string, SafetensorsEntry>();
  const metadata = new Map<string, string>();
  const whole = `${source.path}: the header`;
  const reader = new JsonReader(text.json, whole);
  reader.object((name) => {
    reader.subject = `${source.path}: ${name === METADATA_KEY ? `\`${METADATA_KEY}\`` : `tensor ${quoted(name)}`}`;
    if (name === METADATA_KEY) reader.object((key) => metadata.set(key, reader.string()));
    else entries.set(name, readEntry(reader, name, dataStart, source.size));
    reader.subject = whole;
  });
  reader.end();
  checkLayout(source, dataStart, entries);
  return { entries, metadata };
}

async function readHeaderText(
  source: ByteSource,
  maxBytes: number,
): Promise<{ readonly json: string; readonly byteLength: number }> {
  const { path, size } = source;
  const prefix = await source.read(0, 8, "the header's length");
  const length = new DataView(prefix.buffer).getBigUint64(0, true);
  if (length > BigInt(size - 8)) {
    const message = `its header says ${length} bytes, the file has ${size}`;
    throw corrupt(path, `is no whole safetensors file: ${message}`);
  }
  const byteLength = Number(length);
  if (byteLength > maxBytes) {
    throw corrupt(path, `the header has ${byteLength} bytes, more than the ${maxBytes} that are read`);
  }
  const bytes = await source.read(8, byteLength, "the header");
  try {
    return { json: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes), byteLength };
  } catch (cause) {
    throw corrupt(path, "the header is no valid UTF-8", { cause });
  }
}

function readEntry(reader: JsonReader, name: string, dataStart: number, fileSize: number): SafetensorsEntry {
  let type: string | undefined;
  let shape: number[] | undefined;
  let offsets: number[] | undefined;
  reader.object((key) => {
    if (key === "dtype") type = reader.string();
    else if (key === "shape") shape = readIntegers(reader);
    else if (key === "data_offsets") offsets = readIntegers(reader);
    else reader.skip();
  });
  if (type === undefined || shape === undefined || offsets === undefined) {
    throw reader.problem("lacks one of `dtype`, `shape` and `data_offsets`");
  }
  if (!isSafetensorsType(type)) {
    if (!UNREAD_TYPES.has(type)) throw reader.problem(`has the unknown type ${quoted(type)}`);
    throw new ReadMeError("ERR_MODEL_UNSUPPORTED", `${reader.subject} has the type ${type}, which is not supported`);
  }
  const [begin, end] = offsets;
  if (begin === undefined || end === undefined || offsets.length !== 2 || begin > end) {
    throw reader.problem("has `data_offsets` that are not a begin and an end");
  }
  const dataBytes = fileSize - dataStart;
  if (end > dataBytes) throw reader.problem(`ends at byte ${end} of the data, but the file holds ${dataBytes}`);
  const values = countValues(shape);
  const byteLength = values === undefined ? Infinity : values * (SAFETENSORS_TYPE_BYTES.get(type) ?? 0);
  if (byteLength !== end - begin) {
    throw reader.problem(`has ${end - begin} bytes, but ${type} of shape [${shape.slice(0, 8).join(", ")}] does not`);
  }
  return { name, type, shape, byteLength, offset: dataStart + begin };
}

function readIntegers(reader: JsonReader): number[] {
  const integers: number[] = [];
  reader.array(() => {
    if (integers.push(reader.integer()) > MAX_DIMENSIONS)
      throw reader.problem("has a shape or offsets of many numbers");
  });
  return integers;
}

function checkLayout(source: ByteSource, dataStart: number, entries: ReadonlyMap<string, SafetensorsEntry>): void {
  // Empty tensors are between others, so they come before a tensor that starts at the same offset.
  const byOffset = [...entries.values()].toSorted((a, b) => a.offset - b.offset || a.byteLength - b.byteLength);
  let position = dataStart;
  let before: SafetensorsEntry | undefined;
  for (const entry of byOffset) {
    if (entry.offset !== position) {
      const neighbour = before === undefined ? "the start of the data" : `tensor ${quoted(before.name)}`;
      const fault = entry.offset < position ? "overlaps" : "leaves a gap after";
      throw corrupt(source.path, `tensor ${quoted(entry.name)} ${fault} ${neighbour}`);
    }
    position += entry.byteLength;
    before = entry;
  }
  if (position !== source.size) {
    throw corrupt(source.path, `has ${source.size - position} bytes after its last tensor`);
  }
}

// Reads JSON one value at a time, so that a hostile header is refused at its first fault. JSON.parse accepts duplicate
// keys, and builds everything that a file holds, at any depth, before it can be checked.

const MAX_DEPTH = 32;
// A header has some 12 keys and values for each tensor, and the largest checkpoints have some 150,000 tensors.
const MAX_VALUES = 2 ** 21;
const MAX_KEYS = 2 ** 18;
const WHITESPACE = /[ \t\n\r]*/y;
/** A string that stands for itself; longer ones would overflow the stack of the expression. */
const PLAIN = /^[ !#-[\]-~]{0,500}$/;
const INTEGER = /(?:0|[1-9]\d*)(?![\d.eE])/y;
const OTHER_SCALAR = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y;

/** A cursor over JSON text. Every method reads one value at the cursor; none accepts a duplicate key. */
export class JsonReader {
  /** The file and the part of it that is being read, for messages. */
  subject: string;
  readonly #text: string;
  #at = 0;
  #depth = 0;
  #valuesLeft = MAX_VALUES;

  constructor(text: string, subject: string) {
    this.#text = text;
    this.subject = subject;
  }

  /** Reads an object; `member` has to read the value of its key. */
  object(member: (key: string) => void): void {
    const keys = new Set<string>();
    this.#list("{", "}", () => {
      const key = this.string();
      if (keys.has(key)) throw this.problem(`has the key ${quoted(key)} twice`);
      if (keys.add(key).size > MAX_KEYS) throw this.problem(`has more than ${MAX_KEYS} keys, which no checkpoint has`);
      if (!this.#take(":")) throw this.#expected("`:`");
      member(key);
    });
  }

  /** Reads an array; `element` has to read one element. */
  array(element: () => void): void {
    this.#list("[", "]", element);
  }

  string(): string {
    const start = this.#at + (this.#match(WHITESPACE)?.length ?? 0);
    const end = endOfString(this.#text, start);
    if (end === undefined) throw this.#expected("a string");
    try {
      const text = this.#text.slice(start + 1, end - 1);
      const value = PLAIN.test(text) ? text : String(JSON.parse(`"${text}"`));
      this.#at = end;
      return value;
    } catch {
      throw this.#expected("a string without unknown escapes and control characters");
    }
  }

  /** Reads an integer from 0 to 2^53 - 1, written without fraction or exponent. */
  integer(): number {
    const literal = this.#match(INTEGER);
    const value = Number(literal ?? NaN);
    if (!Number.isSafeInteger(value)) throw this.#expected("an integer from 0 to 2^53 - 1");
    return value;
  }

  /** Reads a value of any kind and drops it. */
  skip(): void {
    this.#match(WHITESPACE);
    const next = this.#text[this.#at];
    if (next === "{") this.object(() => this.skip());
    else if (next === "[") this.array(() => this.skip());
    else if (next === '"') this.string();
    else if (this.#match(OTHER_SCALAR) === undefined) throw this.#expected("a value");
  }

  /** Checks that only whitespace follows. @throws {ReadMeError} `ERR_FILE_CORRUPT` */
  end(): void {
    this.#match(WHITESPACE);
    if (this.#at !== this.#text.length) throw this.#expected("the end");
  }

  /** Makes the error for a fault of the file, to be thrown by the caller. */
  problem(message: string): ReadMeError {
    return new ReadMeError("ERR_FILE_CORRUPT", `${this.subject} ${message}`);
  }

  #list(open: string, close: string, item: () => void): void {
    if (!this.#take(open)) throw this.#expected(`\`${open}\``);
    if (++this.#depth > MAX_DEPTH) throw this.problem(`nests deeper than ${MAX_DEPTH} levels`);
    if (!this.#take(close)) {
      do {
        if (--this.#valuesLeft < 0) throw this.problem(`has more than ${MAX_VALUES} values, which no checkpoint has`);
        item();
      } while (this.#take(","));
      if (!this.#take(close)) throw this.#expected(`\`,\` or \`${close}\``);
    }
    this.#depth -= 1;
  }

  #take(character: string): boolean {
    this.#match(WHITESPACE);
    if (this.#text[this.#at] !== character) return false;
    this.#at += 1;
    return true;
  }

  #match(pattern: RegExp): string | undefined {
    if (pattern !== WHITESPACE) this.#match(WHITESPACE);
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text)?.[0];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  #expected(what: string): ReadMeError {
    return this.problem(`is no valid JSON: expected ${what} at character ${this.#at}`);
  }
}

/** Finds the end of a string without a regular expression, which would overflow its stack on a long string. */
function endOfString(text: string, start: number): number | undefined {
  if (text[start] !== '"') return undefined;
  for (let at = start + 1; at < text.length; at++) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === '"') return at + 1;
  }
  return undefined;
}
