// Which integer kernels this machine can use. On x86 without VNNI, the fast ones add pairs of products in 16 bits, which
// saturate: answers would be quietly wrong. Others are exact everywhere, and where the fast ones are exact, too, take
// half as long again (on a Zen 4 core, 512 tokens of prefill in 640 ms instead of 490).

import { ReadMeError } from "@readme-moe/core";
import { GraphBuilder } from "../onnx/graph-builder.ts";
import { MatMulIntegerToFloat } from "../onnx/operators.ts";
import { memoryGraph } from "./memory-graph.ts";
import { GraphSession } from "./session.ts";

/** `careful` kernels are exact on processors where `fast` ones are not. */
export type Int8Kernels = "fast" | "careful";

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

async function areExact(int8Kernels: Int8Kernels): Promise<boolean> {
  const rows = Uint8Array.from({ length: NUM_ROWS * NUM_IN }, (_, i) => (i % 5 < 4 ? 255 : 1));
  const weights = Int8Array.from({ length: NUM_IN * NUM_OUT }, (_, i) => (i % 7 < 5 ? 127 : -127));
  const g = new GraphBuilder("int8_check");
  const x = g.input("x", "uint8", ["rows", NUM_IN]);
  const weight = g.weight("weight", "int8", [NUM_IN, NUM_OUT], () => new Uint8Array(weights.buffer));
  const scales = { a: g.float(1), b: g.floats(Array.from({ length: NUM_OUT }, () => 1)) };
  g.output("y", MatMulIntegerToFloat(g, x, weight, scales, g.byte(128)), "float32", ["rows", NUM_OUT]);
  const session = await GraphSession.load(await memoryGraph(g.build()), { threads: 1, int8Kernels });
  try {
    const { y } = await session.run({ x: { data: rows, dims: [NUM_ROWS, NUM_IN] } });
    return Array.from(y?.data as Float32Array).every((value, place) => value === plainProduct(rows, weights, place));
  } finally {
    await session.dispose();
  }
}

function plainProduct(rows: Uint8Array, weights: Int8Array, place: number): number {
  const [row, out] = [Math.floor(place / NUM_OUT), place % NUM_OUT];
  let sum = 0;
  for (let i = 0; i < NUM_IN; i++) {
    sum += ((rows[row * NUM_IN + i] as number) - 128) * (weights[i * NUM_OUT + out] as number);
  }
  return sum;
}
