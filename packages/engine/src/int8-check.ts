// Whether this machine multiplies integers exactly. On x86 without VNNI, some kernels add pairs of products in 16 bits,
// which saturate; answers would be quietly wrong there.

import { ReadMeError } from "@readme-moe/core";
import { GraphBuilder, GraphSession, memoryGraph, operators } from "@readme-moe/model";

// Wide enough for every kernel's main loop and its rest.
const [ROWS, NUM_IN, NUM_OUT] = [5, 131, 67];

/** @throws {ReadMeError} `ERR_RUNTIME` when products of the largest integers are wrong */
export async function checkInt8Products(): Promise<void> {
  const weights = Int8Array.from({ length: NUM_IN * NUM_OUT }, (_, i) => (i % 7 < 5 ? 127 : -127));
  const rows = Uint8Array.from({ length: ROWS * NUM_IN }, (_, i) => (i % 5 < 4 ? 255 : 1));
  const g = new GraphBuilder("int8_check");
  const weight = g.weight("weight", "int8", [NUM_IN, NUM_OUT], () => new Uint8Array(weights.buffer));
  const scale = g.floats(Array.from({ length: NUM_OUT }, () => 1));
  const x = g.input("x", "uint8", ["rows", NUM_IN]);
  const scales = { a: g.float(1), b: scale };
  g.output("y", operators.MatMulIntegerToFloat(g, x, weight, scales, g.byte(128)), "float32", ["rows", NUM_OUT]);
  const session = await GraphSession.load(await memoryGraph(g.build()), { threads: 1 });
  try {
    const { y } = await session.run({ x: { data: rows, dims: [ROWS, NUM_IN] } });
    const wrong = Array.from(y?.data as Float32Array).findIndex(
      (value, place) => value !== plain(rows, weights, place),
    );
    if (wrong === -1) return;
  } finally {
    await session.dispose();
  }
  throw new ReadMeError(
    "ERR_RUNTIME",
    "This processor's int8 products are not exact, so answers would be wrong; choose another precision",
  );
}

function plain(rows: Uint8Array, weights: Int8Array, place: number): number {
  const [row, out] = [Math.floor(place / NUM_OUT), place % NUM_OUT];
  let sum = 0;
  for (let i = 0; i < NUM_IN; i++) {
    sum += ((rows[row * NUM_IN + i] as number) - 128) * (weights[i * NUM_OUT + out] as number);
  }
  return sum;
}
