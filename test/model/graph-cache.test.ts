import { mkdir, readdir, rm, truncate, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { cachedGraph, GraphBuilder, GraphSession, operators, type CachedGraph, type Graph } from "@readme-moe/model";
import { expect, test } from "vitest";
import { ENTRY_DAMAGES, onlyEntry } from "../support/cached-entry.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const SIZE = 64;

/** `y = x · wᵀ` with a weight that is large enough for the data file. `reads` counts how often it is asked for. */
function sampleGraph(scale = 1): { readonly graph: Graph; readonly reads: () => number } {
  let reads = 0;
  const g = new GraphBuilder("sample");
  const weight = g.weight("w", "float32", [SIZE, SIZE], () => {
    reads += 1;
    return new Uint8Array(Float32Array.from({ length: SIZE * SIZE }, (_, index) => scale * (index % 7)).buffer);
  });
  g.output("y", operators.Gemm(g, g.input("x", "float32", ["rows", SIZE]), weight, undefined), "float32", [
    "rows",
    SIZE,
  ]);
  return { graph: g.build(), reads: () => reads };
}

async function firstOutput(cached: CachedGraph): Promise<number> {
  const session = await GraphSession.load(cached, { threads: 1 });
  const { y } = await session.run({ x: { data: new Float32Array(SIZE).fill(1), dims: [1, SIZE] } });
  await session.dispose();
  return y?.data[1] as number;
}

const EXPECTED = Array.from({ length: SIZE }, (_, index) => (SIZE + index) % 7).reduce((sum, value) => sum + value, 0);

test("a graph is built once and then comes from the cache", async () => {
  const cache = await temporaryFolder();
  const first = sampleGraph();
  expect(await firstOutput(await cachedGraph(first.graph, "model", cache))).toBe(EXPECTED);
  expect(first.reads()).toBe(1);
  const second = sampleGraph();
  const cached = await cachedGraph(second.graph, "model", cache);
  expect(cached.kind).toBe("file");
  expect(await firstOutput(cached)).toBe(EXPECTED);
  expect(second.reads()).toBe(0);
});

test("another model, and another graph, are other entries", async () => {
  const cache = await temporaryFolder();
  await cachedGraph(sampleGraph().graph, "model", cache);
  const other = sampleGraph(2);
  expect(await firstOutput(await cachedGraph(other.graph, "other model", cache))).toBe(2 * EXPECTED);
  expect(await readdir(join(cache, "graphs"))).toHaveLength(2);
});

const DAMAGES: typeof ENTRY_DAMAGES = {
  ...ENTRY_DAMAGES,
  "the weights missing": (entry) => rm(join(entry, "weights.bin")),
  "the weights empty": (entry) => truncate(join(entry, "weights.bin"), 0),
  "the description empty": (entry) => writeFile(join(entry, "entry.json"), ""),
  "the description without a file": (entry) => writeFile(join(entry, "entry.json"), "{}"),
  "the description null": (entry) => writeFile(join(entry, "entry.json"), "null"),
  "a folder in place of the weights": async (entry) => {
    await rm(join(entry, "weights.bin"));
    await mkdir(join(entry, "weights.bin"));
  },
  "an empty folder": async (entry) => {
    await rm(entry, { recursive: true });
    await mkdir(entry);
  },
};

test.each(Object.entries(DAMAGES))("a damaged entry is built again: %s", async (_, damage) => {
  const cache = await temporaryFolder();
  await cachedGraph(sampleGraph().graph, "model", cache);
  await damage(await onlyEntry(cache));
  const rebuilt = sampleGraph();
  expect(await firstOutput(await cachedGraph(rebuilt.graph, "model", cache))).toBe(EXPECTED);
  expect(rebuilt.reads()).toBe(1);
  const again = sampleGraph();
  await cachedGraph(again.graph, "model", cache);
  expect(again.reads()).toBe(0);
  await onlyEntry(cache); // and nothing else was left behind
});

test("several builders of one entry all get it", async () => {
  const cache = await temporaryFolder();
  const graphs = await Promise.all(Array.from({ length: 5 }, () => cachedGraph(sampleGraph().graph, "model", cache)));
  for (const cached of graphs) expect(await firstOutput(cached)).toBe(EXPECTED);
  await onlyEntry(cache);
});

test("a cache that cannot be written is done without", async () => {
  const folder = await temporaryFolder();
  const file = join(folder, "not-a-folder");
  await writeFile(file, "");
  const cached = await cachedGraph(sampleGraph().graph, "model", file);
  expect(cached).toMatchObject({ kind: "memory", reason: expect.any(Error) });
  expect(await firstOutput(cached)).toBe(EXPECTED);
});

test("a constant that fails to be read leaves nothing behind, and its error is told", async () => {
  const cache = await temporaryFolder();
  const g = new GraphBuilder("broken");
  const weight = g.weight("w", "float32", [SIZE, SIZE], () => {
    throw new Error("the checkpoint is gone");
  });
  g.output("y", operators.Gemm(g, g.input("x", "float32", ["rows", SIZE]), weight, undefined), "float32", [
    "rows",
    SIZE,
  ]);
  await expect(cachedGraph(g.build(), "model", cache)).rejects.toThrow(/the checkpoint is gone/);
  expect(await readdir(join(cache, "graphs"))).toEqual([]);
});

test("several builders that find a damaged entry all get a whole one", async () => {
  const cache = await temporaryFolder();
  await cachedGraph(sampleGraph().graph, "model", cache);
  await ENTRY_DAMAGES["a byte of the weights changed"]?.(await onlyEntry(cache));
  const graphs = await Promise.all(Array.from({ length: 5 }, () => cachedGraph(sampleGraph().graph, "model", cache)));
  for (const cached of graphs) expect(cached.kind).toBe("file");
  expect(await firstOutput(graphs[0] as CachedGraph)).toBe(EXPECTED);
  await onlyEntry(cache);
});

test("weights that fit neither the cache nor memory are refused, with both reasons", async () => {
  const file = join(await temporaryFolder(), "file");
  await writeFile(file, "");
  const g = new GraphBuilder("huge");
  g.output(
    "y",
    g.weight("w", "float32", [2 ** 24, 2 ** 24], () => new Uint8Array()),
    "float32",
    [2 ** 24, 2 ** 24],
  );
  const refused = cachedGraph(g.build(), "model", file);
  await expectReadMeError(refused, "ERR_WRITE_FAILED", "huge", "ENOTDIR", `${2 ** 50} bytes`);
});

test("what a killed builder left is removed once it is old, while a slow builder's is not", async () => {
  const cache = await temporaryFolder();
  const [killed, slow] = ["killed", "slow"].map((name) => join(cache, "graphs", `.building-${name}`)) as [
    string,
    string,
  ];
  const longAgo = new Date(Date.now() - 48 * 3_600_000);
  for (const folder of [killed, slow]) {
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, "weights"), "half");
    await utimes(folder, longAgo, longAgo);
  }
  await utimes(join(killed, "weights"), longAgo, longAgo);
  await cachedGraph(sampleGraph().graph, "model", cache);
  const names = await readdir(join(cache, "graphs"));
  expect(names).toContain(".building-slow");
  expect(names).not.toContain(".building-killed");
});

test("the runtime's refusal of a graph names it", async () => {
  const g = new GraphBuilder("nonsense");
  g.output("y", g.node("NoSuchOperator", [g.input("x", "float32", [1])]), "float32", [1]);
  const cached = await cachedGraph(g.build(), "model", await temporaryFolder());
  await expect(GraphSession.load(cached)).rejects.toMatchObject({ code: "ERR_RUNTIME", message: /nonsense/ });
});
