import { describeValue } from "@readme-moe/core";
import { encodeF16, writeFileAtomically } from "@readme-moe/model";
import { quoted } from "../../../packages/model/src/files/errors.ts";
import {
  BLOCK_VALUES,
  GGML_TYPES,
  MXFP4_BLOCK_BYTES,
  Q8_0_BLOCK_BYTES,
} from "../../../packages/model/src/gguf/ggml-types.ts";
import { type BlockType as StoredBlockType, countValues } from "../../../packages/model/src/tensor-store.ts";
import { ggufMxfp4, quantizeMxfp4 } from "../mxfp4.ts";
import { encodeEntry, encodeString, type GgufInputValue, uint32, uint64 } from "./metadata-encoder.ts";
import { quantizeQ8 } from "./quantize-q8.ts";

const VERSION = 3;
const DEFAULT_ALIGNMENT = 32;
const MAX_DIMENSIONS = 4;

export type OutputType = "F32" | "F16" | "Q8_0" | "MXFP4";

interface OutputFormat {
  readonly id: number;
  readonly blockValues: number;
  readonly blockBytes: number;
  readonly encode: (values: Float32Array) => Uint8Array;
}

/** The ggml types that can be written. */
const OUTPUT_TYPES: Readonly<Record<OutputType, OutputFormat>> = {
  F32: { id: 0, blockValues: 1, blockBytes: 4, encode: bytesOf },
  F16: { id: 1, blockValues: 1, blockBytes: 2, encode: encodeF16 },
  Q8_0: { id: 8, blockValues: BLOCK_VALUES, blockBytes: Q8_0_BLOCK_BYTES, encode: quantizeQ8 },
  MXFP4: {
    id: 39,
    blockValues: BLOCK_VALUES,
    blockBytes: MXFP4_BLOCK_BYTES,
    encode: (values) => ggufMxfp4(quantizeMxfp4(values)),
  },
};

/** Types that are written as given, in whole blocks, by their number in a file. */
const BLOCK_TYPES = Object.fromEntries(
  Array.from(GGML_TYPES, ([id, type]) => ({ ...type, id })).flatMap(({ stored = "F32", ...type }) =>
    type.blockValues === 1 || Object.hasOwn(OUTPUT_TYPES, stored) ? [] : [[stored, type]],
  ),
) as unknown as Readonly<Record<BlockType, Omit<OutputFormat, "encode">>>;

export type BlockType = Exclude<StoredBlockType, OutputType>;

const TYPES = { ...OUTPUT_TYPES, ...BLOCK_TYPES };

export function isBlockType(type: OutputType | BlockType): type is BlockType {
  return Object.hasOwn(BLOCK_TYPES, type);
}

export function blockValuesOf(type: OutputType | BlockType): number {
  return TYPES[type].blockValues;
}

interface NamedShape {
  /** ggml's name, such as `blk.0.attn_q.weight`. */
  readonly name: string;
  /** Outermost dimension first; `[]` is a scalar. */
  readonly shape: readonly number[];
}

/** Tensor to be written. Contents are read row-major, rows in the file's order, once, right before they are written. */
export type GgufInput = FloatsInput | BlocksInput;

interface FloatsInput extends NamedShape {
  /** Type of the stored values; Q8_0 and MXFP4 need rows of whole blocks of 32. */
  readonly type: OutputType;
  readonly floats: () => Promise<Float32Array>;
}

interface BlocksInput extends NamedShape {
  readonly type: BlockType;
  readonly blocks: (numBlocks: number) => Uint8Array;
}

/**
 * Writes a GGUF file of version 3, whole or not at all, with one tensor in memory at a time. Data is in the order of
 * `tensors`, aligned as `general.alignment` of `metadata` says.
 *
 * @throws {TypeError | RangeError} when a name, type, shape or metadata value cannot be written; before anything is
 * @throws {ReadMeError} `ERR_WRITE_FAILED`, also when a tensor's `floats` fails, yields a wrong number, or cannot be quantised
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
  let offset = 0;
  for (const tensor of tensors) {
    const byteLength = byteLengthOf(tensor);
    const dimensions = tensor.shape.toReversed().map(uint64);
    head.push(encodeString(tensor.name), uint32(dimensions.length), ...dimensions);
    head.push(uint32(TYPES[tensor.type].id), uint64(offset));
    offset += byteLength + paddingAfter(byteLength, alignment);
  }
  await writeFileAtomically(path, chunks(Buffer.concat(head), tensors, alignment));
}

async function* chunks(
  head: Uint8Array,
  tensors: readonly GgufInput[],
  alignment: number,
): AsyncGenerator<Uint8Array, void, undefined> {
  yield head;
  yield new Uint8Array(paddingAfter(head.byteLength, alignment));
  for (const tensor of tensors) {
    const bytes = await bytesFor(tensor);
    yield bytes;
    yield new Uint8Array(paddingAfter(bytes.byteLength, alignment));
  }
}

async function bytesFor(tensor: GgufInput): Promise<Uint8Array> {
  if ("blocks" in tensor) return tensor.blocks(byteLengthOf(tensor) / TYPES[tensor.type].blockBytes);
  const values = await tensor.floats();
  const expected = countValues(tensor.shape);
  if (values.length !== expected) {
    throw new RangeError(`Expected tensor ${quoted(tensor.name)} to have ${expected} values, got ${values.length}`);
  }
  return encode(tensor, values);
}

function encode({ name, type }: FloatsInput, values: Float32Array): Uint8Array {
  try {
    return OUTPUT_TYPES[type].encode(values);
  } catch (cause) {
    throw new RangeError(`tensor ${quoted(name)}: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    });
  }
}

function byteLengthOf({ name, type, shape }: GgufInput): number {
  if (!Object.hasOwn(TYPES, type)) {
    throw new TypeError(
      `Expected tensor ${quoted(name)} to be one of ${Object.keys(TYPES).join(", ")}, got ${describeValue(type)}`,
    );
  }
  const { blockValues, blockBytes } = TYPES[type];
  const isShape = shape.every((size) => Number.isSafeInteger(size) && size >= 0) && shape.length <= MAX_DIMENSIONS;
  const numValues = isShape ? countValues(shape) : undefined;
  if (numValues === undefined || (shape.at(-1) ?? 1) % blockValues !== 0) {
    const rows = blockValues === 1 ? "" : `, the last a multiple of ${blockValues}`;
    throw new RangeError(
      `Expected tensor ${quoted(name)} to have up to ${MAX_DIMENSIONS} sizes${rows}, got [${shape.join(", ")}]`,
    );
  }
  return (numValues / blockValues) * blockBytes;
}

function alignmentOf(metadata: ReadonlyMap<string, GgufInputValue>): number {
  const given = metadata.get("general.alignment");
  if (given === undefined) return DEFAULT_ALIGNMENT;
  const alignment = given.type === "uint32" ? Number(given.value) : NaN;
  if (alignment >= 8 && Number.isInteger(Math.log2(alignment))) return alignment;
  throw new RangeError(
    `Expected metadata "general.alignment" to be a uint32 power of two from 8 up, got ${describeValue(given.value)}`,
  );
}

function paddingAfter(byteLength: number, alignment: number): number {
  return (alignment - (byteLength % alignment)) % alignment;
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
