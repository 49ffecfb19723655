import { describeRouter, openKernel, type Kernel } from "@readme-moe/kernel";
import { expect, test } from "vitest";
import { KernelRouterState, RouterMemory } from "../../packages/router/src/router-memory.ts";
import { MAX_ROWS, RouterSteps } from "../../packages/router/src/router-steps.ts";
import { packedBytes } from "../support/kernel/packed-bytes.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { randomRouter } from "../support/random-router.ts";

const CONFIG = {
  vocabSize: 50,
  numExperts: 5,
  embeddingSize: 24,
  innerSize: 32,
  numHeads: 2,
  numLayers: 2,
  normalizer: 4,
  ropeTheta: 10_000,
  contextTokens: 400,
} as const;

async function openRandom(kernel: "native" | "wasm"): Promise<Kernel> {
  const { weights } = randomRouter(CONFIG, 3);
  const sizes = { threads: 1, maxRows: MAX_ROWS, maxPositions: CONFIG.contextTokens };
  return openKernel(await packedBytes(describeRouter(weights)), sizes, { kernel });
}

test.each(["native", "wasm"] as const)("%s: memory that grows keeps everybody's tokens and bits", async (kind) => {
  const random = seededRandom(9);
  const sequences = Array.from({ length: 20 }, () =>
    Array.from({ length: 40 + randomInteger(random, 90) }, () => randomInteger(random, CONFIG.vocabSize)),
  );
  const kernel = await openRandom(kind);
  const steps = new RouterSteps(CONFIG, kernel);
  const roomy = new RouterMemory(kernel, steps, CONFIG);
  const small = new RouterMemory(kernel, steps, CONFIG, 1);
  const [first, last] = [small.capacityTokens, roomy.capacityTokens];
  expect(first).toBe(64);
  const route = (memory: RouterMemory) => {
    const states = sequences.map(() => new KernelRouterState(memory));
    const logits: Float32Array[] = [];
    for (const part of [0, 1]) {
      for (const [index, tokenIds] of sequences.entries()) {
        const state = states[index] as KernelRouterState;
        // Some come while others have more to say, and every third one leaves.
        const piece = part === 0 ? tokenIds.slice(0, 30 + index) : tokenIds.slice(30 + index);
        if (piece.length === 0) continue;
        logits.push(...memory.append([{ state, tokenIds: piece }], CONFIG.numExperts));
        expect(state.numTokens).toBe(part === 0 ? piece.length : tokenIds.length);
        if (index % 3 === 0 && part === 1) memory.release(state);
      }
    }
    return logits;
  };
  expect(route(small)).toEqual(route(roomy));
  expect(small.capacityTokens).toBeGreaterThan(8 * first);
  expect(roomy.capacityTokens).toBe(last);
  small.dispose();
  roomy.dispose();
  await kernel.close();
});

test("a state that was released begins again, and its pages serve others", async () => {
  const kernel = await openRandom("native");
  const memory = new RouterMemory(kernel, new RouterSteps(CONFIG, kernel), CONFIG, 1);
  const tokenIds = Array.from({ length: 60 }, (_, index) => index % CONFIG.vocabSize);
  const state = new KernelRouterState(memory);
  const [before] = memory.append([{ state, tokenIds }], CONFIG.numExperts);
  for (let round = 0; round < 10; round++) {
    memory.release(state);
    expect(state.numTokens).toBe(0);
    expect(memory.append([{ state, tokenIds }], CONFIG.numExperts)).toEqual([before]);
  }
  expect(memory.capacityTokens).toBe(64);
  memory.dispose();
  await kernel.close();
});
