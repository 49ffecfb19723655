// Every family against PyTorch's numbers: test/fixtures/families and mixtures, made with transformers in float32.

import { join } from "node:path";
import type { StepLogits } from "@readme-moe/engine";
import type { KvSlot } from "@readme-moe/kernel";
import { openModel } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { writeModelGguf } from "../support/gguf/convert-model.ts";
import { greedyTokens } from "../support/greedy.ts";
import { fixture, fixtureNames, golden } from "../support/fixtures.ts";
import { largestDifference, promptLogits, runningModel, type RunningModel } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

interface Golden {
  readonly cases: readonly {
    readonly input_ids: readonly number[];
    readonly last_logits: readonly number[];
    readonly greedy_16: readonly number[];
    /** Least distance between the two largest logits of a greedy step; absent for fixtures without close calls. */
    readonly smallest_gap?: number;
  }[];
}

describe.each([...fixtureNames("families"), ...fixtureNames("mixtures")])("%s", (name) => {
  const { cases } = golden(name) as Golden;

  test("gives PyTorch's logits and greedy tokens", async () => {
    await using running = await runningModel(fixture(name), undefined, "fp32", await temporaryFolder());
    expect(cases.map((one) => one.input_ids.length)).toEqual([1, 7, 40, 130]);
    for (const { input_ids: ids, last_logits: logits, greedy_16: greedy, smallest_gap: gap = 1 } of cases) {
      const { fullLogits } = await promptLogits(running, ids);
      expect(largestDifference(fullLogits, logits)).toBeLessThan(1e-3);
      const tokens = await greedyTokens(running, ids, 16);
      if (gap > 0.002) expect(tokens).toEqual(greedy);
    }
  });

  test.each(["int8", "int4"] as const)("gives the same bits in %s alone and in a batch", async (precision) => {
    await using running = await runningModel(fixture(name), undefined, precision);
    const prompts = cases.map((one) => one.input_ids);
    const together = await logitsTogether(running, prompts);
    for (const [index, ids] of prompts.entries()) {
      const { fullLogits } = await promptLogits(running, ids);
      expect(fullLogits.every(Number.isFinite)).toBe(true);
      expect(together[index]).toEqual(fullLogits);
    }
  });

  test("gives the same logits as a GGUF file", async () => {
    await using folder = await runningModel(fixture(name));
    const path = join(await temporaryFolder(), "model.gguf");
    const model = await openModel(fixture(name));
    await writeModelGguf(model, path, "F32");
    await model.close();
    await using file = await runningModel(path, undefined, "fp32", await temporaryFolder());
    // GGUF files of Mistral do not name its window, which is beyond these prompts.
    for (const { input_ids: ids } of cases.slice(0, 2)) {
      const [expected, actual] = [await promptLogits(folder, ids), await promptLogits(file, ids)];
      expect(largestDifference(actual.fullLogits, expected.fullLogits)).toBeLessThan(1e-4);
    }
  });
});

/** Runs all prompts in one step and returns the logits behind each. */
async function logitsTogether(
  { runner, router }: RunningModel,
  prompts: readonly (readonly number[])[],
): Promise<readonly Float32Array[]> {
  const kv = runner.openKv({ capacityTokens: 1024 });
  const sequences = [];
  for (const tokenIds of prompts) {
    const [route] = await router.route([{ state: router.start(), tokenIds }]);
    const slot = kv.admit(tokenIds.length) as KvSlot;
    const logitsOf = [tokenIds.length - 1];
    sequences.push({ slot, tokenIds, experts: route?.experts ?? [], logitsOf, wantsFullLogits: true });
  }
  const results: readonly StepLogits[] = await runner.forward(kv, sequences);
  return results.map(({ fullLogits }) => fullLogits.slice());
}
