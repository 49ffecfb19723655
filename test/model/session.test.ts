// What the project relies on in the pinned inference runtime. A newer one that copies inputs, or no longer dies of
// some shapes, changes how engine and graphs are best built.

import { createRequire } from "node:module";
import { cachedGraph, GraphBuilder, GraphSession, operators, type GraphTensor } from "@readme-moe/model";
import { expect, test } from "vitest";
import { temporaryFolder } from "../support/temporary-folder.ts";

test("the runtime is the version that was measured", () => {
  const require = createRequire(import.meta.url);
  expect((require("onnxruntime-node/package.json") as { version: string }).version).toBe("1.30.0");
});

test("inputs are read in place: passing 512 MB costs nothing like copying them", async () => {
  const numFloats = 1 << 27;
  const g = new GraphBuilder("first");
  const x = g.input("x", "float32", ["n"]);
  g.output("first", operators.Gather(g, x, g.integers([0])), "float32", [1]);
  const session = await GraphSession.load(await cachedGraph(g.build(), "", await temporaryFolder()), { threads: 1 });
  const data = new Float32Array(numFloats).fill(1);
  const feeds = { x: { data, dims: [numFloats] } };
  await session.run(feeds);
  const before = process.memoryUsage().rss;
  const copying = timeMs(() => data.slice());
  let fastest = Infinity;
  for (let round = 0; round < 5; round++) {
    const start = performance.now();
    data[0] = round;
    const { first } = await session.run(feeds);
    fastest = Math.min(fastest, performance.now() - start);
    expect(first?.data[0]).toBe(round);
  }
  expect(fastest).toBeLessThan(copying / 5);
  expect(process.memoryUsage().rss - before).toBeLessThan(2 * data.byteLength);
  await session.dispose();
});

test("a run takes what it is given, in parts or at once, and nothing of other runs", async () => {
  const g = new GraphBuilder("sum");
  const [a, b] = [g.input("a", "float32", ["n"]), g.input("b", "float32", ["n"])];
  g.output("y", operators.Add(g, a, b), "float32", ["n"]);
  const session = await GraphSession.load(await cachedGraph(g.build(), "", await temporaryFolder()), { threads: 1 });
  const sums = (feeds: readonly (readonly [number, number])[]): Promise<readonly unknown[]> =>
    Promise.all(
      feeds.map(async ([left, right]) => (await session.run({ a: tensor(left) }, { b: tensor(right) }))["y"]?.data[0]),
    );
  // The first of them begin before any has ended.
  const pairs = Array.from({ length: 8 }, (_, index) => [index, 10 * index] as const);
  expect(await sums(pairs)).toEqual(pairs.map(([left, right]) => left + right));
  await expect(session.run({ a: tensor(1) })).rejects.toThrow("input 'b' is missing");
  // What lasts is read anew each time.
  const lasting = tensor(1, true);
  for (const value of [1, 2, 3]) {
    lasting.data[0] = value;
    expect((await session.run({ a: lasting, b: tensor(0.5) }))["y"]?.data[0]).toBe(value + 0.5);
  }
  await session.dispose();
});

test("outputs are written to the memory that is given for them, and to no other", async () => {
  const g = new GraphBuilder("sum");
  const [a, b] = [g.input("a", "float32", ["n"]), g.input("b", "float32", ["n"])];
  g.output("sum", operators.Add(g, a, b), "float32", ["n"]);
  g.output("product", operators.Mul(g, a, b), "float32", ["n"]);
  const session = await GraphSession.load(await cachedGraph(g.build(), "", await temporaryFolder()), { threads: 1 });
  const memory = new Float32Array(4).fill(-1);
  const feeds = { a: tensor(2), b: tensor(5) };
  const place = { data: memory.subarray(1, 2), dims: [1] };
  const { sum, product } = await session.runInto({ sum: place }, feeds);
  expect(sum).toBe(place);
  expect(Array.from(memory)).toEqual([-1, 7, -1, -1]);
  expect(product?.data[0]).toBe(10);
  // Nothing is written there later, and nothing past its end.
  expect((await session.run({ ...feeds, a: tensor(3) }))["sum"]?.data[0]).toBe(8);
  const tooSmall = { sum: { data: memory.subarray(1, 2), dims: [1] } };
  const two = { data: Float32Array.of(1, 2), dims: [2] };
  await expect(session.runInto(tooSmall, { a: two, b: two })).rejects.toMatchObject({ code: "ERR_RUNTIME" });
  expect(Array.from(memory)).toEqual([-1, 7, -1, -1]);
  await session.dispose();
});

test("zero rows pass through the operators that idle experts and empty groups meet", async () => {
  const g = new GraphBuilder("empty");
  const x = g.input("x", "float32", ["rows", 8]);
  const weight = g.weight("w", "float32", [16, 8], () => new Uint8Array(4 * 16 * 8));
  const gated = operators.QuickGelu(g, operators.Gemm(g, x, weight, undefined), 1);
  const scores = operators.Softmax(g, operators.FusedMatMul(g, gated, gated, { transB: true }), -1);
  g.output("y", operators.FusedMatMul(g, scores, gated), "float32", ["rows", 16]);
  const session = await GraphSession.load(await cachedGraph(g.build(), "", await temporaryFolder()), { threads: 1 });
  const { y } = await session.run({ x: { data: new Float32Array(0), dims: [0, 8] } });
  expect(y?.dims).toEqual([0, 16]);
  await session.dispose();
});

function tensor(value: number, isLasting?: true): GraphTensor & { readonly data: Float32Array } {
  return { data: Float32Array.of(value), dims: [1], isLasting };
}

function timeMs(work: () => unknown): number {
  const start = performance.now();
  work();
  return performance.now() - start;
}
