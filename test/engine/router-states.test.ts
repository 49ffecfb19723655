// A router holds memory for each state that it has started. Every state is released once, however its sequence ends.

import type { PreGatingRouter, RouterState } from "@readme-moe/core";
import type { Tokenizer } from "@readme-moe/model";
import { routeWhole, ruleRouter } from "@readme-moe/router";
import { afterAll, beforeAll, expect, test } from "vitest";
import { CoreBench, randomJobs } from "../support/core-bench.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { runningTinyModel } from "../support/running-tiny-model.ts";

let running: Awaited<ReturnType<typeof runningTinyModel>>;
let tokenizer: Tokenizer;
beforeAll(async () => {
  running = await runningTinyModel();
  ({ tokenizer } = running);
});
afterAll(() => running[Symbol.asyncDispose]());

/** A router, and its states that were started and not released. */
interface CountedRouter extends PreGatingRouter {
  readonly held: ReadonlySet<RouterState>;
  readonly numStarts: number;
}

/** @param fails - called before each call, which fails if it returns `true` */
function counted(router: PreGatingRouter, fails: () => boolean = () => false): CountedRouter {
  const held = new Set<RouterState>();
  let numStarts = 0;
  return {
    held,
    get numStarts() {
      return numStarts;
    },
    numExperts: router.numExperts,
    chunkTokens: router.chunkTokens,
    start() {
      const state = router.start();
      held.add(state);
      numStarts++;
      return state;
    },
    async route(inputs) {
      for (const { state } of inputs) if (!held.has(state)) throw new Error("A state is routed that was given back");
      if (fails()) throw new Error("A call that fails");
      return router.route(inputs);
    },
    release(state) {
      if (!held.delete(state)) throw new Error("A state is given back that is not held");
      router.release(state);
    },
    dispose: async () => undefined,
  };
}

test("the engine holds a state for each sequence until it ends, whatever ends it (seeds 1 to 3)", async () => {
  const ends = new Set<string>();
  const errors = new Set<string>();
  let numPreempted = 0;
  for (const seed of [1, 2, 3]) {
    const random = seededRandom(seed);
    const router = counted(running.router, () => random() < 0.003);
    const limits = { capacityTokens: 384, maxNumSeqs: 6, maxNumBatchedSeqs: 4, prefixCacheBytes: 200_000 };
    const bench = new CoreBench({ runner: running.runner, router }, tokenizer, limits);
    const jobs = randomJobs(50, seed + 100, 40);
    const numFinished = (): number => bench.count("sequence:finished");
    for (let next = 0; next < jobs.length || bench.core.hasWork;) {
      const [choice, job] = [random(), jobs[next]];
      if (choice < 0.2 && job) {
        const params = { ...job.params, maxTokens: 1 + randomInteger(random, 120) };
        bench.add(job.id, job.promptIds, params, randomInteger(random, 3));
        next++;
      } else if (choice < 0.21 && next > 0) {
        const stepping = random() < 0.5 ? bench.core.step() : undefined;
        bench.core.abort(`job-${randomInteger(random, next)}`);
        await stepping;
      } else {
        await bench.core.step();
      }
      expect(router.numStarts).toBe(next);
      expect(router.held.size).toBe(next - numFinished());
    }
    expect(numFinished()).toBe(jobs.length);
    expect(router.held.size).toBe(0);
    for (const { error } of bench.outcomes.values()) if (error !== undefined) errors.add((error as Error).message);
    numPreempted += bench.count("sequence:preempted");
    for (const { name, payload } of bench.events) {
      if (name === "sequence:finished") ends.add((payload as { readonly reason: string }).reason);
    }
  }
  expect([...errors]).toEqual(["A call that fails"]);
  expect(numPreempted).toBeGreaterThan(5);
  expect([...ends].toSorted()).toEqual(["abort", "error", "length"]);
});

test("routing whole sequences releases all states", async () => {
  const router = counted(ruleRouter(3, (tokenId) => tokenId % 3));
  const sequences = [4, 90, 1, 33].map((length) => Int32Array.from({ length }, (_, index) => index));
  const experts = await routeWhole(router, sequences);
  expect(experts.map((own) => Array.from(own))).toEqual(
    sequences.map((tokenIds) => Array.from(tokenIds, (tokenId) => tokenId % 3)),
  );
  expect(router.numStarts).toBe(4);
  expect(router.held.size).toBe(0);
});

test("routing whole sequences releases all states if the router fails", async () => {
  const router = counted(
    ruleRouter(3, () => 0),
    () => true,
  );
  await expect(routeWhole(router, [new Int32Array(40), new Int32Array(40)])).rejects.toThrow();
  expect([router.numStarts, router.held.size]).toEqual([2, 0]);
});
