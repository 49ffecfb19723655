// GGUF files of floats, which are rounded to the type of their tensor here.

import { describeValue } from "@readme-moe/core";
import { blockLayoutOf, type BlockType as StoredBlockType, encodeF16, encodeFloats } from "@readme-moe/model";
import { quoted } from "../../../packages/model/src/files/errors.ts";
import {
  type GgufInput as StoredInput,
  writeGguf as writeStored,
} from "../../../packages/model/src/gguf/write-gguf.ts";
import type { GgufInputValue } from "../../../packages/model/src/gguf/encode-metadata.ts";
import { countValues } from "../../../packages/model/src/tensor-store.ts";
import { roundToBlocks } from "../../../packages/refactor/src/blocks/round-blocks.ts";
import { ggufMxfp4, quantizeMxfp4 } from "../mxfp4.ts";

/** The types that floats are rounded to. */
const ENCODERS = {
  F32: (values: Float32Array) => encodeFloats(values, "F32"),
  F16: encodeF16,
  Q8_0: (values: Float32Array) => roundToBlocks(values, "Q8_0"),
  MXFP4: (values: Float32Array) => ggufMxfp4(quantizeMxfp4(values)),
} as const;

export type OutputType = keyof typeof ENCODERS;
/** Types that are written as given, in whole blocks. */
export type BlockType = Exclude<StoredBlockType, OutputType>;

export function isBlockType(type: OutputType | BlockType): type is BlockType {
  return !Object.hasOwn(ENCODERS, type);
}

export function blockValuesOf(type: OutputType | BlockType): number {
  return blockLayoutOf(type)?.values ?? 1;
}

/** Tensor to be written. Contents are read row-major, rows in the file's order, once, right before they are written. */
export type GgufInput = FloatsInput | BlocksInput;

interface FloatsInput extends Pick<StoredInput, "name" | "shape"> {
  /** Type of the stored values; Q8_0 and MXFP4 need rows of whole blocks of 32. */
  readonly type: OutputType;
  readonly floats: () => Promise<Float32Array>;
}

interface BlocksInput extends Pick<StoredInput, "name" | "shape"> {
  readonly type: BlockType;
  readonly blocks: (numBlocks: number) => Uint8Array;
}

/** Writes a GGUF file as the writer of files does, and refuses as it does. */
export async function writeGguf(
  path: string,
  tensors: readonly GgufInput[],
  metadata: ReadonlyMap<string, GgufInputValue>,
): Promise<void> {
  await writeStored(path, tensors.map(storedInput), metadata);
}

function storedInput(tensor: GgufInput): StoredInput {
  const { name, type, shape } = tensor;
  if ("blocks" in tensor) {
    const bytes = async (): Promise<Uint8Array> => tensor.blocks((countValues(shape) ?? 0) / blockValuesOf(type));
    return { name, type, shape, bytes };
  }
  if (isBlockType(type))
    throw new TypeError(`Expected tensor ${quoted(name)} to be of floats, got ${describeValue(type)}`);
  return { name, type, shape, bytes: () => encoded(tensor) };
}

async function encoded({ name, type, shape, floats }: FloatsInput): Promise<Uint8Array> {
  const values = await floats();
  const expected = countValues(shape);
  if (values.length !== expected) {
    throw new RangeError(`Expected tensor ${quoted(name)} to have ${expected} values, got ${values.length}`);
  }
  try {
    return ENCODERS[type](values);
  } catch (cause) {
    throw new RangeError(`tensor ${quoted(name)}: ${String(cause)}`, { cause });
  }
}
