// Random weights of a product, once for the plain implementation and once for the packed file.

import type { BlockSource } from "@readme-moe/model";
import type { PackedTensor } from "@readme-moe/kernel";
import { packBlocks } from "../../../packages/kernel/src/pack/pack-blocks.ts";
import { packFloat, packInt8 } from "../../../packages/kernel/src/pack/pack-product.ts";
import { packNorm } from "../../../packages/kernel/src/pack/pack-tables.ts";
import type { PlainWeights } from "../../oracles/plain-kernel-product.ts";
import { randomInteger, randomNormal } from "../random.ts";
import { memoryLinear, memoryTensor } from "./memory-store.ts";

/** Formats of products; blocks by their bits and size. */
export const WEIGHT_FORMATS = [
  { name: "float" },
  { name: "int8" },
  { name: "blocks", bits: 8, blockSize: 16, hasOffsets: false },
  { name: "blocks", bits: 8, blockSize: 32, hasOffsets: false },
  { name: "blocks", bits: 8, blockSize: 64, hasOffsets: false },
  { name: "blocks", bits: 4, blockSize: 16, hasOffsets: false },
  { name: "blocks", bits: 4, blockSize: 32, hasOffsets: false },
  { name: "blocks", bits: 4, blockSize: 16, hasOffsets: true },
  { name: "blocks", bits: 4, blockSize: 32, hasOffsets: true },
] as const;

export type WeightFormat = (typeof WEIGHT_FORMATS)[number];

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

/** Bytes of whose rows each has a 127 or -127. */
function randomBytes(random: () => number, numOut: number, numIn: number): Int8Array {
  const values = Int8Array.from({ length: numOut * numIn }, () => randomInteger(random, 255) - 127);
  for (let row = 0; row < numOut; row++) {
    values[row * numIn + randomInteger(random, numIn)] = random() < 0.5 ? 127 : -127;
  }
  return values;
}
