// The wire format of protobuf, as far as ONNX uses it. Lengths come from files, so each is checked before it is used.

import { corrupt, quoted, unsupported } from "../files/errors.ts";
import { decodeBf16, decodeF16, decodeF32, decodeF64 } from "../files/floats.ts";
import { countValues } from "../tensor-store.ts";

/** Wire types: a varint, 8 bytes, bytes of a stated length, 4 bytes. */
type WireType = 0 | 1 | 2 | 5;

/** One field of a message. */
export interface ProtoField {
  readonly number: number;
  readonly wire: WireType;
  /** Value of a varint, as a signed 64-bit integer; inexact beyond 2^53. */
  readonly integer: number;
  /** Content, except of a varint. */
  readonly bytes: Uint8Array;
  /** Offset of the content in the file. */
  readonly offset: number;
}

const MAX_VARINT_BYTES = 10;
const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Place of a message: its bytes, and where they are in the file. */
export interface Message {
  readonly path: string;
  readonly bytes: Uint8Array;
  readonly offset: number;
}

/** Beginning of a field: its content is still to be read. */
export interface FieldHead extends Omit<ProtoField, "bytes" | "offset"> {
  readonly byteLength: number;
  /** Index of the content in the message's bytes. */
  readonly start: number;
}

/**
 * Reads the head of the field at `at`, in a message of which `bytes` may be a part.
 * @param end - index at which the message ends
 * @throws {ReadMeError} `ERR_FILE_CORRUPT` when the field leaves the message
 */
export function fieldHead({ path, bytes, offset }: Message, at: number, end: number): FieldHead {
  const own = bytes.subarray(0, end);
  let start = at;
  const varint = (): number => {
    const read = readVarint(own, start);
    if (read === undefined) throw corrupt(path, `has a damaged number at byte ${offset + start}`);
    start += read.byteLength;
    return read.value;
  };
  const tag = varint();
  const number = Math.floor(tag / 8);
  const wire = tag & 7;
  if (number < 1 || number >= 2 ** 29 || !isWireType(wire)) {
    throw corrupt(path, `has no field at byte ${offset + at}; it is no ONNX model`);
  }
  if (wire === 0) return { number, wire, integer: varint(), byteLength: 0, start };
  const byteLength = wire === 1 ? 8 : wire === 5 ? 4 : varint();
  if (byteLength >= 0 && byteLength <= end - start) return { number, wire, integer: 0, byteLength, start };
  throw corrupt(path, `has a field at byte ${offset + at} that is longer than the part that it belongs to`);
}

/** Lists the fields of a message. @throws {ReadMeError} as `fieldHead` */
function* protoFields(message: Message): Generator<ProtoField> {
  const { bytes, offset } = message;
  for (let at = 0; at < bytes.byteLength;) {
    const { start, byteLength, ...head } = fieldHead(message, at, bytes.byteLength);
    at = start + byteLength;
    yield { ...head, bytes: bytes.subarray(start, at), offset: offset + start };
  }
}

/** Reads a varint; `undefined` when it does not end within `bytes` or is longer than 64 bits. */
function readVarint(
  bytes: Uint8Array,
  from: number,
): { readonly value: number; readonly byteLength: number } | undefined {
  let low = 0;
  let high = 0;
  for (let i = 0; i < MAX_VARINT_BYTES; i++) {
    const byte = bytes[from + i];
    if (byte === undefined) return undefined;
    const bits = byte & 0x7f;
    if (i < 4) low += bits * 2 ** (7 * i);
    else if (i === 4) {
      low += (bits & 15) * 2 ** 28;
      high += bits >>> 4;
    } else high += bits * 2 ** (7 * i - 32);
    if (byte < 0x80) return { value: signed(high % 2 ** 32, low), byteLength: i + 1 };
  }
  return undefined;
}

function signed(high: number, low: number): number {
  if (high < 2 ** 31) return high * 2 ** 32 + low;
  return (high - 2 ** 32) * 2 ** 32 + low;
}

