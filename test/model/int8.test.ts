// Products in int8 against plain integer arithmetic, and rows that do not know each other.

import {
  activation,
  blockLinear,
  cachedGraph,
  eightBitBlocks,
  exactInt8Kernels,
  GraphBuilder,
  GraphSession,
  type Int8Kernels,
  linear,
  type LinearRefs,
  type BlockSource,
  type TensorStore,
} from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { quantizeRows } from "../../packages/model/src/blocks/quantize-rows.ts";
import { randomNormal, seededRandom } from "../support/random.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

/** One weight that is in no file. */
function looseLinear(values: Float32Array, numOut: number, numIn: number): LinearRefs {
  const shape = [numOut, numIn];
  const store = { path: "memory", names: ["w"], readFloats: async () => values.slice() } as unknown as TensorStore;
  return { weight: { store, name: "w", shape }, bias: undefined };
}

async function int8Session(
  refs: readonly LinearRefs[],
  numIn: number,
  int8Kernels?: Int8Kernels,
): Promise<GraphSession> {
  const g = new GraphBuilder("int8");
  const x = g.input("x", "float32", ["rows", numIn]);
  const numOut = refs.reduce((sum, ref) => sum + (ref.weight.shape[0] ?? 0), 0);
  g.output("y", linear(g, "product", activation(g, x, { precision: "int8", int8Kernels }), refs), "float32", [
    "rows",
    numOut,
  ]);
  return GraphSession.load(await cachedGraph(g.build(), "test", await temporaryFolder()), { threads: 2 });
}

/** The same by hand: integers, one scale per row and one per output. */
function plainInt8(x: Float32Array, weights: Float32Array, numOut: number, numIn: number): number[] {
  const rows = x.length / numIn;
  return Array.from({ length: rows * numOut }, (_, place) => {
    const [row, out] = [Math.floor(place / numOut), place % numOut];
    const xs = x.subarray(row * numIn, (row + 1) * numIn);
    const ws = weights.subarray(out * numIn, (out + 1) * numIn);
    const rowMax = Math.fround(
      Math.fround(xs.reduce((most, value) => Math.max(most, Math.abs(value)), 0)) + Math.fround(1e-9),
    );
    const scale = Math.fround(ws.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / 127);
    let sum = 0;
    for (let i = 0; i < numIn; i++) {
      sum +=
        roundHalfEven(Math.fround(Math.fround((xs[i] as number) / rowMax) / Math.fround(1 / 127))) *
        Math.round((ws[i] as number) / scale);
    }
    return (sum * scale * rowMax) / 127;
  });
}

function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const isHalf = value - floor === 0.5;
  return isHalf ? floor + (floor % 2 === 0 ? 0 : 1) : Math.round(value);
}

const ownKernels = await exactInt8Kernels();

describe("an int8 product", () => {
  const [numOut, numIn] = [70, 96];

  test.each([
    { kind: "random", kernels: "careful" },
    { kind: "extreme", kernels: "careful" },
    { kind: "random", kernels: ownKernels },
    { kind: "extreme", kernels: ownKernels },
  ] as const)("is exact integer arithmetic on $kind values, $kernels: nothing saturates", async ({ kind, kernels }) => {
    const random = seededRandom(1);
    // Extreme ones make every product 127 · 127: where pairs are added in 16 bits, that overflows.
    const value = kind === "extreme" ? () => 3 : () => randomNormal(random);
    const weights = Float32Array.from({ length: numOut * numIn }, value);
    const x = Float32Array.from({ length: 5 * numIn }, value);
    const session = await int8Session([looseLinear(weights, numOut, numIn)], numIn, kernels);
    const { y } = await session.run({ x: { data: x, dims: [5, numIn] } });
    const expected = plainInt8(x, weights, numOut, numIn);
    const actual = y?.data as Float32Array;
    expected.forEach((value_, index) => expect(actual[index]).toBeCloseTo(value_, 3));
    await session.dispose();
  });

  test("gives a row the same bits alone and beside rows a thousand times as large", async () => {
    const random = seededRandom(2);
    const weights = Float32Array.from({ length: numOut * numIn }, () => randomNormal(random));
    const session = await int8Session([looseLinear(weights, numOut, numIn)], numIn);
    const rows = Array.from({ length: 9 }, (_, row) =>
      Float32Array.from({ length: numIn }, () => randomNormal(random) * 10 ** (row % 4)),
    );
    const together = await session.run({
      x: { data: Float32Array.from(rows.flatMap((row) => Array.from(row))), dims: [9, numIn] },
    });
    for (const [index, row] of rows.entries()) {
      const { y } = await session.run({ x: { data: row, dims: [1, numIn] } });
      expect(y?.data).toEqual(together["y"]?.data.slice(index * numOut, (index + 1) * numOut));
    }
    await session.dispose();
  });

  test("takes no rows, rows of zeros, and products stacked on one input", async () => {
    const random = seededRandom(3);
    const parts = [40, 30].map((out) =>
      looseLinear(
        Float32Array.from({ length: out * numIn }, () => randomNormal(random)),
        out,
        numIn,
      ),
    );
    const session = await int8Session(parts, numIn);
    expect((await session.run({ x: { data: new Float32Array(0), dims: [0, numIn] } }))["y"]?.dims).toEqual([0, 70]);
    const { y } = await session.run({ x: { data: new Float32Array(numIn), dims: [1, numIn] } });
    expect(Array.from(y?.data as Float32Array).every((value) => value === 0)).toBe(true);
    await session.dispose();
  });
});

