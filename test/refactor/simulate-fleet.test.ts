import { costAware, DEFAULT_COST_MODEL, fcfs } from "@readme-moe/core";
import {
  generateFleetLoad,
  keepOf,
  mainShares,
  simulate,
  simulateFleet,
  type FleetFault,
  type FleetOptions,
  type FleetPlacement,
} from "@readme-moe/refactor/simulation";
import { describe, expect, test } from "vitest";

const LAYOUT = { numExperts: 7, layerBytes: [20e6, 20e6] };
const WORKER = {
  layout: LAYOUT,
  budgetBytes: Infinity,
  cost: DEFAULT_COST_MODEL,
  scheduler: costAware(),
  limits: { maxNumBatchedSeqs: 16, maxNumBatchedTokens: 512, chunkTokens: 128 },
  maxNumSeqs: 16,
  kvTokens: 1e6,
};
const PLACEMENTS: Readonly<Record<string, FleetPlacement>> = {
  "round-robin": { kind: "push", rule: "round-robin" },
  "least-requests": { kind: "push", rule: "least-requests" },
  affinity: { kind: "push", rule: "affinity" },
  "bounded-affinity": { kind: "push", rule: "bounded-affinity" },
  oldest: { kind: "oldest" },
  pull: { kind: "pull" },
};

const SHARES = mainShares(7, 0.9);
const loadOf = (seed: number, jobsPerS: number, seconds: number) =>
  generateFleetLoad({ shares: SHARES, keep: 0.5, numJobs: jobsPerS * seconds, jobsPerS, seed });
const optionsOf = (placement: FleetPlacement, changes: Partial<FleetOptions> = {}): FleetOptions => {
  return { numWorkers: 4, worker: WORKER, placement, perTokenMs: 60, ...changes };
};

describe("generated jobs", () => {
  test("have the shares of experts, the locality and the rate that were asked for", () => {
    const keep = keepOf(SHARES, 0.92);
    const jobs = generateFleetLoad({ shares: SHARES, keep, numJobs: 4000, jobsPerS: 50, skew: 0 });
    const tokens = jobs.flatMap(({ experts }) => experts);
    const same = jobs.flatMap(({ experts }) => experts.slice(1).map((expert, index) => expert === experts[index]));
    expect(same.filter(Boolean).length / same.length).toBeCloseTo(0.92, 2);
    for (let expert = 0; expert < 7; expert++) {
      expect(tokens.filter((one) => one === expert).length / tokens.length).toBeCloseTo(1 / 7, 1);
    }
    expect(4_000_000 / (jobs.at(-1)?.arrivalMs ?? 0)).toBeCloseTo(50, -1);
  });

  test("follow Zipf's law, which hot spots shift by one domain", () => {
    const options = { shares: mainShares(7, 1), numJobs: 4000, jobsPerS: 100, skew: 1 };
    const jobs = generateFleetLoad({ ...options, shiftEveryMs: 20_000 });
    const shareOf = (key: string, fromMs: number): number => {
      const some = jobs.filter(({ arrivalMs }) => arrivalMs >= fromMs && arrivalMs < fromMs + 20_000);
      return some.filter((job) => job.key === key).length / some.length;
    };
    const harmonic = [1, 2, 3, 4, 5, 6, 7].reduce((sum, place) => sum + 1 / place, 0);
    expect(shareOf("e0", 0)).toBeCloseTo(1 / harmonic, 1);
    expect(shareOf("e1", 20_000)).toBeCloseTo(1 / harmonic, 1);
  });

  test("come in bursts of the same mean rate", () => {
    const jobs = generateFleetLoad({ shares: SHARES, numJobs: 5000, jobsPerS: 50, burst: 4 });
    const inBurst = jobs.filter(({ arrivalMs }) => arrivalMs % 10_000 < 2000).length;
    // A fifth of the time at four times the rate.
    expect(inBurst / jobs.length).toBeCloseTo(0.5, 1);
  });
});

test("one worker serves as the simulation of one server does", () => {
  for (const scheduler of [fcfs(), costAware()]) {
    // All jobs arrive before the first step, and wait in one queue.
    const jobs = loadOf(4, 50, 1).map((job) => ({ ...job, arrivalMs: 0, deadlineMs: Infinity, key: "e0" }));
    const worker = { ...WORKER, scheduler, maxNumSeqs: 8 };
    const fleet = simulateFleet(
      jobs,
      optionsOf({ kind: "oldest" }, { numWorkers: 1, worker, admits: false, perTokenMs: Infinity }),
    );
    const sequences = jobs.map(({ id, promptTokens, experts }) => ({ id, promptTokens, experts, arrivalStep: 0 }));
    const single = simulate(
      { layout: LAYOUT, sequences, steps: [] },
      {
        scheduler,
        limits: WORKER.limits,
        maxNumSeqs: 8,
        cache: { budgetBytes: 280e6 },
        cost: { ...DEFAULT_COST_MODEL, loadMsPerByte: 1e-15 },
      },
    );
    expect(fleet.answerP95Ms).toBeCloseTo(single.latencyMs.p95, 3);
    expect(fleet.answerMeanMs).toBeCloseTo(single.latencyMs.mean, 3);
  }
});

describe.each(Object.entries(PLACEMENTS))("%s", (_, placement) => {
  test("gives the same figures each time, and accounts for every job", () => {
    const jobs = loadOf(1, 110, 4);
    const once = simulateFleet(jobs, optionsOf(placement));
    expect(simulateFleet(jobs, optionsOf(placement))).toEqual(once);
    expect(once.jobs).toBe(jobs.length);
    expect(once.ended + once.refused + once.dropped).toBe(jobs.length);
    expect(once.goodputPerS * (jobs.at(-1)?.arrivalMs ?? 0)).toBeLessThanOrEqual(1000 * once.ended + 1e-6);
  });

  test("loses no job when workers die, join and slow down", () => {
    const faults: readonly FleetFault[] = [
      { atMs: 500, worker: 1, kind: "die" },
      { atMs: 700, worker: 0, kind: "slow", slowdown: 3 },
      { atMs: 1500, worker: 3, kind: "start" },
      { atMs: 1600, worker: 2, kind: "die" },
    ];
    const jobs = loadOf(2, 60, 3).map((job) => ({ ...job, deadlineMs: Infinity }));
    const result = simulateFleet(jobs, optionsOf(placement, { faults, admits: false }));
    expect(result).toMatchObject({ ended: jobs.length, refused: 0, dropped: 0 });
  });
});