function isWireType(value: number): value is WireType {
  return value === 0 || value === 1 || value === 2 || value === 5;
}

/** Decodes the varints of a packed field. @throws {ReadMeError} `ERR_FILE_CORRUPT` when one is damaged */
function packedIntegers(path: string, { wire, integer, bytes, offset }: ProtoField): readonly number[] {
  if (wire === 0) return [integer];
  const integers: number[] = [];
  for (let at = 0; at < bytes.byteLength;) {
    const read = readVarint(bytes, at);
    if (read === undefined) throw corrupt(path, `has a damaged number at byte ${offset + at}`);
    integers.push(read.value);
    at += read.byteLength;
  }
  return integers;
}

/** Decodes a text. @throws {ReadMeError} `ERR_FILE_CORRUPT` when it is no UTF-8 */
function textOf(path: string, { bytes, offset }: ProtoField): string {
  try {
    return UTF8.decode(bytes);
  } catch (cause) {
    throw corrupt(path, `has a name at byte ${offset} that is no UTF-8`, { cause });
  }
}

// Constants of an ONNX file: TensorProto messages, whose values stay in the file.

/** Element types that weights and the graph's own numbers have. */
export type OnnxType = "F32" | "F16" | "BF16" | "F64" | "U8" | "I8" | "U4" | "I4" | "I16" | "I32" | "I64" | "BOOL";

// Numbers of TensorProto.DataType.
const TYPES: ReadonlyMap<number, OnnxType> = new Map([
  [1, "F32"],
  [2, "U8"],
  [3, "I8"],
  [5, "I16"],
  [6, "I32"],
  [7, "I64"],
  [9, "BOOL"],
  [10, "F16"],
  [11, "F64"],
  [16, "BF16"],
  [21, "U4"],
  [22, "I4"],
]);

const BITS: Readonly<Record<OnnxType, number>> = {
  F32: 32,
  F16: 16,
  BF16: 16,
  F64: 64,
  U8: 8,
  I8: 8,
  U4: 4,
  I4: 4,
  I16: 16,
  I32: 32,
  I64: 64,
  BOOL: 8,
};

export function bitsOf(type: OnnxType): number {
  return BITS[type];
}

/** Converts values to float32; `undefined` for integers. */
export function floatsOf(type: OnnxType | undefined, bytes: Uint8Array): Float32Array | undefined {
  if (type === "F32") return decodeF32(bytes);
  if (type === "F16") return decodeF16(bytes);
  if (type === "BF16") return decodeBf16(bytes);
  return type === "F64" ? decodeF64(bytes) : undefined;
}

type TensorData =
  /** Bytes in the file `location` beside the graph, or in the graph's own file. */
  | { readonly location: string | undefined; readonly offset: number; readonly byteLength: number }
  /** Small values, and those that the file has in another form. */
  | { readonly bytes: Uint8Array };

/** A constant of a graph. */
export interface StoredTensor {
  readonly name: string;
  /** `undefined` for types that weights do not have, such as strings. */
  readonly type: OnnxType | undefined;
  readonly shape: readonly number[];
  readonly data: TensorData;
}

/** Field of a TensorProto; `bytes` is absent for values that were left in the file. */
export type TensorField = Omit<ProtoField, "bytes"> & { readonly bytes?: Uint8Array; readonly byteLength: number };

/** Fields of a TensorProto that hold values: float_data, int32_data, int64_data, raw_data, double_data, uint64_data. */
export const VALUE_FIELDS: ReadonlySet<number> = new Set([4, 5, 7, 9, 10, 11]);
/** Larger constants stay in the file; only these may be written number by number. */
export const SMALL_BYTES: number = 2 ** 16;
/** Constants up to this size, such as shapes and factors, are kept in memory. */
const KEPT_BYTES = 2 ** 10;
/** Most fields of one tensor: written number by number, it has as many as it has values. */
export const MAX_TENSOR_PARTS: number = 2 ** 16;
const MAX_DIMENSIONS = 16;

