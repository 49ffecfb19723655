// Which integer products are exact on this processor: see `Int8Kernels`. Wrong ones would be wrong quietly. Where both are exact, the
// careful ones take half as long again (on a Zen 4 core, 512 tokens of prefill in 640 ms instead of 490).

import { ReadMeError } from "@readme-moe/core";
import { int8Product, int8WeightBytes, int8WeightType, type Int8Kernels } from "../blocks/int8-product.ts";
import { GraphBuilder } from "../onnx/graph-builder.ts";
import { memoryGraph } from "./memory-graph.ts";
import { GraphSession } from "./session.ts";

// Wide enough for every kernel's main loop and its rest.
const [NUM_ROWS, NUM_IN, NUM_OUT] = [5, 131, 67];

let known: Promise<Int8Kernels> | undefined;

/**
 * The fastest kernels that multiply the largest integers exactly, found out once by doing it.
 * @throws {ReadMeError} `ERR_RUNTIME` when none does
 */
export function exactInt8Kernels(): Promise<Int8Kernels> {
  return (known ??= find());
}

async function find(): Promise<Int8Kernels> {
  for (const kernels of ["fast", "careful"] as const) {
    if (await areExact(kernels)) return kernels;
  }
  throw new ReadMeError(
    "ERR_RUNTIME",
    "This processor's int8 products are not exact, so answers would be wrong; choose another precision",
  );
}

/** Of weights that are constants, and of such that are fed. */
async function areExact(kernels: Int8Kernels): Promise<boolean> {
  const rows = Uint8Array.from({ length: NUM_ROWS * NUM_IN }, (_, i) => (i % 5 < 4 ? 255 : 1));
  const weights = Int8Array.from({ length: NUM_IN * NUM_OUT }, (_, i) => (i % 7 < 5 ? 127 : -127));
  const bytes = int8WeightBytes(weights.slice(), kernels);
  const g = new GraphBuilder("int8_check");
  const x = g.input("x", "uint8", ["rows", NUM_IN]);
  const [type, shape] = [int8WeightType(kernels), [NUM_IN, NUM_OUT]];
  const scale = g.floats(Array.from({ length: NUM_OUT }, () => 127));
  const constant = g.weight("constant", type, shape, () => bytes);
  const fed = g.input("fed", type, shape);
  for (const [name, weight] of Object.entries({ ofConstant: constant, ofFed: fed })) {
    g.output(name, int8Product(g, x, weight, scale, kernels), "float32", ["rows", NUM_OUT]);
  }
  const session = await GraphSession.load(await memoryGraph(g.build()), { threads: 1 });
  try {
    const data = kernels === "fast" ? new Int8Array(bytes.buffer) : bytes;
    const outputs = await session.run({ x: { data: rows, dims: [NUM_ROWS, NUM_IN] }, fed: { data, dims: shape } });
    return Object.values(outputs).every(({ data: values }) =>
      Array.from(values as Float32Array).every((value, place) => isNear(value, plainProduct(rows, weights, place))),
    );
  } finally {
    await session.dispose();
  }
}

/** Exact sums, scaled by 127 and a 127th, which is no float. */
function isNear(value: number, expected: number): boolean {
  return Math.abs(value - expected) <= Math.abs(expected) * 1e-6;
}

function plainProduct(rows: Uint8Array, weights: Int8Array, place: number): number {
  const [row, out] = [Math.floor(place / NUM_OUT), place % NUM_OUT];
  let sum = 0;
  for (let i = 0; i < NUM_IN; i++) {
    sum += ((rows[row * NUM_IN + i] as number) - 128) * (weights[i * NUM_OUT + out] as number);
  }
  return sum;
}
