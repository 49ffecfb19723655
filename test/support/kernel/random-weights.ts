// Random weights of a product, once for the plain implementation and once for the packed file.

import { encodeF16, type BlockSource, type TensorInfo, type TensorRef, type TensorStore } from "@readme-moe/model";
import type { PackedTensor } from "@readme-moe/kernel";
import { decodeF16 } from "../../../packages/model/src/files/floats.ts";
import {
  type FileType,
  packBlocks,
  packFile,
  packFloat,
  packInt8,
} from "../../../packages/kernel/src/pack/pack-product.ts";
import { packNorm } from "../../../packages/kernel/src/pack/pack-tables.ts";
import { PLAIN_TYPES, plainFileBlocks } from "../../oracles/plain-file-blocks.ts";
import type { PlainWeights } from "../../oracles/plain-kernel-product.ts";
import { randomInteger, randomNormal } from "../random.ts";
import { memoryLinear, memoryTensor } from "./memory-store.ts";

/** Formats of products; blocks by their bits and size. */
export const WEIGHT_FORMATS = [
  { name: "float" },
  { name: "int8" },
  { name: "short", type: "F16" },
  { name: "short", type: "BF16" },
  { name: "blocks", bits: 8, blockSize: 16, hasOffsets: false },
  { name: "blocks", bits: 8, blockSize: 32, hasOffsets: false },
  { name: "blocks", bits: 8, blockSize: 64, hasOffsets: false },
  { name: "blocks", bits: 4, blockSize: 16, hasOffsets: false },
  { name: "blocks", bits: 4, blockSize: 32, hasOffsets: false },
  { name: "blocks", bits: 4, blockSize: 16, hasOffsets: true },
  { name: "blocks", bits: 4, blockSize: 32, hasOffsets: true },
  ...Object.keys(PLAIN_TYPES).map((type) => ({ name: "file", type }) as const),
] as const;

export type WeightFormat = (typeof WEIGHT_FORMATS)[number];

/** Indices of the formats of GGUF files. */
export const FILE_FORMATS: readonly number[] = WEIGHT_FORMATS.flatMap(({ name }, index) =>
  name === "file" ? index : [],
);

/** One tensor, in memory and as it is packed. */
export interface TestTensor<Plain> {
  readonly plain: Plain;
  readonly packed: PackedTensor;
}

export interface WeightsShape {
  readonly format: WeightFormat;
  readonly numOut: number;
  readonly numIn: number;
  /** Size of biases, 0 for none. */
  readonly biasScale: number;
  /** Factor of all weights, a power of two. @default 1 */
  readonly weightScale?: number;
  /** Whether some outputs have the weights of others. */
  readonly hasTwins?: boolean;
}

/** Whether rows of `numIn` inputs are whole blocks. */
export function fits(format: WeightFormat, numIn: number): boolean {
  if (format.name === "file") return numIn % PLAIN_TYPES[format.type]!.values === 0;
  return format.name !== "blocks" || numIn % format.blockSize === 0;
}

export function randomFloats(random: () => number, length: number, scale: number): Float32Array {
  return Float32Array.from({ length }, () => randomNormal(random) * scale);
}

export function randomNorm(random: () => number, size: number): TestTensor<Float32Array> {
  const plain = randomFloats(random, size, 0.3).map((value) => 1 + value);
  return { plain, packed: packNorm(memoryTensor(plain, [size])) };
}