/** Puts a tensor together. @throws {ReadMeError} `ERR_FILE_CORRUPT` when its values do not fill its shape */
export function storedTensor(path: string, fields: Iterable<TensorField>): StoredTensor {
  const shape: number[] = [];
  const values: TensorField[] = [];
  const external = new Map<string, string>();
  let [typeNumber, name, isExternal] = [0, "", false];
  for (const field of fields) {
    const { number } = field;
    if (VALUE_FIELDS.has(number)) values.push(field);
    else if (number === 1) shape.push(...shortList(path, whole(field)));
    else if (number === 2) typeNumber = field.integer;
    else if (number === 8) name = textOf(path, whole(field));
    else if (number === 13) external.set(...entryOf(path, whole(field)));
    else if (number === 14) isExternal = field.integer === 1;
  }
  if (shape.length > MAX_DIMENSIONS || shape.some((size) => size < 0)) {
    throw corrupt(path, `tensor ${quoted(name)} has an impossible shape [${shape.slice(0, 20).join(", ")}]`);
  }
  const type = TYPES.get(typeNumber);
  const tensor = { name, type, shape };
  if (type === undefined) return { ...tensor, data: { bytes: new Uint8Array(0) } };
  const byteLength = byteLengthOf(path, { name, type, shape });
  if (isExternal) return { ...tensor, data: externalData(path, { name, external, byteLength }) };
  return { ...tensor, data: ownData(path, { name, type, values, byteLength }) };
}

interface OwnData {
  readonly name: string;
  readonly type: OnnxType;
  readonly values: readonly TensorField[];
  readonly byteLength: number;
}

function ownData(path: string, { name, type, values, byteLength }: OwnData): TensorData {
  const [first] = values;
  const problem = (found: string): Error =>
    corrupt(path, `tensor ${quoted(name)} needs ${byteLength} bytes of values, the file has ${found}`);
  if (first === undefined) {
    if (byteLength === 0) return { bytes: new Uint8Array(0) };
    throw problem("none");
  }
  // Floats in a row have the same bytes as raw values.
  const isRaw = first.number === 9 || (first.number === 4 && type === "F32") || (first.number === 10 && type === "F64");
  if (isRaw && values.length === 1) {
    if (first.byteLength !== byteLength) throw problem(`${first.byteLength}`);
    if (first.bytes !== undefined && byteLength <= KEPT_BYTES) return { bytes: first.bytes };
    return { location: undefined, offset: first.offset, byteLength };
  }
  const numBytes = values.reduce((sum, field) => sum + field.byteLength, 0);
  if (byteLength > SMALL_BYTES || numBytes > MAX_VARINT_BYTES * SMALL_BYTES) {
    throw unsupported(path, `tensor ${quoted(name)} has its values one by one; save the model with raw data`);
  }
  const bytes = isRaw
    ? new Uint8Array(Buffer.concat(values.map((field) => whole(field).bytes)))
    : integerBytes(path, type, values);
  if (bytes.byteLength !== byteLength) throw problem(`${bytes.byteLength}`);
  return { bytes };
}

/** Encodes integers of int32_data and the like in the type's own size. */
function integerBytes(path: string, type: OnnxType, values: readonly TensorField[]): Uint8Array {
  const integers = values.flatMap((field) => packedIntegers(path, whole(field)));
  const size = Math.max(1, BITS[type] / 8);
  const bytes = new Uint8Array(integers.length * size);
  const view = new DataView(bytes.buffer);
  for (const [i, integer] of integers.entries()) {
    if (size === 1) view.setInt8(i, integer);
    else if (size === 2) view.setInt16(2 * i, integer, true);
    else if (size === 4) view.setInt32(4 * i, integer, true);
    else view.setBigInt64(8 * i, BigInt(integer), true);
  }
  return bytes;
}

