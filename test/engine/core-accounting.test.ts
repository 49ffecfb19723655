// What the engine's core reports and counts, on a clock that advances only while the model runs.

import { resolveSamplingParams, StopAutomaton, type CostModel, type PreGatingRouter } from "@readme-moe/core";
import type { Tokenizer } from "@readme-moe/model";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { StepRunner } from "../../packages/engine/src/step-runner.ts";
import { CoreBench, type BenchModel, type Limits } from "../support/core-bench.ts";
import { runningTinyModel } from "../support/running-tiny-model.ts";

const STEP_MS = 10;
const START_MS = 100;

let running: Awaited<ReturnType<typeof runningTinyModel>>;
let tokenizer: Tokenizer;
beforeAll(async () => {
  running = await runningTinyModel();
  ({ tokenizer } = running);
});
afterAll(() => running[Symbol.asyncDispose]());

type Forward = StepRunner["forward"];

/** Runs the model's steps with `around` in their place. */
function withForward(around: (run: () => ReturnType<Forward>) => ReturnType<Forward>): BenchModel {
  const { runner, router } = running;
  return {
    router,
    runner: {
      model: runner.model,
      expertNames: runner.expertNames,
      openKv: (options) => runner.openKv(options),
      forward: (...step) => around(() => runner.forward(...step)),
      keepsLogits: (...rows) => runner.keepsLogits(...rows),
      dispose: () => runner.dispose(),
    },
  };
}

/** Opens a core whose clock advances by `STEP_MS` with each run of the model. */
function clocked(limits: Limits = { capacityTokens: 1024 }): CoreBench {
  let nowMs = START_MS;
  const model = withForward(async (run) => {
    nowMs += STEP_MS;
    return run();
  });
  return new CoreBench(model, tokenizer, { ...limits, now: () => nowMs });
}

function payloads(bench: CoreBench, name: string): readonly object[] {
  return bench.events.flatMap((event) => (event.name === name ? [event.payload as object] : []));
}

test("events tell the steps, tokens and times of a sequence", async () => {
  const bench = clocked();
  bench.add("a", [1, 2, 3], { maxTokens: 3, temperature: 0 });
  await bench.finish();
  const { experts } = (await running.router.route([{ state: running.router.start(), tokenIds: [1, 2, 3] }]))[0] ?? {};
  expect(payloads(bench, "router:routed")[0]).toEqual({ sequenceId: "a", position: 0, experts, durationMs: 0 });
  expect(payloads(bench, "router:routed").map((one) => (one as { position: number }).position)).toEqual([0, 3, 4]);
  expect(payloads(bench, "sequence:queued")).toEqual([{ sequenceId: "a", promptTokens: 3, numWaiting: 1 }]);
  const scheduled = { sequenceIds: ["a"], numWaiting: 0 };
  expect(payloads(bench, "batch:scheduled")).toEqual([
    { ...scheduled, step: 0, numTokens: [3], positions: [0], distinctExperts: new Set(experts).size },
    { ...scheduled, step: 1, numTokens: [1], positions: [3], distinctExperts: 1 },
    { ...scheduled, step: 2, numTokens: [1], positions: [4], distinctExperts: 1 },
  ]);
  // Memory is admitted for 64 tokens more than the prompt, in blocks of 16.
  const ran = { durationMs: STEP_MS, forwardMs: STEP_MS, kvCapacityTokens: 1024 };
  expect(payloads(bench, "batch:completed")).toMatchObject([
    { ...ran, step: 0, tokens: 3, prefillTokens: 3, kvUsedTokens: 80 },
    { ...ran, step: 1, tokens: 1, prefillTokens: 0 },
    { ...ran, step: 2, tokens: 1, prefillTokens: 0, kvUsedTokens: 0 },
  ]);
  const tokens = bench.outcomes.get("a")?.tokens ?? [];
  expect(payloads(bench, "token:generated")).toEqual([
    { sequenceId: "a", tokenId: tokens[0], position: 3, sinceMs: START_MS + STEP_MS, isFirst: true },
    { sequenceId: "a", tokenId: tokens[1], position: 4, sinceMs: STEP_MS, isFirst: false },
    { sequenceId: "a", tokenId: tokens[2], position: 5, sinceMs: STEP_MS, isFirst: false },
  ]);
  const counts = { promptTokens: 3, completionTokens: 3, cachedTokens: 0, acceptedDraftTokens: 0 };
  expect(payloads(bench, "sequence:finished")).toEqual([
    {
      sequenceId: "a",
      reason: "length",
      ...counts,
      rejectedDraftTokens: 0,
      queuedMs: START_MS,
      durationMs: START_MS + 3 * STEP_MS,
    },
  ]);
  expect(bench.core.stats()).toEqual({
    numWaiting: 0,
    numRunning: 0,
    kvUsedTokens: 0,
    kvCapacityTokens: 1024,
    steps: 3,
    ...counts,
    draftedTokens: 0,
    draftsBySource: {},
    preemptions: 0,
    cost: expect.objectContaining({ msPerToken: expect.any(Number) as number }) as CostModel,
  });
});

