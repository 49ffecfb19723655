import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";
import { Concat, Gemm, MatMulNBits, ReduceSum, Reshape } from "../onnx/operators.ts";
import type { BlockSource } from "../quantize/block-source.ts";
import { packQuants } from "../quantize/block-weights.ts";
import { transpose } from "../quantize/transpose.ts";
import { onceFor } from "./once-for.ts";

/**
 * `x · weightᵀ` of weights in blocks, `x` float32 `[rows, in]`; outputs of several sources stand side by side. The
 * product rounds `x` to 8 bits with one scale per block and row.
 *
 * It knows blocks of the form `scale · (quant - middle)` only, so offsets are a product of their own: of the sums of
 * `x` over each block.
 */
export function blockLinear(g: GraphBuilder, name: string, x: Value, sources: readonly BlockSource[]): Value {
  const sums = new Map<number, Value>();
  const outputs = sources.map((source, index) => {
    const suffix = sources.length === 1 ? "" : `.${index}`;
    const { blockSize, hasOffsets } = source.format;
    const sumsOfX = sums.get(blockSize) ?? (hasOffsets ? blockSums(g, x, source) : undefined);
    if (sumsOfX) sums.set(blockSize, sumsOfX);
    return blockProduct(g, `${name}${suffix}`, x, source, sumsOfX);
  });
  return Concat(g, outputs, 1);
}

function blockProduct(g: GraphBuilder, name: string, x: Value, source: BlockSource, sums: Value | undefined): Value {
  const { numOut, numIn, format } = source;
  const { bits, blockSize, hasOffsets } = format;
  const numBlocks = numIn / blockSize;
  const read = onceFor(hasOffsets ? 3 : 2, () => source.read());
  const weight = g.weight(`${name}.weight`, "uint8", [numOut, numBlocks, (blockSize * bits) / 8], async () =>
    packQuants(await read()),
  );
  const scale = g.weight(`${name}.scale`, "float32", [numOut * numBlocks], async () => bytesOf((await read()).scales));
  const product = MatMulNBits(g, x, weight, scale, { numIn, numOut, bits, blockSize });
  if (!sums || !hasOffsets) return product;
  const offset = g.weight(`${name}.offset`, "float32", [numBlocks, numOut], async () =>
    bytesOf(transpose((await read()).offsets, numOut, numBlocks)),
  );
  return Gemm(g, sums, offset, product, { transB: false });
}

/** `[rows, blocks]` */
function blockSums(g: GraphBuilder, x: Value, { numIn, format }: BlockSource): Value {
  return ReduceSum(g, Reshape(g, x, [-1, numIn / format.blockSize, format.blockSize]), 2);
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array<ArrayBuffer>): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}