describe("an 8-bit product in blocks", () => {
  const [numOut, numIn] = [50, 128];
  const random = seededRandom(5);
  const weights = Float32Array.from({ length: numOut * numIn }, () => randomNormal(random));

  async function blockwiseSession(): Promise<GraphSession> {
    const g = new GraphBuilder("blockwise");
    const x = g.input("x", "float32", ["rows", numIn]);
    const blocks = eightBitBlocks(looseLinear(weights, numOut, numIn).weight) as BlockSource;
    g.output("y", blockLinear(g, "head", x, [blocks]), "float32", ["rows", numOut]);
    return GraphSession.load(await cachedGraph(g.build(), "test", await temporaryFolder()), { threads: 2 });
  }

  test("is near the float product, however large one channel is", async () => {
    const session = await blockwiseSession();
    const x = Float32Array.from({ length: numIn }, (_, index) => (index === 3 ? 100 : randomNormal(random)));
    const { y } = await session.run({ x: { data: x, dims: [1, numIn] } });
    for (let out = 0; out < numOut; out++) {
      const exact = x.reduce((sum, value, i) => sum + value * (weights[out * numIn + i] as number), 0);
      // The block with the large channel has steps of 100 / 127; the other 64 channels keep their own.
      expect(Math.abs((y?.data[out] as number) - exact)).toBeLessThan(6);
    }
    await session.dispose();
  });

  test("gives a row the same bits alone and in any batch", async () => {
    const session = await blockwiseSession();
    for (const count of [2, 3, 16, 33]) {
      const x = Float32Array.from({ length: count * numIn }, () => randomNormal(random));
      const together = await session.run({ x: { data: x, dims: [count, numIn] } });
      for (let row = 0; row < count; row++) {
        const { y } = await session.run({ x: { data: x.slice(row * numIn, (row + 1) * numIn), dims: [1, numIn] } });
        expect(y?.data).toEqual(together["y"]?.data.slice(row * numOut, (row + 1) * numOut));
      }
    }
    await session.dispose();
  });
});

test("weights keep within half a step of their values, and a row of zeros stays zero", () => {
  const random = seededRandom(4);
  const [numOut, numIn] = [13, 37];
  const weights = Float32Array.from({ length: numOut * numIn }, (_, index) =>
    index < numIn ? 0 : randomNormal(random),
  );
  const { transposed, scales } = quantizeRows(weights, numOut, numIn);
  for (let out = 0; out < numOut; out++) {
    for (let i = 0; i < numIn; i++) {
      const back = (transposed[i * numOut + out] as number) * (scales[out] as number);
      expect(Math.abs(back - (weights[out * numIn + i] as number))).toBeLessThanOrEqual(
        (scales[out] as number) * 0.5001,
      );
    }
  }
  expect(scales[0]).toBe(0);
});