test("a sequence that never ran was queued until its end", async () => {
  const bench = clocked({ capacityTokens: 1024, maxNumSeqs: 1 });
  for (const id of ["a", "b"]) bench.add(id, [1, 2], { maxTokens: 5, temperature: 0 });
  await bench.core.step();
  expect(bench.core.stats()).toMatchObject({ numRunning: 1, numWaiting: 1, promptTokens: 4, completionTokens: 1 });
  bench.core.abort("b");
  const nowMs = START_MS + STEP_MS;
  expect(payloads(bench, "sequence:finished")).toMatchObject([
    { sequenceId: "b", reason: "abort", completionTokens: 0, queuedMs: nowMs, durationMs: nowMs },
  ]);
  bench.core.abort("nobody");
  await bench.finish();
  expect(bench.count("sequence:finished")).toBe(2);
});

test("a sequence that is aborted while the model runs still gets the step's token, and ends after the step", async () => {
  const whileItRuns: (() => void)[] = [];
  const model = withForward(async (run) => {
    for (const act of whileItRuns.splice(0)) act();
    return run();
  });
  const bench = new CoreBench(model, tokenizer, { capacityTokens: 1024 });
  for (const id of ["a", "b"]) bench.add(id, [1, 2, 3], { maxTokens: 4, temperature: 0 });
  await bench.core.step();
  const before = bench.events.length;
  whileItRuns.push(() => bench.core.abort("b", "error"));
  await bench.core.step();
  bench.core.checkIntegrity();
  const names = bench.events.slice(before).map(({ name }) => name);
  expect(names.filter((name) => name === "token:generated")).toHaveLength(2);
  expect(names.slice(-2)).toEqual(["batch:completed", "sequence:finished"]);
  expect(bench.events.at(-1)?.payload).toMatchObject({ sequenceId: "b", reason: "error", completionTokens: 2 });
  await bench.finish();
  expect(bench.outcomes.get("a")).toMatchObject({ finishReason: "length" });
  expect(bench.outcomes.get("b")?.tokens).toHaveLength(2);
});

test("sequences whose step fails end with its error, and others are not affected", async () => {
  let isBroken = false;
  const model = withForward(async (run) => {
    if (isBroken) throw new Error("broken");
    return run();
  });
  const bench = new CoreBench(model, tokenizer, { capacityTokens: 1024 });
  bench.add("a", [1, 2, 3], { maxTokens: 4, temperature: 0 });
  await bench.core.step();
  isBroken = true;
  await bench.core.step();
  bench.core.checkIntegrity();
  expect(bench.outcomes.get("a")).toMatchObject({ error: new Error("broken") });
  expect(bench.core.hasWork).toBe(false);
  isBroken = false;
  bench.add("b", [1, 2, 3], { maxTokens: 2, temperature: 0 });
  await bench.finish();
  expect(bench.outcomes.get("b")?.tokens).toHaveLength(2);
  expect(bench.core.stats()).toMatchObject({ numRunning: 0, kvUsedTokens: 0, promptTokens: 6, completionTokens: 3 });
});

test("a sequence ends at an end token of the model, or when it fills the context", async () => {
  const bench = new CoreBench(running, tokenizer, { capacityTokens: 64 });
  bench.add("end", [1, 2, 3], { maxTokens: 9, temperature: 0, ignoreEos: false, logitBias: { 0: 100 } });
  await bench.finish();
  expect(bench.outcomes.get("end")).toMatchObject({ tokens: [0], finishReason: "stop" });
  bench.add("full", Array<number>(60).fill(7), { maxTokens: 9, temperature: 0 });
  await bench.finish();
  expect(bench.outcomes.get("full")?.finishReason).toBe("length");
  expect(bench.outcomes.get("full")?.tokens).toHaveLength(4);
});

