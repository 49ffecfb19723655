import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";
import { Add, Gemm, Mul } from "../onnx/operators.ts";
import { eightBitBlocks, stackSources, storedBlocks, type BlockSource } from "../quantize/block-source.ts";
import { scaleChannels, type ChannelScales } from "../quantize/channel-scales.ts";
import { fittedBlocks } from "../quantize/fitted-blocks.ts";
import type { LinearRefs } from "../weights/model-weights.ts";
import type { TensorRef } from "../weights/tensor-ref.ts";
import type { Activation } from "./activation.ts";
import { blockLinear } from "./block-linear.ts";
import { int8Product, int8WeightBytes, int8WeightType } from "./int8-product.ts";
import { onceFor } from "./once-for.ts";
import { quantizeRows } from "./quantize-rows.ts";

/**
 * `x · weightᵀ + bias`, `x` `[tokens, in]`. Several products of one input are one: their rows are stacked, and so
 * are their outputs, `[tokens, out₀ + out₁ + …]`.
 */
export function linear(g: GraphBuilder, name: string, x: Activation, refs: readonly LinearRefs[]): Value {
  const weights = refs.map((ref) => ref.weight);
  const biases = refs.flatMap((ref) => (ref.bias ? [ref.bias] : []));
  if (biases.length !== 0 && biases.length !== refs.length) {
    throw new TypeError(`Expected all or none of the products stacked in ${name} to have a bias`);
  }
  x.observe?.(name, x.rows);
  const bias = biases.length > 0 ? floatWeight(g, `${name}.bias`, biases) : undefined;
  const sources = x.precision === "int4" ? blockSources(name, x, weights) : undefined;
  if (!x.rowMax && !sources) return Gemm(g, x.rows, floatWeight(g, `${name}.weight`, weights), bias);
  const product = sources ? blockLinear(g, name, x.rows, sources) : rowwiseLinear(g, name, x, weights);
  return bias ? Add(g, product, bias) : product;
}

/** One float32 constant out of tensors stacked along their outermost axis; `divisors` are for each one's last axis. */
export function floatWeight(
  g: GraphBuilder,
  name: string,
  refs: readonly TensorRef[],
  divisors?: ChannelScales,
): Value {
  return g.weight(name, "float32", stackedShape(refs), async () => {
    const stacked = await readStacked(refs);
    if (divisors) scaleChannels(stacked, await divisors.read(), "divide");
    return new Uint8Array(stacked.buffer);
  });
}

/** The file's own blocks where it has such, else blocks fitted to what the product takes in. */
function blockSources(
  product: string,
  { calibration }: Activation,
  refs: readonly TensorRef[],
): readonly BlockSource[] | undefined {
  const sources = refs.flatMap(
    (ref) => storedBlocks(ref) ?? (calibration && fittedBlocks(ref, calibration, product)) ?? eightBitBlocks(ref) ?? [],
  );
  return sources.length === refs.length ? stackSources(sources) : undefined;
}

/** Rows in int8 with one scale each, weights with one scale per output. */
function rowwiseLinear(g: GraphBuilder, name: string, x: Activation, refs: readonly TensorRef[]): Value {
  const [numOut, numIn] = stackedShape(refs) as [number, number];
  const quantize = onceFor(2, async () => {
    const weights = await readStacked(refs);
    if (x.channelScales) scaleChannels(weights, await x.channelScales.read(), "multiply");
    return quantizeRows(weights, numOut, numIn);
  });
  const { int8Kernels = "careful" } = x;
  const weight = g.weight(`${name}.weight`, int8WeightType(int8Kernels), [numIn, numOut], async () => {
    const { transposed } = await quantize();
    return int8WeightBytes(transposed, int8Kernels);
  });
  const scale = g.weight(`${name}.scale`, "float32", [numOut], async () => {
    const { scales } = await quantize();
    return new Uint8Array(scales.buffer);
  });
  return Mul(g, int8Product(g, x.rows, weight, scale, int8Kernels), x.rowMax as Value);
}

function stackedShape(refs: readonly TensorRef[]): readonly number[] {
  const rows = refs.reduce((sum, ref) => sum + (ref.shape[0] ?? 0), 0);
  return [rows, ...(refs[0]?.shape.slice(1) ?? [])];
}

async function readStacked(refs: readonly TensorRef[]): Promise<Float32Array<ArrayBuffer>> {
  const stacked = new Float32Array(stackedShape(refs).reduce((product, size) => product * size, 1));
  let end = 0;
  for (const ref of refs) {
    const values = await ref.store.readFloats(ref.name);
    stacked.set(values, end);
    end += values.length;
  }
  return stacked;
}
