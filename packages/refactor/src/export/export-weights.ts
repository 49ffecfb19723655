// Products, norms and the embedding table in the three precisions of exported graphs.

import { encodeFloats, type LinearRefs, type ModelConfig, type TensorRef, transpose } from "@readme-moe/model";
import type { GraphBuilder, Value } from "../graphs/graph-builder.ts";
import {
  Add,
  type BlockTensor,
  CastTo,
  DequantizeLinear,
  Div,
  DynamicQuantizeLinear,
  Gather,
  MatMul,
  MatMul4Bits,
  MatMulInteger,
  Mul,
  Pow,
  type QuantizedTensor,
  ReduceMean,
  Sqrt,
  Transpose,
} from "../graphs/operators.ts";

/**
 * Precision of an exported graph's weights, named as in transformers.js.
 *
 * `q8`: int8 with one scale per tensor; activations are uint8 with one scale per tensor, computed as the graph runs.
 * `q4`: 4 bits in blocks of 32; products in float32.
 */
export type ExportDtype = "fp32" | "q8" | "q4";

/** Rows of the embedding table, and the head that shares it. */
interface Embedding {
  readonly rows: Value;
  /** Computes logits of a tied head; `undefined` for a head with weights of its own. */
  readonly tiedLogits: ((hidden: Value) => Value) | undefined;
}

type NormNumbers = Pick<ModelConfig, "rmsNormEpsilon" | "normOffset">;

/** Writes operations with weights into one graph. */
export class ExportWeights {
  readonly #g: GraphBuilder;
  readonly #dtype: ExportDtype;
  readonly #norms: NormNumbers;
  /** Inputs of products in 8 bits: each is quantised once for all of its products. */
  readonly #inputs = new Map<Value, QuantizedTensor>();

  constructor(g: GraphBuilder, dtype: ExportDtype, norms: NormNumbers) {
    this.#g = g;
    this.#dtype = dtype;
    this.#norms = norms;
  }

