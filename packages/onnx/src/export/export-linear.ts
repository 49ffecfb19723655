// Products and the embedding table in the three precisions of exported graphs.

import type { GraphBuilder, Value } from "../graph/graph-builder.ts";
import { Add, Gather, Mul, Transpose } from "../graph/operators.ts";
import {
  CastTo,
  DequantizeLinear,
  DynamicQuantizeLinear,
  MatMul,
  MatMul4Bits,
  MatMulInteger,
  type QuantizedTensor,
} from "../graph/standard-operators.ts";
import { transpose } from "./transpose.ts";
import type { LinearRefs, TensorRef } from "@readme-moe/model";
import { asymmetricGrid, BLOCK_SIZE, type Grid, quantizeBlocks4, symmetricGrid, toGrid } from "./export-quantize.ts";

/**
 * What the weights of an exported graph are held in, named as transformers.js names it.
 *
 * `q8`: int8 with one scale per tensor, activations uint8 with one scale per tensor, found as the graph runs.
 * `q4`: 4 bits in blocks of 32; products in float32.
 */
export type ExportDtype = "fp32" | "q8" | "q4";

/** An input of products; in q8 it is quantised once for all of them. */
export interface ExportInput {
  readonly floats: Value;
  readonly quantized: QuantizedTensor | undefined;
}

export function exportInput(g: GraphBuilder, floats: Value, dtype: ExportDtype): ExportInput {
  return { floats, quantized: dtype === "q8" ? DynamicQuantizeLinear(g, floats) : undefined };
}

/** `x · weightᵀ + bias`, `x` `[batch, sequence, in]`. */
export function exportLinear(
  g: GraphBuilder,
  name: string,
  x: ExportInput,
  refs: LinearRefs,
  dtype: ExportDtype,
): Value {
  const product = exportProduct(g, name, x, refs.weight, dtype);
  return refs.bias ? Add(g, product, exportVector(g, `${name}.bias`, refs.bias)) : product;
}

export function exportProduct(
  g: GraphBuilder,
  name: string,
  x: ExportInput,
  ref: TensorRef,
  dtype: ExportDtype,
): Value {
  if (x.quantized) return integerProduct(g, name, x.quantized, ref);
  if (dtype === "q4") return blockProduct(g, name, x.floats, ref);
  const [numOut = 0, numIn = 0] = ref.shape;
  const weight = g.weight(`${name}.weight`, "float32", [numIn, numOut], async () => bytesOf(await readTransposed(ref)));
  return MatMul(g, x.floats, weight);
}

/** A constant as the checkpoint has it. */
export function exportVector(g: GraphBuilder, name: string, ref: TensorRef): Value {
  return g.weight(name, "float32", ref.shape, async () => bytesOf(await ref.store.readFloats(ref.name)));
}

/** Rows of the embedding table, and the head that shares it. */
export interface Embedding {
  readonly rows: Value;
  /** Logits of a tied head; `undefined` where the head has weights of its own. */
  readonly tiedLogits: ((hidden: Value) => Value) | undefined;
}

/**
 * Only float32 keeps one table for embedding and tied head: a table in 8 bits has another scale than the head's
 * weights, and quantisers of 4 bits leave it as it is.
 */
export function exportEmbedding(
  g: GraphBuilder,
  name: string,
  tokenIds: Value,
  ref: TensorRef,
  dtype: ExportDtype,
): Embedding {
  if (dtype === "q8") {
    const table = quantizedWeight(g, name, ref, "uint8");
    const values = Gather(g, table.values, tokenIds);
    return { rows: DequantizeLinear(g, { ...table, values }), tiedLogits: undefined };
  }
  const table = exportVector(g, name, ref);
  const tiedLogits = (hidden: Value): Value => MatMul(g, hidden, Transpose(g, table, [1, 0]));
  return { rows: Gather(g, table, tokenIds), tiedLogits: dtype === "fp32" ? tiedLogits : undefined };
}

function integerProduct(g: GraphBuilder, name: string, x: QuantizedTensor, ref: TensorRef): Value {
  const weight = quantizedWeight(g, `${name}.weight`, ref, "int8");
  const sums = CastTo(g, MatMulInteger(g, x, weight), "float32");
  return Mul(g, sums, Mul(g, x.scale, weight.scale));
}

/** int8 for products, the other way round than the checkpoint has it; uint8 for a table. */
function quantizedWeight(g: GraphBuilder, name: string, ref: TensorRef, type: "int8" | "uint8"): QuantizedTensor {
  const [numRows = 0, numColumns = 0] = ref.shape;
  // Small constants are written before large ones, so the values are read twice: a large model's are not to be in
  // memory together.
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

function blockProduct(g: GraphBuilder, name: string, x: Value, ref: TensorRef): Value {
  const [numOut = 0, numIn = 0] = ref.shape;
  const numBlocks = Math.ceil(numIn / BLOCK_SIZE);
  const quantize = async (): Promise<ReturnType<typeof quantizeBlocks4>> =>
    quantizeBlocks4(await ref.store.readFloats(ref.name), numOut, numIn);
  let quantized: ReturnType<typeof quantize> | undefined;
  const shape = [numOut, numBlocks, BLOCK_SIZE / 2];
  const weight = g.weight(`${name}.weight_Q4`, "uint8", shape, async () => (await (quantized ??= quantize())).values);
  const scale = g.weight(`${name}.weight_scales`, "float32", [numOut * numBlocks], async () => {
    const { scales } = await (quantized ??= quantize());
    quantized = undefined;
    return bytesOf(scales);
  });
  return MatMul4Bits(g, x, weight, scale, { numIn, numOut, blockSize: BLOCK_SIZE });
}

async function readTransposed(ref: TensorRef): Promise<Float32Array<ArrayBuffer>> {
  const [numOut = 0, numIn = 0] = ref.shape;
  return transpose(await ref.store.readFloats(ref.name), numOut, numIn);
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
