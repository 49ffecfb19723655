// Mixtures of experts in the kernel, in every precision and in any mix.

import { join } from "node:path";
import { KernelRunner, type StepLogits } from "@readme-moe/engine";
import type { KvSlot } from "@readme-moe/kernel";
import { openModel, type Precision } from "@readme-moe/model";
import { expect, test } from "vitest";
import { randomInteger, seededRandom } from "../support/random.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyReadMe, type TinyOptions } from "../support/tiny-read-me.ts";

interface Tokens {
  readonly tokenIds: readonly number[];
  readonly experts: readonly number[];
}

function randomTokens(random: () => number, length: number, numExperts: number): Tokens {
  const upTo = (end: number): number[] => Array.from({ length }, () => randomInteger(random, end));
  return { tokenIds: upTo(96), experts: upTo(numExperts) };
}

async function openTiny(options: TinyOptions, precision: Precision) {
  const path = join(await temporaryFolder(), "model");
  await writeTinyReadMe(path, options);
  const model = await openModel(path);
  const runner = await KernelRunner.open(model, { precision, threads: 2, cacheFolder: await temporaryFolder() });
  return {
    model,
    runner,
    async [Symbol.asyncDispose]() {
      await runner.dispose();
      await model.close();
    },
  };
}

/** Computes the logits of all tokens of some sequences, in steps of up to `perStep` tokens each. */
async function logitsOf(
  runner: KernelRunner,
  sequences: readonly Tokens[],
  perStep: number,
): Promise<readonly Float32Array[]> {
  const kv = runner.openKv({ capacityTokens: 1024 });
  const slots = sequences.map(({ tokenIds }) => kv.admit(tokenIds.length) as KvSlot);
  const rows: number[][] = sequences.map(() => []);
  for (let from = 0; sequences.some(({ tokenIds }) => from < tokenIds.length); from += perStep) {
    const places = Array.from(sequences.keys()).filter((place) => from < (sequences[place]?.tokenIds.length ?? 0));
    const step = places.map((place) => {
      const { tokenIds, experts } = sequences[place] as Tokens;
      const own = tokenIds.slice(from, from + perStep);
      const wanted = Array.from(own.keys());
      const slot = slots[place] as KvSlot;
      return {
        slot,
        tokenIds: own,
        experts: experts.slice(from, from + perStep),
        logitsOf: wanted,
        wantsFullLogits: true,
      };
    });
    const results = await runner.forward(kv, step);
    for (const [index, place] of places.entries()) {
      rows[place]?.push(...Array.from((results[index] as StepLogits).fullLogits));
    }
  }
  kv.dispose();
  return rows.map((values) => Float32Array.from(values));
}

test.each<Precision>(["fp32", "int8", "int4"])("%s: experts alone give the same bits as any mix", async (precision) => {
  await using tiny = await openTiny({ numExperts: 5 }, precision);
  const random = seededRandom(3);
  const sequences = [40, 1, 23, 40].map((length) => randomTokens(random, length, 5));
  const together = await logitsOf(tiny.runner, sequences, 9);
  for (const [index, tokens] of sequences.entries()) {
    expect(await logitsOf(tiny.runner, [tokens], 1 + randomInteger(random, 12))).toEqual([together[index]]);
  }
});

function lengthOf(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}

test.each<Precision>(["int8", "int4"])("%s stays close to float32", async (precision) => {
  await using floats = await openTiny({ numExperts: 3, seed: 5 }, "fp32");
  await using fewer = await openTiny({ numExperts: 3, seed: 5 }, precision);
  const tokens = randomTokens(seededRandom(4), 60, 3);
  const [expected] = await logitsOf(floats.runner, [tokens], 60);
  const [given] = await logitsOf(fewer.runner, [tokens], 60);
  const errors = (expected as Float32Array).map((value, i) => value - (given?.[i] as number));
  expect(lengthOf(errors)).toBeLessThan((precision === "int8" ? 0.05 : 0.3) * lengthOf(expected as Float32Array));
});

test("a step with an expert that does not exist is a RangeError", async () => {
  await using tiny = await openTiny({ numExperts: 3 }, "fp32");
  await expect(logitsOf(tiny.runner, [{ tokenIds: [1, 2], experts: [0, 3] }], 2)).rejects.toThrow(RangeError);
});
