import { describeModel } from "@readme-moe/kernel";
import { openModel, type ModelConfig } from "@readme-moe/model";
import { expect, test } from "vitest";
import { packedWeights } from "../../../packages/kernel/src/pack/packed-file.ts";
import { fixture } from "../../support/fixtures.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

test("caches descriptions of the same weights apart when they differ", async () => {
  const cacheFolder = await temporaryFolder();
  const model = await openModel(fixture("families/granite"));
  const { config, experts, weights } = model;
  const pathOf = (changed: ModelConfig): Promise<string | Uint8Array> =>
    packedWeights(describeModel({ config: changed, experts, weights }, "fp32"), { key: "the same", cacheFolder });
  const path = await pathOf(config);
  expect(await pathOf({ ...config })).toBe(path);
  expect(await pathOf({ ...config, attentionScale: 2 * config.attentionScale })).not.toBe(path);
  const layers = config.layers.map((layer) => ({ ...layer, angleSet: undefined }));
  expect(await pathOf({ ...config, layers })).not.toBe(path);
  await model.close();
});
