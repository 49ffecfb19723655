// Measures the limits of this machine: the rates of reading memory and of multiplying bytes.

import { GraphBuilder, GraphSession, operators } from "@readme-moe/refactor/graphs";
import { MemoryReaders } from "./memory-readers.ts";

const NUM_ROWS = 512;

export interface MachineFigures {
  /** Rate of all threads together in the fastest round. */
  readonly readGBPerS: number;
  /** Rate of one thread. */
  readonly readGBPerSOfOne: number;
  /** Rate of the inference runtime's products of many rows; a multiplication and an addition are two operations. */
  readonly int8GOPerS: number;
}

export interface MachineOptions {
  readonly threads: number;
  readonly isQuick: boolean;
}

export async function measureMachine({ threads, isQuick }: MachineOptions): Promise<MachineFigures> {
  const bytes = isQuick ? 64 << 20 : 256 << 20;
  const rounds = isQuick ? 8 : 40;
  const size = isQuick ? 1024 : 2048;
  return {
    readGBPerS: await readGBPerS(threads, bytes, rounds),
    readGBPerSOfOne: await readGBPerS(1, bytes, rounds),
    int8GOPerS: (2 * NUM_ROWS * size * size) / (await productMs(size, threads, rounds)) / 1e6,
  };
}

async function readGBPerS(threads: number, bytes: number, rounds: number): Promise<number> {
  const rates: number[] = [];
  for (const how of ["search", "compare"] as const) {
    const readers = new MemoryReaders(threads, bytes, how);
    for (let round = 0; round < rounds; round++) rates.push(await readers.read());
    await readers.dispose();
  }
  return Math.max(...rates);
}

/** Measures products of `NUM_ROWS` rows with a square int8 weight, and returns the shortest time. */
async function productMs(size: number, threads: number, rounds: number): Promise<number> {
  const g = new GraphBuilder("product");
  const x = g.input("x", "uint8", ["rows", size]);
  const weight = g.weight("weight", "int8", [size, size], () => someBytes(size * size));
  const scale = g.weight("scale", "float32", [size], () => someScales(size));
  const inputs = [x, weight, g.float(1 / 127), scale, g.byte(128)];
  const output = g.node("MatMulIntegerToFloat", inputs, {}, "com.microsoft");
  // The graph outputs a single number: copying the whole product would be measured, too.
  const picked = operators.Gather(g, output, g.integers([0]));
  g.output("y", operators.ReduceMax(g, picked, 1), "float32", [1, 1]);
  const session = await GraphSession.open(g.build(), { threads });
  const feeds = { x: { data: new Uint8Array(NUM_ROWS * size).fill(150), dims: [NUM_ROWS, size] } };
  const times: number[] = [];
  for (let round = 0; round < rounds + 3; round++) {
    const startMs = performance.now();
    await session.run(feeds);
    times.push(performance.now() - startMs);
  }
  await session.dispose();
  return Math.min(...times);
}

function someBytes(size: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, i) => (i * 37) % 251);
}

function someScales(size: number): Uint8Array {
  return new Uint8Array(new Float32Array(size).fill(0.01).buffer);
}
