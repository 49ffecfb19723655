// The engine's expert cache agrees with core's simulation, counter by counter, on what the engine recorded.

import { join } from "node:path";
import {
  costAware,
  EVICTION_POLICIES,
  fcfs,
  readMe,
  resolveEvictionPolicy,
  type ExpertCacheCounters,
  type ExpertCacheStats,
  type ReadMeEvents,
  type Scheduler,
  type TraceSequence,
} from "@readme-moe/core";
import {
  replayRecorded,
  replaySteps,
  replayUnits,
  simulate,
  unitRequests,
  type RecordedStep,
} from "@readme-moe/refactor/simulation";
import { KernelRunner, ReadMeEngine, type KernelRunnerOptions } from "@readme-moe/engine";
import { openModel, type Model, type Tokenizer } from "@readme-moe/model";
import { openRouter } from "@readme-moe/router";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { complete } from "../support/complete.ts";
import { CoreBench, randomJobs, type BenchModel } from "../support/core-bench.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../support/tiny-read-me.ts";

type Queued = Parameters<ReadMeEvents["sequence:queued"]>[0];
type Routed = Parameters<ReadMeEvents["router:routed"]>[0];

const SCHEDULERS: Readonly<Record<string, Scheduler>> = {
  fcfs: fcfs(),
  "read-me": readMe(),
  "cost-aware": costAware({ maxStepMs: 1, maxDelayMs: 20 }),
};
const NUM_EXPERTS = 4;
/** Budgets for units of 6,912 and 8,960 bytes: the minimum, some, and more than all. */
const BUDGETS = [35_840, 44_800, 70_000];

const folder = persistentFolder();
let path: string;
let model: Model;
let tokenizer: Tokenizer;
let router: BenchModel["router"];
beforeAll(async () => {
  path = join(await folder, "model");
  await writeTinyReadMe(path, { ...WITH_TOKENIZER, numExperts: NUM_EXPERTS });
  model = await openModel(path);
  ({ tokenizer } = await model.loadText());
  router = await openRouter(model, undefined, { threads: 1 });
});
afterAll(async () => {
  await router.dispose();
  await model.close();
});

/** Collects the events of an engine's expert cache. */
function recorded(events: CoreBench["events"]): readonly RecordedStep[] {
  const scheduled = payloads(events, "batch:scheduled");
  return payloads(events, "batch:completed").map(({ expertRuns: runs = [] }, step) => {
    return { runs, laterSteps: scheduled[step]?.laterSteps };
  });
}

function payloads<Name extends keyof ReadMeEvents>(
  events: CoreBench["events"],
  wanted: Name,
): readonly Parameters<ReadMeEvents[Name]>[0][] {
  return events.flatMap(({ name, payload }) => (name === wanted ? [payload as Parameters<ReadMeEvents[Name]>[0]] : []));
}

function countersOf({ uses, hits, loads, evictions, bytesRead, wastedLoads, wastedBytes }: ExpertCacheCounters) {
  return { uses, hits, loads, evictions, bytesRead, wastedLoads, wastedBytes };
}

function tokensPerExpert(experts: readonly number[]): readonly number[] {
  return Array.from({ length: NUM_EXPERTS }, (_, expert) => (experts.includes(expert) ? 1 : 0));
}

interface Served {
  readonly events: CoreBench["events"];
  readonly outcomes: CoreBench["outcomes"];
  readonly stats: ExpertCacheStats;
}

/** Creates jobs that arrive while others run, with several prompt chunks in one step. */
async function serve(
  served: Model,
  seed: number,
  scheduler: Scheduler,
  options: Omit<KernelRunnerOptions, "threads">,
): Promise<Served> {
  const runner = await KernelRunner.open(served, { ...options, threads: 1 });
  let nowMs = 0;
  const limits = { capacityTokens: 4096, maxNumSeqs: 6, maxNumBatchedSeqs: 4, maxNumBatchedTokens: 256 };
  const now = () => (nowMs += 2);
  const bench = new CoreBench({ runner, router }, tokenizer, {
    ...limits,
    scheduler,
    residency: runner.residency,
    now,
  });
  for (const [index, { id, promptIds, params }] of randomJobs(8, seed).entries()) {
    bench.add(id, promptIds, params);
    if (index % 3 === 2) await bench.core.step();
  }
  await bench.finish();
  runner.memory?.cache.checkIntegrity();
  const { expertCache } = bench.core.stats();
  await runner.dispose();
  return { events: bench.events, outcomes: bench.outcomes, stats: expertCache as ExpertCacheStats };
}

describe.each(Object.entries(SCHEDULERS))("under %s", (_, scheduler) => {
  test.each(EVICTION_POLICIES)("the engine's counters equal those of the replay, %s", async (policy) => {
    for (const [seed, budgetBytes] of BUDGETS.entries()) {
      const { events, stats } = await serve(model, seed, scheduler, { expertCacheBytes: budgetBytes, policy });
      const layout = { numExperts: NUM_EXPERTS, layerBytes: stats.layerBytes };
      const steps = recorded(events);
      expect(countersOf(replayRecorded(steps, { layout, budgetBytes, policy }))).toEqual(countersOf(stats));
      expect(stats.uses).toBeGreaterThan(0);
      expect(steps.map(({ runs }) => new Set(runs.flatMap(({ experts }) => experts)).size)).toEqual(
        payloads(events, "batch:scheduled").map(({ distinctExperts }) => distinctExperts),
      );
      expect(stats.wastedLoads).toBe(0);
    }
  });
});