  /** `x · weightᵀ + bias`, `x` `[batch, sequence, in]`. */
  linear(name: string, x: Value, { weight, bias }: LinearRefs): Value {
    const product = this.product(name, x, weight);
    return bias ? Add(this.#g, product, this.#vector(`${name}.bias`, bias)) : product;
  }

  /** `x · weightᵀ`, `x` `[batch, sequence, in]`. */
  product(name: string, x: Value, ref: TensorRef): Value {
    if (this.#dtype === "q8") return this.#integerProduct(name, x, ref);
    if (this.#dtype === "q4") return this.#blockProduct(name, x, ref);
    const [numOut = 0, numIn = 0] = ref.shape;
    const read = async (): Promise<Uint8Array> => encodeFloats(await readTransposed(ref), "F32");
    return MatMul(this.#g, x, this.#g.weight(`${name}.weight`, "float32", [numIn, numOut], read));
  }

  /**
   * RMS norm over the last axis in plain operators, as PyTorch's exporter writes it. The offset of stored scales is
   * added as the graph is written.
   */
  norm(name: string, x: Value, scale: TensorRef): Value {
    const g = this.#g;
    const meanSquare = ReduceMean(g, Pow(g, x, g.float(2)), -1);
    const inverse = Div(g, g.float(1), Sqrt(g, Add(g, meanSquare, g.float(this.#norms.rmsNormEpsilon))));
    return Mul(g, Mul(g, x, inverse), this.#vector(name, scale, this.#norms.normOffset));
  }

  /**
   * Looks up rows of the embedding table. Only float32 has one table for the embedding and a tied head: a table in 8
   * bits has another scale than the head's weights, and quantisers of 4 bits leave the table in float32.
   */
  embedding(name: string, tokenIds: Value, ref: TensorRef): Embedding {
    const g = this.#g;
    if (this.#dtype === "q8") {
      const table = this.#quantizedWeight(name, ref, "uint8");
      const values = Gather(g, table.values, tokenIds);
      return { rows: DequantizeLinear(g, { ...table, values }), tiedLogits: undefined };
    }
    const table = this.#vector(name, ref);
    const tiedLogits = (hidden: Value): Value => MatMul(g, hidden, Transpose(g, table, [1, 0]));
    return { rows: Gather(g, table, tokenIds), tiedLogits: this.#dtype === "fp32" ? tiedLogits : undefined };
  }

  #vector(name: string, ref: TensorRef, offset = 0): Value {
    return this.#g.weight(name, "float32", ref.shape, async () => {
      const values = await ref.store.readFloats(ref.name);
      return encodeFloats(offset === 0 ? values : values.map((value) => value + offset), "F32");
    });
  }

  #integerProduct(name: string, x: Value, ref: TensorRef): Value {
    const g = this.#g;
    const input = this.#inputs.get(x) ?? DynamicQuantizeLinear(g, x);
    this.#inputs.set(x, input);
    const weight = this.#quantizedWeight(`${name}.weight`, ref, "int8");
    const sums = CastTo(g, MatMulInteger(g, input, weight), "float32");
    return Mul(g, sums, Mul(g, input.scale, weight.scale));
  }

  /** int8 for products, transposed; uint8 for a table. */
  #quantizedWeight(name: string, ref: TensorRef, type: "int8" | "uint8"): QuantizedTensor {
    const g = this.#g;
    const [numRows = 0, numColumns = 0] = ref.shape;
    // Small constants are written before large ones. Values are read twice, so that a large model's are not in memory
    // together.
    let known: Promise<Grid> | undefined;
    const grid = (): Promise<Grid> =>
      (known ??= ref.store.readFloats(ref.name).then(type === "int8" ? symmetricGrid : asymmetricGrid));
    const shape = type === "int8" ? [numColumns, numRows] : ref.shape;
    const values = g.weight(`${name}_quantized`, type, shape, async () => {
      const floats = type === "int8" ? await readTransposed(ref) : await ref.store.readFloats(ref.name);
      return toGrid(floats, await grid(), type);
    });
    const scale = g.weight(`${name}_scale`, "float32", [], async () =>
      encodeFloats(Float32Array.of((await grid()).scale), "F32"),
    );
    const zeroPoint = g.weight(`${name}_zero_point`, type, [], async () => Uint8Array.of((await grid()).zeroPoint));
    return { values, scale, zeroPoint };
  }

  #blockProduct(name: string, x: Value, ref: TensorRef): Value {
    const g = this.#g;
    const [numOut = 0, numIn = 0] = ref.shape;
    const numBlocks = Math.ceil(numIn / BLOCK_SIZE);
    const quantize = async (): Promise<ReturnType<typeof quantizeBlocks4>> =>
      quantizeBlocks4(await ref.store.readFloats(ref.name), numOut, numIn);
    let quantized: ReturnType<typeof quantize> | undefined;
    const shape = [numOut, numBlocks, BLOCK_SIZE / 2];
    const weight: BlockTensor = {
      numIn,
      numOut,
      blockSize: BLOCK_SIZE,
      values: g.weight(`${name}.weight_Q4`, "uint8", shape, async () => (await (quantized ??= quantize())).values),
      scales: g.weight(`${name}.weight_scales`, "float32", [numOut * numBlocks], async () => {
        const { scales } = await (quantized ??= quantize());
        quantized = undefined;
        return encodeFloats(scales, "F32");
      }),
    };
    return MatMul4Bits(g, x, weight);
  }
}

async function readTransposed(ref: TensorRef): Promise<Float32Array<ArrayBuffer>> {
  const [numOut = 0, numIn = 0] = ref.shape;
  return transpose(await ref.store.readFloats(ref.name), numOut, numIn);
}

/** Meaning of a tensor's integers: `scale · (integer - zeroPoint)`. */
interface Grid {
  readonly scale: number;
  readonly zeroPoint: number;
}

/** Computes the grid of int8, without a zero point: the largest magnitude is 127. */
export function symmetricGrid(weights: Float32Array): Grid {
  let largest = 0;
  for (const weight of weights) largest = Math.max(largest, Math.abs(weight));
  return { scale: Math.fround(largest / 127) || 1, zeroPoint: 0 };
}

/** Computes the grid of uint8, over the whole range of the values; 0 is exact. */
export function asymmetricGrid(weights: Float32Array): Grid {
  let [smallest, largest] = [0, 0];
  for (const weight of weights) {
    smallest = Math.min(smallest, weight);
    largest = Math.max(largest, weight);
  }
  const scale = (largest - smallest) / 255 || 1;
  return { scale: Math.fround(scale), zeroPoint: roundToEven(-smallest / scale) };
}

export function toGrid(weights: Float32Array, { scale, zeroPoint }: Grid, type: "int8" | "uint8"): Uint8Array {
  const [least, most] = type === "int8" ? [-127, 127] : [0, 255];
  const bytes = new Uint8Array(weights.length);
  for (let i = 0; i < weights.length; i++) {
    const level = roundToEven(Math.fround(weights[i]! / scale)) + zeroPoint;
    bytes[i] = Math.min(most, Math.max(least, level)); // negative ones wrap around: two's complement
  }
  return bytes;
}

const BLOCK_SIZE = 32;

/** Weights in blocks of 32 along their rows. */
interface BlockWeights {
  /** Two values per byte, the first in the low half; `value / scale + 8`. `[rows, blocks, 16]` */
  readonly values: Uint8Array<ArrayBuffer>;
  readonly scales: Float32Array<ArrayBuffer>; // [rows, blocks]
}

/** Quantises to 4 bits without zero points: in each block, the value of largest magnitude becomes -8. */
export function quantizeBlocks4(weights: Float32Array, numRows: number, rowLength: number): BlockWeights {
  const blocksPerRow = Math.ceil(rowLength / BLOCK_SIZE);
  // A row that ends within a block is padded with zeros.
  const values = new Uint8Array((numRows * blocksPerRow * BLOCK_SIZE) / 2).fill(0x88);
  const scales = new Float32Array(numRows * blocksPerRow);
  for (let block = 0; block < scales.length; block++) {
    const start = Math.floor(block / blocksPerRow) * rowLength + (block % blocksPerRow) * BLOCK_SIZE;
    const length = Math.min(BLOCK_SIZE, rowLength - (block % blocksPerRow) * BLOCK_SIZE);
    const scale = Math.fround(extreme(weights, start, length) / -8);
    scales[block] = scale;
    if (scale === 0) continue;
    const inverse = Math.fround(1 / scale);
    for (let i = 0; i < length; i++) {
      const scaled = Math.fround(weights[start + i]! * inverse); // in float32, as there
      const level = Math.floor(Math.fround(scaled + 8) + 0.5);
      const at = (block * BLOCK_SIZE + i) >> 1;
      const shift = (i & 1) * 4;
      const other = values[at]! & (0xf0 >> shift);
      values[at] = other | (Math.min(15, Math.max(0, level)) << shift);
    }
  }
  return { values, scales };
}

/** Finds the value of largest magnitude, with its sign; of two, the negative one. */
function extreme(values: Float32Array, start: number, length: number): number {
  let [smallest, largest] = [0, 0];
  for (let i = start; i < start + length; i++) {
    smallest = Math.min(smallest, values[i]!);
    largest = Math.max(largest, values[i]!);
  }
  return largest > -smallest ? largest : smallest;
}

function roundToEven(value: number): number {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}
