// Constants of an ONNX file: TensorProto messages, whose values stay in the file.

import { corrupt, quoted, unsupported } from "../files/errors.ts";
import { decodeBf16, decodeF16, decodeF32, decodeF64 } from "../files/floats.ts";
import { countValues } from "../tensor-store.ts";
import { packedIntegers, protoFields, type ProtoField, textOf } from "./proto-fields.ts";

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

/** Place of a tensor's values. */
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
const MAX_VARINT_BYTES = 10;

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
  const bytes = isRaw ? joined(values) : integerBytes(path, type, values);
  if (bytes.byteLength !== byteLength) throw problem(`${bytes.byteLength}`);
  return { bytes };
}

function joined(values: readonly TensorField[]): Uint8Array {
  return new Uint8Array(Buffer.concat(values.map(({ bytes }) => bytes ?? new Uint8Array(0))));
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
