// What refactoring, tuning and exports rely on in the pinned inference runtime.

import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { GraphBuilder, GraphSession, operators, type GraphTensor } from "@readme-moe/refactor/graphs";
import { expect, test } from "vitest";

test("the runtime is the version that was measured", () => {
  const require = createRequire(import.meta.url);
  expect((require("onnxruntime-node/package.json") as { version: string }).version).toBe("1.30.0");
});

const isLinux = process.platform === "linux";

test.skipIf(!isLinux)(
  "inputs of 512 MB are read in place, without a copy (skipped elsewhere than on Linux)",
  async () => {
    const numFloats = 1 << 27;
    const g = new GraphBuilder("first");
    const x = g.input("x", "float32", ["n"]);
    g.output("first", operators.Gather(g, x, g.integers([0])), "float32", [1]);
    const session = await GraphSession.open(g.build(), { threads: 1 });
    const data = new Float32Array(numFloats).fill(1);
    const feeds = { x: { data, dims: [numFloats] } };
    const before = await peakAfter(async () => {});
    const peak = await peakAfter(async () => {
      for (let round = 0; round < 2; round++) {
        data[0] = round;
        const { first } = await session.run(feeds);
        expect(first?.data[0]).toBe(round);
      }
    });
    expect(peak - before).toBeLessThan(data.byteLength / 2);
    await session.dispose();
  },
);

test("concurrent runs do not share inputs or outputs", async () => {
  const g = new GraphBuilder("sum");
  const [a, b] = [g.input("a", "float32", ["n"]), g.input("b", "float32", ["n"])];
  g.output("y", operators.Add(g, a, b), "float32", ["n"]);
  const session = await GraphSession.open(g.build(), { threads: 1 });
  const sums = (feeds: readonly (readonly [number, number])[]): Promise<readonly unknown[]> =>
    Promise.all(
      feeds.map(async ([left, right]) => (await session.run({ a: tensor(left), b: tensor(right) }))["y"]?.data[0]),
    );
  // The first of them begin before any has ended.
  const pairs = Array.from({ length: 8 }, (_, index) => [index, 10 * index] as const);
  expect(await sums(pairs)).toEqual(pairs.map(([left, right]) => left + right));
  await expect(session.run({ a: tensor(1) })).rejects.toThrow("input 'b' is missing");
  await session.dispose();
});

test("the operators of a batch without tokens accept zero rows", async () => {
  const g = new GraphBuilder("empty");
  const x = g.input("x", "float32", ["rows", 8]);
  const weight = g.weight("w", "float32", [16, 8], () => new Uint8Array(4 * 16 * 8));
  const gated = operators.QuickGelu(g, operators.Gemm(g, x, weight, undefined), 1);
  const scores = operators.Softmax(g, operators.FusedMatMul(g, gated, gated, { transB: true }), -1);
  g.output("y", operators.FusedMatMul(g, scores, gated), "float32", ["rows", 16]);
  const session = await GraphSession.open(g.build(), { threads: 1 });
  const { y } = await session.run({ x: { data: new Float32Array(0), dims: [0, 8] } });
  expect(y?.dims).toEqual([0, 16]);
  await session.dispose();
});

function tensor(value: number): GraphTensor {
  return { data: Float32Array.of(value), dims: [1] };
}

/** Returns the largest memory of this process during some work, in bytes. */
async function peakAfter(work: () => Promise<void>): Promise<number> {
  // Sets the peak to what is in use now.
  await writeFile("/proc/self/clear_refs", "5");
  await work();
  const [, kilobytes] = /^VmHWM:\s+(\d+) kB/m.exec(await readFile("/proc/self/status", "utf8")) ?? [];
  return 1024 * Number(kilobytes);
}

test("the runtime's refusal of a graph contains the graph's name", async () => {
  const g = new GraphBuilder("nonsense");
  g.output("y", g.node("NoSuchOperator", [g.input("x", "float32", [1])]), "float32", [1]);
  await expect(GraphSession.open(g.build())).rejects.toMatchObject({ code: "ERR_RUNTIME", message: /nonsense/ });
});

test("a constant whose size is not that of its shape is refused before the runtime reads it", async () => {
  const g = new GraphBuilder("short");
  const weight = g.weight("w", "float32", [512], () => new Uint8Array(4));
  g.output("y", operators.Add(g, g.input("x", "float32", [512]), weight), "float32", [512]);
  await expect(GraphSession.open(g.build())).rejects.toThrow("The constant w has 4 bytes, not 2048");
});
