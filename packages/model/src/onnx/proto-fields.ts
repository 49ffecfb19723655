// The wire format of protobuf, as far as ONNX uses it. Lengths come from files, so each is checked before it is used.

import { corrupt } from "../files/errors.ts";

/** Wire types: a varint, 8 bytes, bytes of a stated length, 4 bytes. */
export type WireType = 0 | 1 | 2 | 5;

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
const NOTHING = new Uint8Array(0);

/** Place of a message: its bytes, and where they are in the file. */
export interface Message {
  readonly path: string;
  readonly bytes: Uint8Array;
  readonly offset: number;
}

/** Lists the fields of a message. @throws {ReadMeError} `ERR_FILE_CORRUPT` when a field leaves the message */
export function* protoFields({ path, bytes, offset }: Message): Generator<ProtoField> {
  let at = 0;
  const varint = (): number => {
    const read = readVarint(bytes, at);
    if (read === undefined) throw corrupt(path, `has a damaged number at byte ${offset + at}`);
    at += read.byteLength;
    return read.value;
  };
  while (at < bytes.byteLength) {
    const start = at;
    const { number, wire } = splitTag(path, varint(), offset + start);
    if (wire === 0) {
      yield { number, wire, integer: varint(), bytes: NOTHING, offset: offset + at };
      continue;
    }
    const byteLength = fixedBytes(wire) ?? varint();
    if (!(byteLength >= 0 && byteLength <= bytes.byteLength - at)) {
      throw corrupt(path, `has a field at byte ${offset + start} that is longer than the part that it belongs to`);
    }
    yield { number, wire, integer: 0, bytes: bytes.subarray(at, at + byteLength), offset: offset + at };
    at += byteLength;
  }
}

/** @throws {ReadMeError} `ERR_FILE_CORRUPT` for a tag that no field has */
export function splitTag(path: string, tag: number, at: number): { readonly number: number; readonly wire: WireType } {
  const number = Math.floor(tag / 8);
  const wire = tag & 7;
  if (number >= 1 && number < 2 ** 29 && isWireType(wire)) return { number, wire };
  throw corrupt(path, `has no field at byte ${at}; it is no ONNX model`);
}

/** Returns the length of a field whose wire type has one. */
export function fixedBytes(wire: WireType): number | undefined {
  return wire === 1 ? 8 : wire === 5 ? 4 : undefined;
}

/** Reads a varint; `undefined` when it does not end within `bytes` or is longer than 64 bits. */
export function readVarint(
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
export function packedIntegers(path: string, { wire, integer, bytes, offset }: ProtoField): readonly number[] {
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
export function textOf(path: string, { bytes, offset }: ProtoField): string {
  try {
    return UTF8.decode(bytes);
  } catch (cause) {
    throw corrupt(path, `has a name at byte ${offset} that is no UTF-8`, { cause });
  }
}
