// From a graph to its session, through the cache.

import { rmSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { GraphBuilder, openGraph, operators, type Graph, type GraphSession } from "@readme-moe/model";
import { expect, test } from "vitest";
import { onlyEntry } from "../support/cached-entry.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

/** `y = x + w`, with all of `w` the same. */
function sum(size: number, value: number): Graph {
  const g = new GraphBuilder("sum");
  const weight = g.weight("w", "float32", [size], () => new Uint8Array(new Float32Array(size).fill(value).buffer));
  g.output("y", operators.Add(g, g.input("x", "float32", [size]), weight), "float32", [size]);
  return g.build();
}

async function run(session: GraphSession, size: number): Promise<number> {
  const { y } = await session.run({ x: { data: new Float32Array(size).fill(1), dims: [size] } });
  return y?.data[size - 1] as number;
}

test("an entry that is removed between its check and its use is built again", async () => {
  const cacheFolder = await temporaryFolder();
  let numLoads = 0;
  const session = await openGraph(sum(1024, 2), "model", {
    cacheFolder,
    onLoading: () => void (++numLoads === 1 && rmSync(join(cacheFolder, "graphs"), { recursive: true })),
    onCacheFailure: (reason) => expect.unreachable(reason),
  });
  expect(await run(session, 1024)).toBe(3);
  expect(numLoads).toBe(2);
  await onlyEntry(cacheFolder);
  await session.dispose();
});

test("an entry that is always gone is an error, not a loop", async () => {
  const cacheFolder = await temporaryFolder();
  const onLoading = (): void => rmSync(join(cacheFolder, "graphs"), { recursive: true });
  await expectReadMeError(openGraph(sum(1024, 2), "model", { cacheFolder, onLoading }), "ERR_RUNTIME", "sum");
});

test("a graph that cannot be cached is told once, and its weights are not kept beside the runtime's own", async () => {
  const numWeights = 1 << 24;
  const cacheFolder = join(await temporaryFolder(), "file");
  await writeFile(cacheFolder, "");
  const reasons: string[] = [];
  const before = await heldBytes();
  const session = await openGraph(sum(numWeights, 2), "model", {
    cacheFolder,
    onCacheFailure: (reason) => reasons.push(reason),
  });
  expect(reasons).toEqual([expect.stringMatching(/^ENOTDIR: /)]);
  expect((await heldBytes()) - before).toBeLessThan(numWeights);
  expect(await run(session, numWeights)).toBe(3);
  await session.dispose();
});

/** Bytes of all arrays that are in use. */
async function heldBytes(): Promise<number> {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  // What native code held is let go of in the turn after, and its memory in the collection after that.
  for (let turn = 0; turn < 3; turn++) {
    collect();
    await new Promise((resolve) => setImmediate(resolve));
  }
  return process.memoryUsage().arrayBuffers;
}
