// Targets of suites, on samples with known results.

import { expect, test } from "vitest";
import type { Sample } from "../../bench/kit/samples.ts";
import type { Target } from "../../bench/kit/suite.ts";
import { engineTargets } from "../../bench/engine/engine-targets.ts";
import { METRICS as ENGINE } from "../../bench/engine/metrics.ts";
import { adapterTargets } from "../../bench/adapter/adapter-suite.ts";
import type { Answer } from "../../bench/express/client.ts";
import { loopTargets } from "../../bench/express/parts/loop.ts";
import { loadOf, overloadSamples, overloadTargets } from "../../bench/express/parts/overload-figures.ts";
import { lazily } from "../../bench/lazily.ts";
import { caseName } from "../../bench/limits/cases.ts";
import { DENSE, MIXTURE, pairedSteps } from "../../bench/limits/paired-steps.ts";
import { ratioTargets } from "../../bench/limits/ratio-table.ts";
import {
  ALL_IN_MEMORY,
  budgetName,
  conditionOf,
  METRICS as SCHEDULING,
  schedulingNotes,
  schedulingTargets,
} from "../../bench/scheduling/scheduling-targets.ts";

let turn = 0;

function sample(variant: string, metric: string, value: number, at: number | string = ""): Sample {
  return { variant, metric, value, at, round: 0, turn: turn++ };
}

/** Returns the values of targets by their names. */
function valuesBy(targets: readonly Target[]): Readonly<Record<string, number>> {
  return Object.fromEntries(targets.map(({ what, unit, value }) => [`${what} ${unit}`.trim(), value]));
}

const DENSE_INT8 = "readme-moe dense int8";

function isOurs(variant: string): boolean {
  return variant.startsWith("readme-moe");
}

const BETTER = "× the better of transformers.js q8 and node-llama-cpp Q8_0";

test("compares int8 with the better Node peer, with OpenVINO, and with peers of similar loss", () => {
  const samples = [
    sample(DENSE_INT8, ENGINE.decode, 1, 8),
    sample(DENSE_INT8, ENGINE.byTurns, 30, 8),
    sample("transformers.js q8", ENGINE.byTurns, 20, 8),
    sample("node-llama-cpp Q8_0", ENGINE.byTurns, 10, 8),
    sample("openvino int8", ENGINE.byTurns, 25, 8),
    ...[DENSE_INT8, "readme-moe dense int4"].map((name, index) => sample(name, ENGINE.byTurns, 40 + 20 * index, 1)),
    sample("node-llama-cpp Q8_0", ENGINE.byTurns, 40, 1),
    // Faster than the 8-bit peers, and not one of them.
    sample("node-llama-cpp Q4_1", ENGINE.byTurns, 400, 1),
    sample(DENSE_INT8, ENGINE.prefill, 600, 512),
    sample("transformers.js q8", ENGINE.prefill, 400, 512),
    sample("node-llama-cpp Q8_0", ENGINE.prefill, 200, 512),
    sample("openvino int8", ENGINE.prefill, 800, 512),
    sample("readme-moe dense fp32", ENGINE.loss, 3),
    sample(DENSE_INT8, ENGINE.loss, 3.01),
    sample("readme-moe dense int4", ENGINE.loss, 3.5),
    sample("transformers.js q8", ENGINE.loss, 3.6),
    sample("node-llama-cpp Q8_0", ENGINE.loss, 3.04),
    sample("openvino int8", ENGINE.loss, 3.004),
    sample(DENSE_INT8, ENGINE.load, 1500),
    sample(DENSE_INT8, ENGINE.peak, 650),
    sample("readme-moe int8", ENGINE.byTurns, 1000, 8),
  ];
  const values = valuesBy(engineTargets({ samples, concurrency: [1, 8, 32], isOurs }));
  expect(values).toEqual({
    "readme-moe dense int8, 8 at once × openvino int8": 1.2,
    [`readme-moe dense int8, 1 at once ${BETTER}`]: 1,
    [`readme-moe dense int8, 8 at once ${BETTER}`]: 1.5,
    [`the fastest of readme-moe dense that loses under 0.02 nats, 1 at once ${BETTER}`]: 1,
    "readme-moe dense int8, prefill of 512 × openvino int8": 0.75,
    [`readme-moe dense int8, prefill of 512 ${BETTER}`]: 1.5,
    "readme-moe dense int8, prefill of 512 × the fastest in Node that loses under 0.05 nats": 3,
    "readme-moe dense int8, loss over fp32 nats": expect.closeTo(0.01) as number,
    "readme-moe dense int8, loading ms": 1500,
    "readme-moe dense int8, peak memory, 32 at once MB": 650,
  });
  // Memory with 64 requests does not count for 32, and there are no comparisons without peers.
  const alone = samples.filter(({ variant }) => isOurs(variant));
  expect(Object.keys(valuesBy(engineTargets({ samples: alone, concurrency: [1, 64], isOurs })))).toEqual([
    "readme-moe dense int8, loss over fp32 nats",
    "readme-moe dense int8, loading ms",
  ]);
  expect(engineTargets({ samples: samples.slice(2, 4), concurrency: [8], isOurs })).toEqual([]);
});

