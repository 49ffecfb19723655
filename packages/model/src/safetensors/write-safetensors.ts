import { describeValue } from "@readme-moe/core";
import { quoted } from "../files/errors.ts";
import { writeFileAtomically } from "../files/write-file.ts";
import { countValues } from "../tensor-store.ts";
import {
  isSafetensorsType,
  MAX_HEADER_BYTES,
  METADATA_KEY,
  SAFETENSORS_TYPE_BYTES,
  type SafetensorsType,
} from "./header.ts";

/** A tensor to be written. */
export interface SafetensorsInput {
  readonly name: string;
  readonly type: SafetensorsType;
  /** Outermost dimension first; `[]` is a scalar. */
  readonly shape: readonly number[];
  /** Makes the data, little-endian and row-major; called once, just before the data is written. */
  readonly bytes: () => Promise<Uint8Array>;
}

interface SizedInput {
  readonly tensor: SafetensorsInput;
  readonly byteLength: number;
}

/**
 * Writes a `.safetensors` file, whole or not at all, holding one tensor in memory at a time.
 *
 * Data is written in the order of `tensors`, without gaps, so successive tensors are one range of bytes.
 *
 * @throws {TypeError | RangeError} when a name, type or shape cannot be written; before anything is written
 * @throws {ReadMeError} `ERR_WRITE_FAILED`, also when a tensor's `bytes` fails or yields a wrong length
 */
export async function writeSafetensors(
  path: string,
  tensors: readonly SafetensorsInput[],
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const sized = tensors.map((tensor) => ({ tensor, byteLength: byteLengthOf(tensor) }));
  await writeFileAtomically(path, chunks(encodeHeader(sized, metadata), sized));
}

async function* chunks(header: Uint8Array, tensors: readonly SizedInput[]): AsyncGenerator<Uint8Array, void> {
  yield header;
  for (const { tensor, byteLength } of tensors) {
    const bytes = await tensor.bytes();
    if (bytes.byteLength !== byteLength) {
      throw new RangeError(
        `Expected tensor ${quoted(tensor.name)} to have ${byteLength} bytes, got ${bytes.byteLength}`,
      );
    }
    yield bytes;
  }
}

function byteLengthOf({ name, type, shape }: SafetensorsInput): number {
  if (!isSafetensorsType(type))
    throw new TypeError(`Expected tensor ${quoted(name)} to have a safetensors type, got ${describeValue(type)}`);
  const isShape = shape.every((size) => Number.isSafeInteger(size) && size >= 0);
  const byteLength = isShape ? (countValues(shape) ?? Infinity) * (SAFETENSORS_TYPE_BYTES.get(type) ?? 0) : NaN;
  if (!Number.isSafeInteger(byteLength)) {
    throw new RangeError(
      `Expected tensor ${quoted(name)} to have a shape of non-negative integers, got [${shape.join(", ")}]`,
    );
  }
  return byteLength;
}

function encodeHeader(tensors: readonly SizedInput[], metadata: Readonly<Record<string, string>>): Uint8Array {
  const names = new Set<string>([METADATA_KEY]);
  let offset = 0;
  // Member by member: an object would move names that look like integers to its front.
  const members = Object.keys(metadata).length === 0 ? [] : [`"${METADATA_KEY}":${JSON.stringify(metadata)}`];
  for (const { tensor, byteLength } of tensors) {
    const { name, type, shape } = tensor;
    if (names.has(name))
      throw new TypeError(`Expected tensor names to be unique and not \`${METADATA_KEY}\`, got ${quoted(name)}`);
    names.add(name);
    const end = offset + byteLength;
    members.push(
      `${JSON.stringify(name)}:{"dtype":"${type}","shape":${JSON.stringify(shape)},"data_offsets":[${offset},${end}]}`,
    );
    offset = end;
  }
  const json = new TextEncoder().encode(`{${members.join(",")}}`);
  const paddedLength = Math.ceil(json.byteLength / 8) * 8;
  if (paddedLength > MAX_HEADER_BYTES) {
    throw new RangeError(`Expected the tensors' header to have at most ${MAX_HEADER_BYTES} bytes, got ${paddedLength}`);
  }
  const bytes = new Uint8Array(8 + paddedLength).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(paddedLength), true);
  bytes.set(json, 8);
  return bytes;
}
