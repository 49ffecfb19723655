// Integer products of experts do not saturate, whether their weights are mapped or streamed.

import { join } from "node:path";
import { KernelRunner } from "@readme-moe/engine";
import type { KvSlot } from "@readme-moe/kernel";
import { openModel, type Model } from "@readme-moe/model";
import { expect, test } from "vitest";
import type { StepRunner } from "../../packages/engine/src/step-runner.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyReadMe } from "../support/tiny-read-me.ts";

const NUM_TOKENS = 12;
const THREADS = 1;

test.each([{ isExtreme: false }, { isExtreme: true }])(
  "experts in int8 are near float32, $isExtreme",
  async (options) => {
    const path = join(await temporaryFolder(), "model");
    await writeTinyReadMe(path, { numExperts: 3, ...options });
    const model = await openModel(path);
    const exact = await logitsOf(KernelRunner.open(model, { precision: "fp32", threads: THREADS }), model);
    const resident = await logitsOf(KernelRunner.open(model, { precision: "int8", threads: THREADS }), model);
    const streamed = await logitsOf(KernelRunner.open(model, { expertCacheBytes: 1e5, threads: THREADS }), model);
    await model.close();
    const largest = Math.max(...exact.map(Math.abs));
    const furthest = Math.max(...resident.map((value, place) => Math.abs(value - (exact[place] as number))));
    // Rounding changes it by at most 4 % here; saturating sums would change it by 12 to 170 %.
    expect(furthest / largest).toBeLessThan(0.06);
    expect(streamed).toEqual(resident);
  },
);

/** Runs after some tokens that use all experts in turn. */
async function logitsOf(opening: Promise<StepRunner & { dispose(): Promise<void> }>, model: Model) {
  const runner = await opening;
  const kv = runner.openKv({ capacityTokens: 64 });
  const slot = kv.admit(NUM_TOKENS) as KvSlot;
  const tokenIds = Array.from({ length: NUM_TOKENS }, (_, index) => (7 * index) % model.config.vocabSize);
  const experts = tokenIds.map((_, index) => index % model.experts.names.length);
  const part = { slot, tokenIds, experts, logitsOf: [NUM_TOKENS - 1], wantsFullLogits: true };
  const [step] = await runner.forward(kv, [part], 1);
  const logits = Array.from(step?.fullLogits ?? []);
  await runner.dispose();
  return logits;
}