function externalData(
  path: string,
  tensor: { readonly name: string; readonly external: ReadonlyMap<string, string>; readonly byteLength: number },
): TensorData {
  const { name, external, byteLength } = tensor;
  const location = external.get("location");
  const numberOf = (key: string, fallback: number): number => {
    const text = external.get(key);
    const value = text === undefined ? fallback : /^\d{1,16}$/.test(text) ? Number(text) : NaN;
    if (Number.isSafeInteger(value)) return value;
    throw corrupt(path, `tensor ${quoted(name)} has the ${key} ${quoted(text ?? "")}, which is no number of bytes`);
  };
  if (location === undefined) throw corrupt(path, `tensor ${quoted(name)} names no file with its values`);
  const length = numberOf("length", byteLength);
  if (length !== byteLength) {
    throw corrupt(path, `tensor ${quoted(name)} has ${length} bytes in ${quoted(location)}, expected ${byteLength}`);
  }
  return { location, offset: numberOf("offset", 0), byteLength };
}

function byteLengthOf(path: string, tensor: { name: string; type: OnnxType; shape: readonly number[] }): number {
  const count = countValues(tensor.shape);
  const byteLength = count === undefined ? Infinity : Math.ceil((count * BITS[tensor.type]) / 8);
  if (Number.isSafeInteger(byteLength)) return byteLength;
  throw corrupt(path, `tensor ${quoted(tensor.name)} has more values than can be counted`);
}

function entryOf(path: string, { bytes, offset }: ProtoField): [string, string] {
  let [key, value] = ["", ""];
  for (const field of protoFields({ path, bytes, offset })) {
    if (field.number === 1) key = textOf(path, field);
    else if (field.number === 2) value = textOf(path, field);
  }
  return [key, value];
}

/** Decodes a list that has no more than some dozens of integers. */
function shortList(path: string, field: ProtoField): readonly number[] {
  if (field.bytes.byteLength <= MAX_DIMENSIONS * MAX_VARINT_BYTES) return packedIntegers(path, field);
  throw corrupt(path, `has a shape of ${field.bytes.byteLength} bytes at byte ${field.offset}`);
}

function whole(field: TensorField): ProtoField {
  return { ...field, bytes: field.bytes ?? new Uint8Array(0) };
}

// Nodes, tensors and graphs of an ONNX file as plain data.

/** Attribute of a node. One of the fields is set. */
interface Attribute {
  readonly integer?: number;
  readonly float?: number;
  readonly text?: string;
  readonly integers?: readonly number[];
  readonly tensor?: StoredTensor;
  readonly graph?: GraphProto;
}

export interface GraphNode {
  /** Operator, such as `MatMul`. */
  readonly type: string;
  /** `""` for operators of the specification. */
  readonly domain: string;
  /** Names of values; `""` for an optional input that is not used. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: ReadonlyMap<string, Attribute>;
}

export interface GraphProto {
  readonly nodes: readonly GraphNode[];
  readonly constants: readonly StoredTensor[];
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
}

/** A graph that is being read, field by field. */
export class GraphReader {
  readonly #path: string;
  readonly #budget: Budget;
  readonly #nodes: GraphNode[] = [];
  readonly #constants: StoredTensor[] = [];
  readonly #inputs: string[] = [];
  readonly #outputs: string[] = [];

  constructor(path: string, budget: Budget = new Budget(path)) {
    this.#path = path;
    this.#budget = budget;
  }

  constant(tensor: StoredTensor): void {
    this.#budget.spend(1);
    this.#constants.push(tensor);
  }