export function randomWeights(random: () => number, shape: WeightsShape): TestTensor<PlainWeights> {
  const { format, numOut, numIn, biasScale, weightScale = 1, hasTwins = false } = shape;
  const bias = biasScale > 0 ? randomFloats(random, numOut, biasScale) : undefined;
  const sources = Array.from({ length: numOut }, (_, row) =>
    hasTwins && row > 0 && random() < 0.4 ? randomInteger(random, row) : row,
  );
  /** Gives a row the numbers of its twin. */
  const paired = <Numbers extends Float32Array | Uint8Array | Int8Array>(numbers: Numbers): Numbers => {
    const length = numbers.length / numOut;
    for (const [row, source] of sources.entries())
      numbers.copyWithin(row * length, source * length, (source + 1) * length);
    return numbers;
  };
  const sizes = { numOut, numIn, bias };
  const size = weightScale / Math.sqrt(numIn);
  if (format.name === "float") {
    const values = paired(randomFloats(random, numOut * numIn, size));
    return { plain: { ...sizes, format: "float", values }, packed: packFloat(memoryLinear(values, numIn, bias)) };
  }
  if (format.name === "short") {
    const values = paired(randomFloats(random, numOut * numIn, size));
    const halves = encodeF16(values);
    // BF16 has the upper halves of float32.
    const upper = new Uint16Array(values.buffer).filter((_, i) => i % 2 === 1);
    const bytes = format.type === "F16" ? halves : new Uint8Array(upper.buffer);
    const floats =
      format.type === "F16" ? decodeF16(bytes) : new Float32Array(Uint32Array.from(upper, (bits) => bits << 16).buffer);
    const packed = packFile(
      { weight: fileTensor(format.type, bytes, [numOut, numIn]), bias: biasOf(sizes) },
      format.type,
    );
    return { plain: { ...sizes, format: "float", values: floats }, packed };
  }
  if (format.name === "int8") {
    // Scales of few bits, so that packing finds these very values again; some outputs are all zeros.
    const scales = paired(
      Float32Array.from(
        { length: numOut },
        () => (Math.max(0, randomInteger(random, 1000) - 50) * weightScale) / 2 ** 16,
      ),
    );
    const values = paired(
      randomBytes(random, numOut, numIn).map((value, i) => (scales[Math.floor(i / numIn)] ? value : 0)),
    );
    const floats = Float32Array.from(values, (value, i) => value * (scales[Math.floor(i / numIn)] as number));
    return { plain: { ...sizes, format: "int8", values, scales }, packed: packInt8(memoryLinear(floats, numIn, bias)) };
  }
  if (format.name === "file") return fileWeights(random, format.type, { ...sizes, size });
  const { bits, blockSize, hasOffsets } = format;
  const numBlocks = (numOut * numIn) / blockSize;
  const scales = paired(randomFloats(random, numBlocks, (bits === 4 ? 0.2 : 0.01) * size));
  const offsets = paired(randomFloats(random, hasOffsets ? numBlocks : 0, 0.3 * size));
  const quants = paired(Uint8Array.from({ length: numOut * numIn }, () => randomInteger(random, 2 ** bits)));
  const source: BlockSource = {
    format: { bits, blockSize, hasOffsets },
    numOut,
    numIn,
    read: async () => ({ bits, blockSize, hasOffsets, quants, scales: scales.slice(), offsets: offsets.slice() }),
  };
  const middle = hasOffsets ? 0 : 2 ** (bits - 1);
  const plain: PlainWeights = {
    ...sizes,
    format: "blocks",
    blockSize,
    values: Int8Array.from(quants, (quant) => quant - middle),
    scales,
    minimums: hasOffsets ? offsets.map((offset, block) => offset - 8 * (scales[block] as number)) : undefined,
  };
  return { plain, packed: packBlocks(source, bias && memoryTensor(bias, [numOut])) };
}

/** Random blocks of a GGUF file's type, whose weights are about as large as `size`. */
export function randomFileBlocks(
  random: () => number,
  name: string,
  { numValues, size }: { readonly numValues: number; readonly size: number },
): Uint8Array<ArrayBuffer> {
  const type = PLAIN_TYPES[name]!;
  const bytes = Uint8Array.from({ length: (numValues / type.values) * type.bytes }, () => randomInteger(random, 256));
  // Scales of large blocks are multiplied by up to 63, and minimums are not.
  const factor = size / (type.values === 256 ? 256 : 8);
  for (let start = 0; start < bytes.length; start += type.bytes) {
    for (const at of type.halves) bytes.set(encodeF16(Float32Array.of(randomNormal(random) * factor)), start + at);
    if (name === "MXFP4") bytes[start] = 120 + randomInteger(random, 6);
  }
  return bytes;
}

/** Random weights of a GGUF file's type. */
function fileWeights(
  random: () => number,
  name: string,
  shape: {
    readonly numOut: number;
    readonly numIn: number;
    readonly bias: Float32Array | undefined;
    readonly size: number;
  },
): TestTensor<PlainWeights> {
  const { numOut, numIn, bias, size } = shape;
  const type = PLAIN_TYPES[name]!;
  const bytes = randomFileBlocks(random, name, { numValues: numOut * numIn, size });
  const weight = fileTensor(name, bytes, [numOut, numIn]);
  const packed = packFile({ weight, bias: biasOf(shape) }, name as FileType);
  const plain = {
    numOut,
    numIn,
    bias,
    format: "blocks",
    blockSize: type.block,
    ...plainFileBlocks(type, bytes),
  } as const;
  return { plain, packed };
}

/** A tensor whose rows are read as a file has them. */
export function fileTensor(
  type: string,
  bytes: Uint8Array,
  shape: readonly [numOut: number, numIn: number],
): TensorRef {
  const [numOut] = shape;
  const rowBytes = bytes.length / numOut;
  const weight = memoryTensor(new Float32Array(), shape);
  const store: TensorStore = {
    ...weight.store,
    info: () => ({ name: "tensor", type: type as TensorInfo["type"], shape, byteLength: bytes.length }),
    readBytes: async (_, { from, to } = { from: 0, to: numOut }) => bytes.slice(from * rowBytes, to * rowBytes),
  };
  return { ...weight, store };
}

function biasOf({ numOut, bias }: Pick<PlainWeights, "numOut" | "bias">): TensorRef | undefined {
  return bias && memoryTensor(bias, [numOut]);
}

/** Bytes of whose rows each has a 127 or -127. */
function randomBytes(random: () => number, numOut: number, numIn: number): Int8Array {
  const values = Int8Array.from({ length: numOut * numIn }, () => randomInteger(random, 255) - 127);
  for (let row = 0; row < numOut; row++) {
    values[row * numIn + randomInteger(random, numIn)] = random() < 0.5 ? 127 : -127;
  }
  return values;
}