test("a step is one run, and some plans reach into the next step", async () => {
  const { events } = await serve(model, 0, fcfs(), { expertCacheBytes: BUDGETS[0] });
  const steps = recorded(events);
  expect(steps.every(({ runs }) => runs.length === 1)).toBe(true);
  expect(steps.some(({ runs }) => (runs.at(-1)?.planned.length ?? 0) > 0)).toBe(true);
});

test("no read is wasted if all sequences are there from the start and prompts come first", async () => {
  for (const budgetBytes of BUDGETS) {
    const engine = await ReadMeEngine.open(path, {
      threads: 1,
      isolation: "thread",
      expertCacheBytes: budgetBytes,
      prefixCacheBytes: 0,
      scheduler: "fcfs",
      // The simulator knows no drafts.
      speculation: false,
    });
    const events: CoreBench["events"] = [];
    const names = ["sequence:queued", "router:routed", "batch:scheduled", "batch:completed"] as const;
    for (const name of names) engine.events.on(name, (payload: unknown) => events.push({ name, payload }));
    const prompts = randomJobs(6, 3, 100).map(({ promptIds }) => promptIds);
    const params = { maxTokens: 20, temperature: 0, ignoreEos: true };
    await Promise.all(prompts.map((prompt) => complete(engine, { prompt, params })));
    const stats = (await engine.stats()).expertCache as ExpertCacheStats;
    await engine.dispose();
    expect(stats.wastedLoads).toBe(0);
    const { layerBytes } = stats;
    const trace = { layout: { numExperts: NUM_EXPERTS, layerBytes }, sequences: sequencesOf(events, 20), steps: [] };
    // With the same scheduler and sequences, the simulator decides, batches and counts as the engine did.
    const limits = { maxNumBatchedSeqs: 32, maxNumBatchedTokens: 512, chunkTokens: 128 };
    const simulated = simulate(trace, { scheduler: fcfs(), limits, maxNumSeqs: 32, cache: { budgetBytes } });
    expect(countersOf(simulated)).toEqual(countersOf(stats));
    const scheduled = payloads(events, "batch:scheduled");
    expect(simulated.steps).toHaveLength(scheduled.length);
    expect(simulated.meanDistinctExperts).toBeCloseTo(
      scheduled.reduce((sum, { distinctExperts }) => sum + distinctExperts, 0) / scheduled.length,
      9,
    );
  }
});

/** Records arrivals and experts from events. */
function sequencesOf(events: CoreBench["events"], outputTokens: number): readonly TraceSequence[] {
  const experts = new Map<string, number[]>();
  const sequences: { id: string; arrivalStep: number; promptTokens: number; experts: number[] }[] = [];
  let numSteps = 0;
  for (const { name, payload } of events) {
    if (name === "batch:scheduled") numSteps++;
    if (name === "router:routed") {
      const { sequenceId, experts: routed } = payload as Routed;
      experts.set(sequenceId, [...(experts.get(sequenceId) ?? []), ...routed]);
    }
    if (name !== "sequence:queued") continue;
    const { sequenceId: id, promptTokens } = payload as Queued;
    sequences.push({ id, arrivalStep: numSteps, promptTokens, experts: [] });
  }
  return sequences.map((sequence) => ({
    ...sequence,
    experts: (experts.get(sequence.id) ?? []).slice(0, sequence.promptTokens + outputTokens - 1),
  }));
}

describe("hits, with units of one size,", () => {
  let even: Model;
  beforeAll(async () => {
    const evenPath = join(await folder, "even");
    const sizes = { expertSizes: [40, 40, 40, 40], sharedSizes: [0, 0, 0, 0] };
    await writeTinyReadMe(evenPath, {
      ...WITH_TOKENIZER,
      ...sizes,
      numExperts: NUM_EXPERTS,
      config: { num_hidden_layers: 4 },
    });
    even = await openModel(evenPath);
  });
  afterAll(() => even.close());

  test.each(EVICTION_POLICIES)("are at most those of Belady with all uses known, %s", async (policy) => {
    for (const lookaheadLayers of [0, 1]) {
      for (const capacity of [4, 7, 11]) {
        const budgetBytes = capacity * 8960;
        const { events, stats } = await serve(even, capacity, fcfs(), {
          expertCacheBytes: budgetBytes,
          policy,
          lookaheadLayers,
        });
        expect(stats.layerBytes).toEqual([8960, 8960, 8960, 8960]);
        const layout = { numExperts: NUM_EXPERTS, layerBytes: stats.layerBytes };
        const runs = recorded(events).flatMap((step) => step.runs);
        const steps = runs.map(({ experts }, step) => ({ step, tokensPerExpert: tokensPerExpert(experts) }));
        const requests = unitRequests(steps, layout);
        const all = replayUnits(requests, layout, budgetBytes, resolveEvictionPolicy("belady"));
        expect(stats.uses).toBe(all.uses);
        expect(stats.hits).toBeLessThanOrEqual(all.hits);
        if (policy !== "belady" || lookaheadLayers > 0) continue;
        // The engine estimates the tokens that the next step samples; knowing them all is only slightly better.
        const horizon = replaySteps(steps, { layout, budgetBytes, lookaheadLayers });
        expect(horizon.hits - stats.hits).toBeLessThanOrEqual(0.03 * stats.uses);
      }
    }
  });
});
