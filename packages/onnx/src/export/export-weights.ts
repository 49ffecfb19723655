// Products, norms and the embedding table in the three precisions of exported graphs.

import { type LinearRefs, type ModelConfig, type TensorRef, transpose } from "@readme-moe/model";
import type { GraphBuilder, Value } from "../graph/graph-builder.ts";
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
} from "../graph/operators.ts";
import { asymmetricGrid, BLOCK_SIZE, type Grid, quantizeBlocks4, symmetricGrid, toGrid } from "./export-quantize.ts";

/**
 * Precision of an exported graph's weights, named as in transformers.js.
 *
 * `q8`: int8 with one scale per tensor; activations are uint8 with one scale per tensor, computed as the graph runs.
 * `q4`: 4 bits in blocks of 32; products in float32.
 */
export type ExportDtype = "fp32" | "q8" | "q4";

/** Rows of the embedding table, and the head that shares it. */
export interface Embedding {
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
    const read = async (): Promise<Uint8Array> => bytesOf(await readTransposed(ref));
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
      return bytesOf(offset === 0 ? values : values.map((value) => value + offset));
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
    const scale = g.weight(`${name}_scale`, "float32", [], async () => bytesOf(Float32Array.of((await grid()).scale)));
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
        return bytesOf(scales);
      }),
    };
    return MatMul4Bits(g, x, weight);
  }
}

async function readTransposed(ref: TensorRef): Promise<Float32Array<ArrayBuffer>> {
  const [numOut = 0, numIn = 0] = ref.shape;
  return transpose(await ref.store.readFloats(ref.name), numOut, numIn);
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
