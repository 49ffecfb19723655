// Checkpoints in the naming of the paper's own conversion: test/fixtures/official-*.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { openModel, readMeTensors, verifyModel, writeReadMeFolder, type Model } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { plainLogits } from "../oracles/plain-decoder.ts";
import { greedyTokens } from "../support/greedy.ts";
import { fixture, golden } from "../support/fixtures.ts";
import { largestDifference, promptLogits, runningModel } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

interface Golden {
  readonly cases: readonly {
    readonly input_ids: readonly number[];
    readonly router_logits: readonly (readonly number[])[];
    readonly route: readonly number[];
    readonly last_logits: readonly number[];
    readonly greedy_16: readonly number[];
  }[];
}

describe.each(["official-fused-residual", "official-separate-residual"])("%s", (name) => {
  test("gives the published router logits, routes, logits and greedy tokens", async () => {
    await using running = await runningModel(fixture(name));
    const { router } = running;
    expect(running.model.kind).toBe("official");
    for (const { input_ids: tokenIds, ...expected } of (golden(name) as Golden).cases) {
      const [route] = await router.route([{ state: router.start(), tokenIds }]);
      expect(largestDifference(route?.logits ?? [], expected.router_logits.flat())).toBeLessThan(1e-3);
      expect(Array.from(route?.experts ?? [])).toEqual(expected.route);
      const { fullLogits } = await promptLogits(running, tokenIds);
      expect(largestDifference(fullLogits, expected.last_logits)).toBeLessThan(1e-3);
      const tokens = await greedyTokens(running, tokenIds, 16);
      expect(tokens).toEqual(expected.greedy_16);
    }
  });

  test("names its seven experts after the paper's domains, and one can be chosen by name or index", async () => {
    const ids = [14, 31, 120, 112];
    await using byName = await runningModel(fixture(name), "github");
    await using byIndex = await runningModel(fixture(name), 4);
    const named = await promptLogits(byName, ids);
    const indexed = await promptLogits(byIndex, ids);
    expect(named.fullLogits).toEqual(indexed.fullLogits);
    const plain = await plainLogits(byName.model, ids, [4, 4, 4, 4]);
    expect(largestDifference(named.fullLogits, plain.at(-1) ?? [])).toBeLessThan(1e-4);
  });

  test("becomes a Read-ME folder with the same numbers, bit for bit", async () => {
    const target = join(await temporaryFolder(), "model");
    await using official = await runningModel(fixture(name));
    await writeAsReadMe(official.model, target);
    await using converted = await runningModel(target);
    expect(converted.model.kind).toBe("read-me");
    expect(converted.model.experts).toEqual(official.model.experts);
    await verifyModel(converted.model);
    for (const { input_ids: ids } of (golden(name) as Golden).cases) {
      const before = await promptLogits(official, ids);
      const after = await promptLogits(converted, ids);
      expect(after.fullLogits).toEqual(before.fullLogits);
    }
  });
});

test("a conversion without its router is rejected unless an expert is named", async () => {
  const model = await openModel(fixture("official-fused-residual"));
  const { openRouter } = await import("@readme-moe/router");
  const withoutRouter = { ...model, router: undefined };
  await expect(openRouter(withoutRouter)).rejects.toMatchObject({ code: "ERR_MODEL_INVALID" });
  await expect(openRouter(withoutRouter, "gihtub")).rejects.toThrow(/did you mean github/);
  expect((await openRouter(withoutRouter, "github")).numExperts).toBe(7);
  await model.close();
});

async function writeAsReadMe(model: Model, target: string): Promise<void> {
  const config = JSON.parse(await readFile(join(model.path, "config.json"), "utf8")) as Record<string, unknown>;
  const { experts, router } = model;
  await writeReadMeFolder(target, {
    config,
    readme: {
      version: 1,
      num_experts: experts.names.length,
      expert_names: experts.names,
      expert_size: experts.expertSizes,
      shared_size: experts.sharedSizes,
      ...(router
        ? {
            router: {
              embedding_size: router.config.embeddingSize,
              inner_size: router.config.innerSize,
              num_heads: router.config.numHeads,
              num_layers: router.config.numLayers,
              normalizer: router.config.normalizer,
              rope_theta: router.config.ropeTheta,
              context_tokens: router.config.contextTokens,
              activation: "silu",
            },
          }
        : {}),
    },
    tensors: readMeTensors(model.weights, router),
  });
}