  /** Adds a field other than a constant of the outer graph. @throws {ReadMeError} when it is damaged */
  field(field: ProtoField): void {
    if (field.number === 1) this.#nodes.push(this.#node(field));
    else if (field.number === 5) this.constant(this.#tensor(field));
    else if (field.number === 11) this.#inputs.push(this.#portName(field));
    else if (field.number === 12) this.#outputs.push(this.#portName(field));
    else if (field.number === 15) throw unsupported(this.#path, "has sparse weights, which are not read");
  }

  finish(): GraphProto {
    return { nodes: this.#nodes, constants: this.#constants, inputs: this.#inputs, outputs: this.#outputs };
  }

  #node(field: ProtoField): GraphNode {
    const path = this.#path;
    let [type, domain] = ["", ""];
    const inputs: string[] = [];
    const outputs: string[] = [];
    const attributes = new Map<string, Attribute>();
    for (const part of protoFields({ ...field, path })) {
      this.#budget.spend(1);
      if (part.number === 1) inputs.push(textOf(path, part));
      else if (part.number === 2) outputs.push(textOf(path, part));
      else if (part.number === 4) type = textOf(path, part);
      else if (part.number === 5) attributes.set(...this.#attribute(part));
      else if (part.number === 7) domain = textOf(path, part);
    }
    return { type, domain: domain === "ai.onnx" ? "" : domain, inputs, outputs, attributes };
  }

  #attribute(field: ProtoField): [string, Attribute] {
    const path = this.#path;
    let name = "";
    let attribute: Attribute = {};
    const integers: number[] = [];
    for (const part of protoFields({ ...field, path })) {
      this.#budget.spend(1);
      if (part.number === 1) name = textOf(path, part);
      else if (part.number === 2) attribute = { float: floatOf(part) };
      else if (part.number === 3) attribute = { integer: part.integer };
      else if (part.number === 4) attribute = { text: textOf(path, part) };
      else if (part.number === 5) attribute = { tensor: this.#tensor(part) };
      else if (part.number === 6) attribute = { graph: this.#inner(part) };
      else if (part.number === 8) {
        this.#budget.spend(part.bytes.byteLength);
        for (const integer of packedIntegers(path, part)) integers.push(integer);
      }
    }
    return [name, integers.length > 0 ? { integers } : attribute];
  }

  #inner(field: ProtoField): GraphProto {
    const inner = new GraphReader(this.#path, this.#budget);
    this.#budget.enter();
    for (const part of protoFields({ ...field, path: this.#path })) {
      this.#budget.spend(1);
      inner.field(part);
    }
    this.#budget.leave();
    return inner.finish();
  }

  #tensor(field: ProtoField): StoredTensor {
    const path = this.#path;
    const fields = Array.from(protoFields({ ...field, path }), (part, index) => {
      if (index > MAX_TENSOR_PARTS) throw corrupt(path, "has a tensor of too many parts");
      this.#budget.spend(1);
      return { ...part, byteLength: part.bytes.byteLength };
    });
    return storedTensor(path, fields);
  }

  #portName(field: ProtoField): string {
    for (const part of protoFields({ ...field, path: this.#path })) {
      if (part.number === 1) return textOf(this.#path, part);
    }
    throw corrupt(this.#path, `has an input or output without a name at byte ${field.offset}`);
  }
}

// A decomposed graph of 100 layers has some 500,000 parts.
const MAX_PARTS = 2 ** 21;
const MAX_DEPTH = 4;

/** Bounds the parts and the depth of a graph. */
class Budget {
  readonly #path: string;
  #partsLeft = MAX_PARTS;
  #depth = 0;

  constructor(path: string) {
    this.#path = path;
  }

  spend(parts: number): void {
    this.#partsLeft -= parts;
    if (this.#partsLeft < 0) throw corrupt(this.#path, `has more than ${MAX_PARTS} parts, which no language model has`);
  }

  enter(): void {
    if (++this.#depth > MAX_DEPTH) throw corrupt(this.#path, `has graphs in more than ${MAX_DEPTH} levels`);
  }

  leave(): void {
    this.#depth--;
  }
}

function floatOf({ bytes }: ProtoField): number {
  return bytes.byteLength === 4 ? new DataView(bytes.buffer, bytes.byteOffset, 4).getFloat32(0, true) : NaN;
}

/** Names a node for messages. */
export function describeNode({ type, outputs }: GraphNode): string {
  return `${type} of ${quoted(outputs.find((output) => output !== "") ?? "nothing")}`;
}
