// What this machine can do at best: how fast memory can be read, and how fast bytes can be multiplied.

import {
  GraphBuilder,
  GraphSession,
  int8Product,
  int8WeightType,
  memoryGraph,
  operators,
  type Int8Kernels,
} from "@readme-moe/model";
import { MemoryReaders } from "./memory-readers.ts";

export interface MachineFigures {
  /** The fastest round of the fastest way to read, of all threads together. */
  readonly readGBPerS: number;
  /** The same with one thread. */
  readonly readGBPerSOfOne: number;
  /** Of products of one row, int8 weights that are read from memory. */
  readonly oneRowGBPerS: number;
  /** The same with weights in blocks of 8 bits. */
  readonly oneRowBlocksGBPerS: number;
  /** Of products of many rows, a multiplication and an addition are two. */
  readonly int8GOPerS: number;
}

export interface MachineOptions {
  readonly threads: number;
  readonly kernels: Int8Kernels;
  readonly isQuick: boolean;
}

export async function measureMachine({ threads, kernels, isQuick }: MachineOptions): Promise<MachineFigures> {
  const bytes = isQuick ? 64 << 20 : 256 << 20;
  const rounds = isQuick ? 8 : 40;
  // More than any cache holds, and wide enough that threads have much to share.
  const wide = { numIn: 2048, numOut: isQuick ? 16_384 : 65_536 };
  const square = isQuick ? 1024 : 2048;
  const products = { threads, kernels, rounds };
  const oneRowMs = await productMs({ ...products, ...wide, numRows: 1 });
  const blocksMs = await productMs({ ...products, ...wide, numRows: 1, isInBlocks: true });
  const manyMs = await productMs({ ...products, numIn: square, numOut: square, numRows: 512 });
  return {
    readGBPerS: await readGBPerS(threads, bytes, rounds),
    readGBPerSOfOne: await readGBPerS(1, bytes, rounds),
    oneRowGBPerS: (wide.numIn * wide.numOut) / oneRowMs / 1e6,
    oneRowBlocksGBPerS: (wide.numIn * wide.numOut * (1 + 4 / 64)) / blocksMs / 1e6,
    int8GOPerS: (2 * 512 * square * square) / manyMs / 1e6,
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

interface Product {
  readonly numRows: number;
  readonly numIn: number;
  readonly numOut: number;
  readonly isInBlocks?: boolean;
  readonly threads: number;
  readonly kernels: Int8Kernels;
  readonly rounds: number;
}

const BLOCK = 64;

/** The shortest of some runs, with the kernels that the engine's graphs are made of. */
async function productMs({ numRows, numIn, numOut, isInBlocks, threads, kernels, rounds }: Product): Promise<number> {
  const g = new GraphBuilder("product");
  const bytes = numIn * numOut;
  let output;
  if (isInBlocks) {
    const numBlocks = numIn / BLOCK;
    const x = g.input("x", "float32", ["rows", numIn]);
    const weight = g.weight("weight", "uint8", [numOut, numBlocks, BLOCK], () => someBytes(bytes));
    const scale = g.weight("scale", "float32", [numOut * numBlocks], () => someScales(numOut * numBlocks));
    output = operators.MatMulNBits(g, x, weight, scale, { numIn, numOut, bits: 8, blockSize: BLOCK });
  } else {
    const x = g.input("x", "uint8", ["rows", numIn]);
    const weight = g.weight("weight", int8WeightType(kernels), [numIn, numOut], () => someBytes(bytes));
    const scale = g.weight("scale", "float32", [numOut], () => someScales(numOut));
    output = int8Product(g, x, weight, scale, kernels);
  }
  // One number leaves the graph; a copy of all would be measured, too.
  const picked = operators.Gather(g, output, g.integers([0]));
  g.output("y", operators.ReduceMax(g, picked, 1), "float32", [1, 1]);
  const session = await GraphSession.load(await memoryGraph(g.build()), { threads });
  const dims = [numRows, numIn];
  const data = isInBlocks ? new Float32Array(numRows * numIn).fill(0.5) : new Uint8Array(numRows * numIn).fill(150);
  const times: number[] = [];
  for (let round = 0; round < rounds + 3; round++) {
    const startMs = performance.now();
    await session.run({ x: { data, dims } });
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