test("compares prefill over rounds with turns, and has an aim beside OpenVINO", () => {
  const samples = [DENSE_INT8, "openvino int8", "transformers.js q8"].flatMap((name, index) => [
    sample(name, ENGINE.prefill, 1, 512),
    sample(name, ENGINE.prefillByTurns, 30 - 10 * index, 512),
    ...[1, 8, 16, 32].map((at) => sample(name, ENGINE.byTurns, 12 / (index + 1), at)),
  ]);
  const targets = engineTargets({ samples, concurrency: [1, 8, 16, 32], isOurs });
  expect(targets.map(({ unit, value, limit, aim }) => [unit.includes("openvino"), value, limit, aim])).toEqual([
    [true, 2, 1.6, 1.9],
    [true, 2, 1.25, 1.4],
    [true, 2, 1.2, 1.3],
    [true, 2, 1.1, 1.2],
    [false, 3, 2.4, undefined],
    [false, 3, 3.2, undefined],
    [false, 3, 2.7, undefined],
    [false, 3, 2.7, undefined],
    [true, 1.5, 0.9, 1],
    [false, 3, 1.3, undefined],
  ]);
});

function scheduled(at: string, scheduler: string, mean: number, p95: number, speed: number, distinct: number) {
  return [
    sample(scheduler, SCHEDULING.meanMsPerToken, mean, at),
    sample(scheduler, SCHEDULING.p95MsPerToken, p95, at),
    sample(scheduler, SCHEDULING.tokensPerSecond, speed, at),
    sample(scheduler, SCHEDULING.distinctExperts, distinct, at),
  ];
}

test("compares our schedulers with the better baseline of each figure", () => {
  const [half, all] = [conditionOf(budgetName(50), 2), conditionOf(ALL_IN_MEMORY, 1)];
  const samples = [
    ...scheduled(half, "decode-first", 200, 400, 10, 4.8),
    ...scheduled(half, "prefill-first", 100, 500, 12, 6),
    ...scheduled(half, "read-me", 75, 320, 1, 3.6),
    ...scheduled(half, "cost-aware", 80, 300, 12, 3.4),
    ...scheduled(all, "decode-first", 1, 1, 100, 4.6),
    ...scheduled(all, "prefill-first", 1, 1, 90, 5.4),
    ...scheduled(all, "cost-aware", 1, 1, 99, 2),
  ];
  const less = (scheduler: string, figure: string) =>
    `${scheduler}, ${half}: normalised latency, ${figure}, ms, less than the better baseline's %`;
  expect(valuesBy(schedulingTargets(samples))).toEqual({
    [less("cost-aware", "mean")]: expect.closeTo(20) as number,
    [less("cost-aware", "95th percentile")]: 25,
    [`cost-aware, ${half}: distinct experts a step`]: 3.4,
    [`cost-aware, ${all}: new tokens, tok/s, less than the best baseline's %`]: expect.closeTo(1) as number,
    [less("read-me", "mean")]: 25,
    [less("read-me", "95th percentile")]: expect.closeTo(20) as number,
    [`read-me, ${half}: distinct experts a step`]: 3.6,
    // Not measured.
    [`read-me, ${all}: new tokens, tok/s, less than the best baseline's %`]: NaN,
  });
  expect(schedulingNotes(samples)).toEqual([]);
  const [note] = schedulingNotes(samples.filter(({ at }) => at === all));
  expect(note).toContain("here it has at most 4.60");
  // A baseline without measurement is not beaten.
  const without = samples.filter(({ at, variant }) => at === half && variant !== "prefill-first");
  expect(schedulingTargets(without)[0]?.value).toBeNaN();
});

