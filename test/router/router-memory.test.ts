import { describeRouter, KV_PAGE_TOKENS, openKernel, type Kernel } from "@readme-moe/kernel";
import { expect, test } from "vitest";
import {
  KernelRouterState,
  MAX_ROWS,
  RouterCalls,
  RouterMemory,
  type SlotPages,
  type SlotTokens,
} from "../../packages/router/src/kernel-router.ts";
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

test.each(["native", "wasm"] as const)("%s: growing keeps the tokens and bits of all sequences", async (kind) => {
  const random = seededRandom(9);
  const sequences = Array.from({ length: 20 }, () =>
    Array.from({ length: 40 + randomInteger(random, 90) }, () => randomInteger(random, CONFIG.vocabSize)),
  );
  const kernel = await openRandom(kind);
  const steps = new RouterCalls(CONFIG, kernel);
  const roomy = new RouterMemory(kernel, steps, CONFIG);
  const small = new RouterMemory(kernel, steps, CONFIG, 1);
  const [first, last] = [small.capacityTokens, roomy.capacityTokens];
  expect([first, last]).toEqual([64, 2 ** 24 / 512]);
  const route = (memory: RouterMemory) => {
    const states = sequences.map(() => new KernelRouterState(memory));
    const logits: Float32Array[] = [];
    for (const part of [0, 1]) {
      for (const [index, tokenIds] of sequences.entries()) {
        const state = states[index] as KernelRouterState;
        // Sequences arrive while others continue, and every third one ends.
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

test("a released state starts over, and other sequences reuse its pages", async () => {
  const kernel = await openRandom("native");
  const memory = new RouterMemory(kernel, new RouterCalls(CONFIG, kernel), CONFIG, 1);
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

test("a memory that cannot be had is refused with its size", async () => {
  const kernel = await openRandom("wasm");
  const calls = new RouterCalls(CONFIG, kernel);
  expect(() => new RouterMemory(kernel, calls, CONFIG, 2 ** 33)).toThrow(
    expect.objectContaining({
      code: "ERR_MEMORY",
      message: "The router's keys and values of 16777216 tokens do not fit into memory",
      cause: expect.any(Error) as unknown,
    }),
  );
  await kernel.close();
});

/** Calls that record the tokens that run again, for their keys and values alone. */
class NotedSteps extends RouterCalls {
  readonly moved: (readonly number[])[] = [];

  override append(memory: SlotPages, sequences: readonly SlotTokens[]): void {
    for (const { tokenIds, logits } of sequences) if (!logits) this.moved.push(Array.from(tokenIds));
    super.append(memory, sequences);
  }
}

test("growing moves the live sequences and no released ones (seeds 1 to 5)", async () => {
  const kernel = await openRandom("native");
  const roomy = new RouterMemory(kernel, new RouterCalls(CONFIG, kernel), CONFIG);
  let numLeftBehind = 0;
  for (const seed of [1, 2, 3, 4, 5]) {
    const random = seededRandom(seed);
    const steps = new NotedSteps(CONFIG, kernel);
    const memory = new RouterMemory(kernel, steps, CONFIG, 1);
    const states = Array.from({ length: 12 }, () => new KernelRouterState(memory));
    const known = new Map<KernelRouterState, readonly number[]>();
    const released = new Set<KernelRouterState>();
    let capacityTokens = 64;
    for (let round = 0; round < 60; round++) {
      const state = states[randomInteger(random, states.length)] as KernelRouterState;
      const before = known.get(state) ?? [];
      known.delete(state);
      if (before.length > 0 && random() < 0.5) {
        memory.release(state);
        released.add(state);
      } else {
        const length = 1 + randomInteger(random, 30);
        const tokenIds = Array.from({ length }, () => randomInteger(random, CONFIG.vocabSize));
        const there = before.length > 0 ? [...known.values(), before] : [...known.values()];
        const [logits] = memory.append([{ state, tokenIds }], CONFIG.numExperts);
        released.delete(state);
        known.set(state, [...before, ...tokenIds]);
        // The memory doubles only if the pages of all live sequences need more.
        const grows = pageTokens(known.values()) > capacityTokens;
        while (pageTokens(known.values()) > capacityTokens) capacityTokens *= 2;
        expect(steps.moved.splice(0).toSorted(byText)).toEqual(grows ? there.toSorted(byText) : []);
        if (grows) numLeftBehind += released.size;
        expect(logits).toEqual(lastLogits(roomy, [...before, ...tokenIds], length));
      }
      expect(memory.capacityTokens).toBe(capacityTokens);
      for (const one of states) {
        expect(one.tokenIds).toEqual(known.get(one) ?? []);
        expect(one.slot !== undefined).toBe(known.has(one));
      }
    }
    memory.dispose();
  }
  expect(numLeftBehind).toBeGreaterThan(5);
  roomy.dispose();
  await kernel.close();
});

/** Computes the logits of the last tokens of a sequence in one call, and releases it. */
function lastLogits(memory: RouterMemory, tokenIds: readonly number[], count: number): Float32Array | undefined {
  const state = new KernelRouterState(memory);
  const [logits] = memory.append([{ state, tokenIds }], CONFIG.numExperts);
  memory.release(state);
  return logits?.slice(-count * CONFIG.numExperts);
}

/** Counts the positions of the pages of some sequences. */
function pageTokens(sequences: Iterable<readonly number[]>): number {
  return Array.from(sequences, ({ length }) => Math.ceil(length / KV_PAGE_TOKENS) * KV_PAGE_TOKENS).reduce(
    (sum, tokens) => sum + tokens,
    0,
  );
}

function byText(a: readonly number[], b: readonly number[]): number {
  return a.join() < b.join() ? -1 : 1;
}
