// Loras in the engine's steps: PEFT's logits of test/fixtures/lora, alone and among others, with all experts
// in memory and with one at a time.

import { basename, dirname } from "node:path";
import { KernelRunner, openExperts, type StepSequence } from "@readme-moe/engine";
import { openModel, type Precision } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { fixture, fixtureNames, golden } from "../../support/fixtures.ts";
import { kvFor } from "../../support/greedy.ts";
import { randomInteger, seededRandom } from "../../support/random.ts";
import { largestDifference } from "../../support/running-model.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

interface Golden {
  readonly cases: readonly {
    readonly input_ids: readonly number[];
    readonly last_logits: readonly number[];
    readonly greedy_16: readonly number[];
    readonly smallest_gap?: number;
  }[];
}

interface OpenedBase extends AsyncDisposable {
  readonly runner: KernelRunner;
  /** Adapters by expert; expert 0 has none. */
  readonly adapters: readonly (string | undefined)[];
}

const FAMILIES = ["llama-tied", "qwen3"] as const;

async function openBase(
  family: string,
  options: { readonly precision?: Precision; readonly expertCacheBytes?: number; readonly threads?: number } = {},
): Promise<OpenedBase> {
  const adapters = fixtureNames(`lora/${family}`);
  const model = await openModel(fixture(`families/${family}`));
  const settings = { threads: 2, precision: "fp32" as const, cacheFolder: await temporaryFolder(), ...options };
  const runner = await KernelRunner.open(model, settings);
  const loras = Object.fromEntries(adapters.map((name) => [basename(name), fixture(name)]));
  const set = await openExperts(runner, model, loras);
  return {
    runner,
    adapters: [undefined, ...adapters],
    async [Symbol.asyncDispose]() {
      await Promise.all([set.close(), runner.dispose()]);
      await model.close();
    },
  };
}

/** Full logits of the last token of prompts, each with the experts of its tokens, that run in one step. */
async function lastLogits(
  runner: KernelRunner,
  prompts: readonly { readonly ids: readonly number[]; readonly experts: readonly number[] }[],
): Promise<readonly Float32Array[]> {
  const kv = kvFor(
    runner,
    prompts.reduce((sum, { ids }) => sum + ids.length + 64, 0),
  );
  const sequences = prompts.map(({ ids, experts }): StepSequence => {
    const slot = kv.admit(ids.length);
    if (!slot) throw new Error("Expected room");
    return { slot, tokenIds: ids, experts, logitsOf: [ids.length - 1], wantsFullLogits: true };
  });
  const results = await runner.forward(kv, sequences);
  const logits = results.map(({ fullLogits }) => fullLogits.slice());
  kv.dispose();
  return logits;
}

async function greedy(runner: KernelRunner, ids: readonly number[], expert: number, count: number): Promise<number[]> {
  const all = [...ids];
  for (let i = 0; i < count; i++) {
    const [logits] = await lastLogits(runner, [{ ids: all, experts: all.map(() => expert) }]);
    all.push(logits?.indexOf(Math.max(...logits)) ?? -1);
  }
  return all.slice(ids.length);
}

describe.each(FAMILIES)("adapters of %s", (family) => {
  test("give PEFT's logits and greedy tokens", async () => {
    await using base = await openBase(family);
    for (const [expert, name] of base.adapters.entries()) {
      const { cases } = golden(name ?? `families/${family}`) as Golden;
      for (const { input_ids: ids, last_logits: expected, greedy_16: tokens, smallest_gap: gap = 1 } of cases) {
        const [logits = []] = await lastLogits(base.runner, [{ ids, experts: ids.map(() => expert) }]);
        expect(largestDifference(logits, expected)).toBeLessThan(1e-3);
        if (gap > 0.002 && ids.length < 50) expect(await greedy(base.runner, ids, expert, 16)).toEqual(tokens);
      }
    }
  });

  test("move logits of int8 as far as those of fp32, within rounding", async () => {
    await using exact = await openBase(family);
    await using rounded = await openBase(family, { precision: "int8" });
    const ids = Array.from({ length: 30 }, (_, index) => (index * 7) % 90);
    const movedBy = async ({ runner }: OpenedBase, expert: number): Promise<readonly number[]> => {
      const prompts = [0, expert].map((one) => ({ ids, experts: ids.map(() => one) }));
      const [plain = [], changed = []] = await lastLogits(runner, prompts);
      return Array.from(changed, (logit, index) => logit - (plain[index] ?? NaN));
    };
    for (const expert of exact.adapters.keys()) {
      if (expert === 0) continue;
      const [expected, moved] = [await movedBy(exact, expert), await movedBy(rounded, expert)];
      const error = Math.hypot(...expected.map((value, index) => value - (moved[index] ?? NaN)));
      // Tiny random models amplify the rounding of their own weights; wrong factors would miss by the whole change.
      expect(error / Math.hypot(...expected)).toBeLessThan(0.1);
    }
  });

  test.each(["fp32", "int8", "int4"] as const)(
    "give the same bits in any batch and memory in %s",
    async (precision) => {
      const random = seededRandom(20_261_128);
      await using resident = await openBase(family, { precision });
      const { adapters } = resident;
      // Some prompts change their expert from token to token.
      const prompts = Array.from({ length: 9 }, (_, index) => {
        const ids = Array.from({ length: 1 + randomInteger(random, 40) }, () => randomInteger(random, 90));
        const one = randomInteger(random, adapters.length);
        return { ids, experts: ids.map(() => (index % 3 === 0 ? randomInteger(random, adapters.length) : one)) };
      });
      const alone: Float32Array[] = [];
      for (const prompt of prompts) alone.push(...(await lastLogits(resident.runner, [prompt])));
      expect(new Set(alone.map((logits) => logits.join())).size).toBe(prompts.length);
      expect(await lastLogits(resident.runner, prompts)).toEqual(alone);
      const { numBytes } = await largestExpert(resident.runner);
      for (const expertCacheBytes of [numBytes, 2 * numBytes, 100 * numBytes]) {
        await using streamed = await openBase(family, { precision, expertCacheBytes, threads: 1 });
        expect(await lastLogits(streamed.runner, prompts)).toEqual(alone);
        expect(await lastLogits(streamed.runner, prompts.toReversed())).toEqual(alone.toReversed());
        const stats = streamed.runner.residency.streamed?.stats;
        expect(stats?.usedBytes).toBeLessThanOrEqual(expertCacheBytes);
        expect(stats?.layerBytes).toEqual([numBytes]);
        expect(stats?.loads).toBeGreaterThanOrEqual(adapters.length - 1);
      }
    },
  );
});

/** Adds the adapter with the most bytes once more, to learn its size. */
async function largestExpert(runner: KernelRunner): Promise<{ readonly numBytes: number }> {
  const family = basename(dirname(runner.model.path)) === "families" ? basename(runner.model.path) : "llama-tied";
  let numBytes = 0;
  for (const [index, name] of fixtureNames(`lora/${family}`).entries()) {
    const added = await runner.loras?.add(`size-${index}`, fixture(name));
    numBytes = Math.max(numBytes, added?.bytes ?? 0);
  }
  return { numBytes };
}