test("compares the adapter with the host, and the event loop with a limit", () => {
  const [host, ours] = ["transformers.js", "transformers.js with readme-moe"];
  const samples = [
    ...[10, 20, 30].map((value) => sample(host, "new tokens, tok/s", value)),
    sample(ours, "new tokens, tok/s", 120),
    sample(ours, "event loop p99, ms", 3),
    sample(host, "event loop p99, ms", 300),
  ];
  expect(valuesBy(adapterTargets({ samples }, "fp32"))).toEqual({
    "calls at once, fp32 × the host's own": 6,
    "event loop meanwhile, p99 ms": 3,
  });
});

test("limits the event loops of both of our servers", () => {
  const samples = ["readme-moe", "readme-moe, streams", "transformers.js in Express"].flatMap((name, index) => [
    sample(name, "event loop p99, ms", 4 + index),
    sample(name, "/health p99, ms", 40 + index),
  ]);
  expect(loopTargets({ samples }).map(({ value }) => value)).toEqual([4, 40, 5, 41]);
});

const ANSWER: Answer = {
  status: 200,
  id: "",
  completionTokens: 8,
  finishReason: "length",
  firstMs: 100,
  totalMs: 400,
  isWhole: true,
  errorCode: undefined,
  tail: "",
};

test("distinguishes rejected, lost and answered requests of an overload", () => {
  const refused = { ...ANSWER, status: 503, errorCode: "server_overloaded", totalMs: 7 };
  const calm = [loadOf([ANSWER, ANSWER], 100), loadOf([ANSWER, { ...ANSWER, firstMs: 200 }], 120)];
  const crowded = [
    loadOf(
      [
        { ...ANSWER, firstMs: 250 },
        refused,
        { ...refused, totalMs: 9 },
        { ...ANSWER, isWhole: false },
        { ...ANSWER, status: 0 },
        { ...refused, errorCode: "model_loading" },
      ],
      99,
    ),
  ];
  const targets = overloadTargets(calm, crowded);
  expect(valuesBy(targets)).toEqual({
    "overload: refusals, p99 ms": 9,
    "overload: first token, p99 ms": 250,
    "overload: throughput lost %": expect.closeTo(10) as number,
    "overload: neither answered nor refused requests": 3,
  });
  // Half more than with all places always taken.
  expect(targets[1]?.limit).toBe(300);
  const samples = overloadSamples(calm, crowded);
  const valueOf = (variant: string, metric: string) =>
    samples.filter((one) => one.variant === variant && one.metric === metric).map(({ value }) => value);
  expect(valueOf("closed loop", "new tokens, tok/s")).toEqual([100, 120]);
  expect(valueOf("closed loop", "refusal p99, ms")).toEqual([]);
  expect(valueOf("twice the capacity", "refused")).toEqual([2]);
});

test("compares a mixture's steps of one expert with the dense model's, with the shortest past", () => {
  const behind = [1, 4, 16].map((numSeqs) => ({ numSeqs, past: 128, distinct: 1 }));
  const dense = [...behind, { numSeqs: 16, past: 1024, distinct: 1 }];
  const times = dense.flatMap((each, index) => [
    { variant: DENSE, at: caseName(each, 1), measuredMs: [[12 + index]] },
    { variant: MIXTURE, at: caseName(each, 7), measuredMs: [[10]] },
  ]);
  const paired = pairedSteps(times, ([ms = NaN]) => ms);
  const targets = ratioTargets(paired, { dense, mixture: dense }, 7);
  expect(targets.map(({ value, limit }) => [value, limit])).toEqual([
    [1.2, 1.25],
    [1.4, 1.12],
  ]);
  expect(ratioTargets(paired, { dense, mixture: [] }, 1)).toEqual([]);
});

test("opens a lazy resource once, closes it once, and never opens an unused one", async () => {
  const told: string[] = [];
  const open = () => {
    told.push("opened");
    return Promise.resolve({
      [Symbol.asyncDispose]: () => {
        told.push("closed");
        return Promise.resolve();
      },
    });
  };
  await lazily(open)[Symbol.asyncDispose]();
  expect(told).toEqual([]);
  {
    await using one = lazily(open);
    expect(await one.value()).toBe(await one.value());
    expect(told).toEqual(["opened"]);
  }
  expect(told).toEqual(["opened", "closed"]);
  const broken = lazily<AsyncDisposable>(() => Promise.reject(new Error("no model")));
  await expect(broken.value()).rejects.toThrow("no model");
  await broken[Symbol.asyncDispose]();
});
