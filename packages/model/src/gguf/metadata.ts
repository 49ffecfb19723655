import type { HeaderWindow } from "./header-window.ts";

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

/** Reads a type number and the value that follows it. */
export function readTypedValue(window: HeaderWindow): GgufValue {
  return readValue(window, window.uint32());
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
