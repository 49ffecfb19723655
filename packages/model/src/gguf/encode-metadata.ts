import { describeValue } from "@readme-moe/core";
import { quoted } from "../files/errors.ts";

const INTEGER_TYPES = {
  uint8: { id: 0, bytes: 1, isSigned: false },
  int8: { id: 1, bytes: 1, isSigned: true },
  uint16: { id: 2, bytes: 2, isSigned: false },
  int16: { id: 3, bytes: 2, isSigned: true },
  uint32: { id: 4, bytes: 4, isSigned: false },
  int32: { id: 5, bytes: 4, isSigned: true },
  uint64: { id: 10, bytes: 8, isSigned: false },
  int64: { id: 11, bytes: 8, isSigned: true },
} as const;

const OTHER_TYPE_IDS = { float32: 6, bool: 7, string: 8, float64: 12 } as const;
const ARRAY_ID = 9;

type IntegerType = keyof typeof INTEGER_TYPES;
type NumberType = IntegerType | "float32" | "float64";

/** Metadata value to be written, with its type. */
export type GgufInputValue =
  | { readonly type: NumberType; readonly value: number | bigint }
  | { readonly type: "bool"; readonly value: boolean }
  | { readonly type: "string"; readonly value: string }
  | { readonly type: "array"; readonly of: NumberType; readonly value: Iterable<number | bigint> }
  | { readonly type: "array"; readonly of: "bool"; readonly value: Iterable<boolean> }
  | { readonly type: "array"; readonly of: "string"; readonly value: Iterable<string> }
  /** A whole entry of another file, with its key. */
  | { readonly type: "entry"; readonly bytes: Uint8Array };

type ElementType = NumberType | "bool" | "string";

/**
 * Encodes a metadata entry: key, type, value.
 * @throws {TypeError | RangeError} when the value is not of its type, or out of its range
 */
export function encodeEntry(key: string, input: GgufInputValue): Uint8Array {
  if (input.type === "entry") return input.bytes;
  const name = encodeString(key);
  if (input.type !== "array")
    return Buffer.concat([name, uint32(idOf(input.type)), encodeElement(key, input.type, input.value)]);
  const { of } = input;
  const elements = Array.from<unknown, Uint8Array>(input.value, (value) => encodeElement(key, of, value));
  return Buffer.concat([name, uint32(ARRAY_ID), uint32(idOf(of)), uint64(elements.length), ...elements]);
}

export function uint32(value: number): Uint8Array {
  return integerBytes(BigInt(value), 4);
}

export function uint64(value: number): Uint8Array {
  return integerBytes(BigInt(value), 8);
}

/** Encodes a string: length in bytes, then UTF-8. */
export function encodeString(text: string): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  return Buffer.concat([uint64(bytes.byteLength), bytes]);
}

function idOf(type: ElementType): number {
  return isIntegerType(type) ? INTEGER_TYPES[type].id : OTHER_TYPE_IDS[type];
}

function isIntegerType(type: ElementType): type is IntegerType {
  return type in INTEGER_TYPES;
}

function encodeElement(key: string, type: ElementType, value: unknown): Uint8Array {
  if (type === "string" && typeof value === "string") return encodeString(value);
  if (type === "bool" && typeof value === "boolean") return Uint8Array.of(value ? 1 : 0);
  const isNumber = typeof value === "number" || typeof value === "bigint";
  if (isNumber && type === "float32") return new Uint8Array(Float32Array.of(Number(value)).buffer);
  if (isNumber && type === "float64") return new Uint8Array(Float64Array.of(Number(value)).buffer);
  const isInteger = typeof value === "bigint" || Number.isInteger(value);
  if (!isNumber || !isInteger || !isIntegerType(type)) {
    throw new TypeError(`Expected metadata ${quoted(key)} to be ${type}, got ${describeValue(value)}`);
  }
  const { bytes, isSigned } = INTEGER_TYPES[type];
  const integer = BigInt(value);
  const fitting = isSigned ? BigInt.asIntN(8 * bytes, integer) : BigInt.asUintN(8 * bytes, integer);
  if (fitting === integer) return integerBytes(integer, bytes);
  throw new RangeError(`Expected metadata ${quoted(key)} to be in the range of ${type}, got ${describeValue(value)}`);
}

function integerBytes(value: bigint, byteLength: number): Uint8Array {
  return new Uint8Array(BigInt64Array.of(value).buffer, 0, byteLength);
}