test("a sequence whose caller answers with logits that are no numbers fails alone", async () => {
  const bench = new CoreBench(running, tokenizer, { capacityTokens: 1024 });
  bench.add("wrong", [1, 2, 3], { maxTokens: 2, temperature: 1 }, 0, true);
  bench.add("right", [1, 2, 3], { maxTokens: 2, temperature: 0 }, 0, true);
  bench.add("other", [1, 2, 3], { maxTokens: 2, temperature: 0 });
  await bench.finish();
  expect(bench.rows.map(({ id }) => id)).toEqual(["wrong", "right"]);
  // Nobody can run until a row comes back.
  expect([bench.core.hasWork, bench.outcomes.get("other")?.finishReason]).toEqual([false, "length"]);
  for (const { id, rowId, logits } of bench.rows.splice(0)) {
    bench.core.answer(rowId, id === "wrong" ? logits.fill(Number.NaN) : logits);
  }
  await bench.finish();
  expect(bench.outcomes.get("wrong")).toMatchObject({ tokens: [], error: expect.any(RangeError) as unknown });
  expect(bench.rows.map(({ id }) => id)).toEqual(["right"]);
  for (const { rowId, logits } of bench.rows.splice(0)) bench.core.answer(rowId, logits);
  await bench.finish();
  expect(bench.outcomes.get("right")?.tokens).toEqual(bench.outcomes.get("other")?.tokens);
  expect(bench.core.stats()).toMatchObject({ numRunning: 0, kvUsedTokens: 0 });
});

test.each([
  [9, 8],
  [1, 7],
])("sequences of %i clients take %i of eight places, and never more", async (numClients, numPlaces) => {
  const bench = new CoreBench(running, tokenizer, { capacityTokens: 4096, maxNumSeqs: 8 });
  for (let arrival = 0; arrival < 18; arrival++) {
    const params = resolveSamplingParams(
      { maxTokens: 2 + arrival, temperature: 0, ignoreEos: true },
      { vocabSize: 4096, eosTokenIds: [0] },
    );
    const [id, client, promptIds] = [`${arrival}`, `client ${arrival % numClients}`, [1, 2, 3]];
    const about = { id, requestId: id, choice: 0, arrival, arrivalMs: 0, priority: 0, client, promptIds };
    const rest = { params, processesLogits: false, seed: 1, stops: new StopAutomaton([]) };
    bench.core.add({ ...about, ...rest }, running.router);
  }
  const numRunning: number[] = [];
  while (bench.core.hasWork) {
    await bench.core.step();
    numRunning.push(bench.core.stats().numRunning);
  }
  expect(numRunning[0]).toBe(numPlaces);
  expect(Math.max(...numRunning)).toBe(numPlaces);
  expect(bench.count("sequence:finished")).toBe(18);
});

test("a row that comes back after its sequence has ended chooses no token", async () => {
  const bench = new CoreBench(running, tokenizer, { capacityTokens: 1024 });
  bench.add("a", [1, 2, 3], { maxTokens: 2, temperature: 0 }, 0, true);
  await bench.core.step();
  const [row] = bench.rows;
  bench.core.abort("a");
  bench.core.answer(row?.rowId ?? 0, row?.logits ?? new Float32Array());
  bench.add("b", [1, 2, 3], { maxTokens: 1, temperature: 0 });
  await bench.finish();
  expect(bench.core.stats()).toMatchObject({ completionTokens: 1, numRunning: 0, kvUsedTokens: 0 });
  expect(payloads(bench, "token:generated")).toMatchObject([{ sequenceId: "b" }]);
});

test("a sequence whose prompt cannot be routed fails, and is never queued", async () => {
  const { runner, router } = running;
  const broken: PreGatingRouter = {
    numExperts: router.numExperts,
    chunkTokens: router.chunkTokens,
    start: () => router.start(),
    route: async () => {
      throw new Error("no route");
    },
    release: (state) => router.release(state),
    dispose: () => router.dispose(),
  };
  const bench = new CoreBench({ runner, router: broken }, tokenizer, { capacityTokens: 1024 });
  bench.add("a", [1, 2, 3], { maxTokens: 2, temperature: 0 });
  await bench.finish();
  bench.core.checkIntegrity();
  expect(bench.outcomes.get("a")).toMatchObject({ tokens: [], error: new Error("no route") });
  expect([bench.count("sequence:queued"), bench.count("batch:scheduled")]).toEqual([0, 0]);
  expect(bench.core.stats()).toMatchObject({ numWaiting: 0, numRunning: 0 });
});
