// Packed weights of several routers in one cache folder.

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { openModel } from "@readme-moe/model";
import { KernelRouter } from "@readme-moe/router";
import { expect, test } from "vitest";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyReadMe } from "../support/tiny-read-me.ts";

const TOKENS = Array.from({ length: 90 }, (_, index) => (index * 37) % 96);

/** Routes with a model whose packed router is in `cacheFolder`. */
async function routeWith(path: string, cacheFolder: string): Promise<Float32Array> {
  const model = await openModel(path);
  const router = await KernelRouter.open(model, { cacheFolder });
  const [route] = await router.route([{ state: router.start(), tokenIds: TOKENS }]);
  await router.dispose();
  await model.close();
  return route?.logits.slice() ?? new Float32Array();
}

test("each router is read from its own entry, and from the same one when it is opened again", async () => {
  const folder = await temporaryFolder();
  const shared = join(folder, "cache");
  const paths = [join(folder, "a"), join(folder, "b")] as const;
  for (const [seed, path] of paths.entries()) await writeTinyReadMe(path, { seed });
  const first = await routeWith(paths[0], shared);
  const second = await routeWith(paths[1], shared);
  expect(first).not.toEqual(second);
  expect(second).toEqual(await routeWith(paths[1], join(folder, "other")));
  const entries = async (): Promise<readonly string[]> => (await readdir(shared, { recursive: true })).toSorted();
  const before = await entries();
  expect(await routeWith(paths[0], shared)).toEqual(first);
  expect(await entries()).toEqual(before);
});
