import { describeValue } from "@readme-moe/core";
import { quoted } from "../files/errors.ts";
import { writeFileAtomically } from "../files/write-file.ts";
import { countValues, type StoredType } from "../tensor-store.ts";
import { encodeEntry, encodeString, type GgufInputValue, uint32, uint64 } from "./encode-metadata.ts";
import { ggmlTypeOf } from "./ggml-types.ts";

const VERSION = 3;
const DEFAULT_ALIGNMENT = 32;
const MAX_DIMENSIONS = 4;

/** Tensor of a GGUF file to be written. */
export interface GgufInput {
  /** ggml's name, such as `blk.0.attn_q.weight`. */
  readonly name: string;
  /** Rows are whole blocks of the type. */
  readonly type: StoredType;
  /** Outermost dimension first; `[]` is a scalar. */
  readonly shape: readonly number[];
  /** Makes the data, little-endian and row-major, rows in the file's order; called once, just before it is written. */
  readonly bytes: () => Promise<Uint8Array>;
}

interface SizedInput {
  readonly tensor: GgufInput;
  readonly byteLength: number;
}

/**
 * Writes a GGUF file of version 3, whole or not at all, with one tensor in memory at a time. Data is in the order of
 * `tensors`, aligned as `general.alignment` of `metadata` says.
 *
 * @throws {TypeError | RangeError} when a name, type, shape or metadata value cannot be written; before anything is
 * @throws {ReadMeError} `ERR_WRITE_FAILED`, also when a tensor's `bytes` fails or yields a wrong length
 */
export async function writeGguf(
  path: string,
  tensors: readonly GgufInput[],
  metadata: ReadonlyMap<string, GgufInputValue>,
): Promise<void> {
  const alignment = alignmentOf(metadata);
  const names = new Set(tensors.map(({ name }) => name));
  if (names.size !== tensors.length) throw new TypeError("Expected tensor names to be unique, got some twice");
  const head: Uint8Array[] = [Buffer.from("GGUF"), uint32(VERSION), uint64(tensors.length), uint64(metadata.size)];
  for (const [key, value] of metadata) head.push(encodeEntry(key, value));
  const sized: SizedInput[] = [];
  let offset = 0;
  for (const tensor of tensors) {
    const { id, byteLength } = layOut(tensor);
    const dimensions = tensor.shape.toReversed().map(uint64);
    head.push(encodeString(tensor.name), uint32(dimensions.length), ...dimensions, uint32(id), uint64(offset));
    offset += byteLength + paddingAfter(byteLength, alignment);
    sized.push({ tensor, byteLength });
  }
  await writeFileAtomically(path, chunks(Buffer.concat(head), sized, alignment));
}

async function* chunks(
  head: Uint8Array,
  tensors: readonly SizedInput[],
  alignment: number,
): AsyncGenerator<Uint8Array, void, undefined> {
  yield head;
  yield new Uint8Array(paddingAfter(head.byteLength, alignment));
  for (const { tensor, byteLength } of tensors) {
    const bytes = await tensor.bytes();
    if (bytes.byteLength !== byteLength) {
      const name = quoted(tensor.name);
      throw new RangeError(`Expected tensor ${name} to have ${byteLength} bytes, got ${bytes.byteLength}`);
    }
    yield bytes;
    yield new Uint8Array(paddingAfter(byteLength, alignment));
  }
}

function layOut({ name, type, shape }: GgufInput): { readonly id: number; readonly byteLength: number } {
  const ggmlType = ggmlTypeOf(type);
  if (ggmlType === undefined) {
    throw new TypeError(`Expected tensor ${quoted(name)} to have a type of GGUF files, got ${describeValue(type)}`);
  }
  const { id, blockValues, blockBytes } = ggmlType;
  const isShape = shape.every((size) => Number.isSafeInteger(size) && size >= 0) && shape.length <= MAX_DIMENSIONS;
  const numValues = isShape ? countValues(shape) : undefined;
  if (numValues === undefined || (shape.at(-1) ?? 1) % blockValues !== 0) {
    const rows = blockValues === 1 ? "" : `, the last a multiple of ${blockValues}`;
    throw new RangeError(
      `Expected tensor ${quoted(name)} to have up to ${MAX_DIMENSIONS} sizes${rows}, got [${shape.join(", ")}]`,
    );
  }
  return { id, byteLength: (numValues / blockValues) * blockBytes };
}

function alignmentOf(metadata: ReadonlyMap<string, GgufInputValue>): number {
  const given = metadata.get("general.alignment");
  if (given === undefined) return DEFAULT_ALIGNMENT;
  const alignment = given.type === "uint32" ? Number(given.value) : NaN;
  if (alignment >= 8 && Number.isInteger(Math.log2(alignment))) return alignment;
  throw new RangeError(
    `Expected metadata "general.alignment" to be a uint32 power of two from 8 up, got ${describeValue("value" in given ? given.value : given.type)}`,
  );
}

function paddingAfter(byteLength: number, alignment: number): number {
  return (alignment - (byteLength % alignment)) % alignment;
}
