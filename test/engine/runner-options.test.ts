// How a runner is opened: its default precision, and what streamed experts need.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { KernelRunner } from "@readme-moe/engine";
import type { KvSlot } from "@readme-moe/kernel";
import { openModel, type Model } from "@readme-moe/model";
import { beforeAll, expect, onTestFinished, test } from "vitest";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyReadMe } from "../support/tiny-read-me.ts";

let folder: string;
beforeAll(async () => {
  folder = await persistentFolder();
  for (const numExperts of [2, 3]) await writeTinyReadMe(join(folder, `${numExperts}`), { numExperts });
});

async function open(name: string): Promise<Model> {
  const model = await openModel(join(folder, name));
  onTestFinished(() => model.close());
  return model;
}

/** Runs some tokens through a model, and gives the logits of the last one. */
async function logitsOf(model: Model, options: Parameters<typeof KernelRunner.open>[1]): Promise<Float32Array> {
  const runner = await KernelRunner.open(model, { threads: 1, ...options });
  const kv = runner.openKv({ capacityTokens: 64 });
  const [tokenIds, experts] = [
    [5, 6, 7],
    [0, 1, 0],
  ];
  const sequence = { slot: kv.admit(3) as KvSlot, tokenIds, experts, logitsOf: [2], wantsFullLogits: true };
  const logits = (await runner.forward(kv, [sequence]))[0]?.fullLogits.slice() ?? new Float32Array();
  kv.dispose();
  await runner.dispose();
  return logits;
}

test("products are in float32 by default, and in int8 if experts are streamed", async () => {
  const model = await open("2");
  const [floats, bytes] = [await logitsOf(model, { precision: "fp32" }), await logitsOf(model, { precision: "int8" })];
  expect(floats).not.toEqual(bytes);
  expect(await logitsOf(model, {})).toEqual(floats);
  // Two experts are the fewest that can be streamed.
  const expertCacheBytes = 2 * 8960;
  expect(await logitsOf(model, { expertCacheBytes, kvPrecision: "fp16" })).toEqual(bytes);
});

test("experts are not streamed from a cache folder that cannot be written", async () => {
  const expertCacheBytes = 1 << 20;
  const file = join(await temporaryFolder(), "file");
  await writeFile(file, "no folder");
  const options = { expertCacheBytes, threads: 1, cacheFolder: join(file, "cache") };
  await expect(KernelRunner.open(await open("3"), options)).rejects.toMatchObject({
    code: "ERR_WRITE_FAILED",
    message: "Streamed experts are read from the cache folder, which cannot be written",
  });
});
