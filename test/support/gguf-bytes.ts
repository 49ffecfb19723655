// GGUF files put together by hand, right or wrong, without any code of the package under test.

export const u8 = (...values: number[]): Buffer => Buffer.from(values);

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

export function f32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return bytes;
}

export function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([u64(bytes.byteLength), bytes]);
}

/** A metadata entry: key, type number, the value's bytes. */
export function entry(key: string, type: number, ...value: readonly Buffer[]): Buffer {
  return Buffer.concat([text(key), u32(type), ...value]);
}

export function textEntry(key: string, value: string): Buffer {
  return entry(key, 8, text(value));
}

export function u32Entry(key: string, value: number): Buffer {
  return entry(key, 4, u32(value));
}

/** An array's bytes: type number of its elements, length, elements. */
export function array(type: number, length: number | bigint, ...elements: readonly Buffer[]): Buffer {
  return Buffer.concat([u32(type), u64(length), ...elements]);
}

export interface HandMadeTensor {
  readonly name: string;
  /** Fastest first, as in the file. */
  readonly dimensions: readonly (number | bigint)[];
  readonly type: number;
  readonly data?: Uint8Array;
  /** From the start of the data. @default after the tensor before, aligned */
  readonly offset?: number | bigint;
}

export interface HandMadeGguf {
  readonly version?: number;
  readonly entries?: readonly Buffer[];
  readonly tensors?: readonly HandMadeTensor[];
  readonly alignment?: number;
  readonly numEntries?: number | bigint;
  readonly numTensors?: number | bigint;
}

/** @returns the file, and how many bytes of it come before the data */
export function handMadeGguf(file: HandMadeGguf): { readonly bytes: Buffer; readonly headerBytes: number } {
  const { version = 3, entries = [], tensors = [], alignment = 32 } = file;
  const head = [
    Buffer.from("GGUF"),
    u32(version),
    u64(file.numTensors ?? tensors.length),
    u64(file.numEntries ?? entries.length),
  ];
  head.push(...entries);
  const data: Uint8Array[] = [];
  let offset = 0;
  for (const tensor of tensors) {
    head.push(text(tensor.name), u32(tensor.dimensions.length), ...tensor.dimensions.map(u64));
    head.push(u32(tensor.type), u64(tensor.offset ?? offset));
    const bytes = tensor.data ?? new Uint8Array(0);
    const padding = (alignment - (bytes.byteLength % alignment)) % alignment;
    data.push(bytes, new Uint8Array(padding));
    offset += bytes.byteLength + padding;
  }
  const header = Buffer.concat(head);
  const padding = new Uint8Array((alignment - (header.byteLength % alignment)) % alignment);
  return { bytes: Buffer.concat([header, padding, ...data]), headerBytes: header.byteLength };
}
