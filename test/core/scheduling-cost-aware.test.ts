import {
  costAware,
  fcfs,
  nextChunkTokens,
  readMe,
  type SchedulableSequence,
  type Scheduler,
  type SchedulerState,
} from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import { randomInteger, seededRandom } from "../support/random.ts";
import {
  decoding,
  idsOf,
  predictedMs,
  prefilling,
  randomCost,
  randomRequests,
  schedulable,
  serve,
  SLOW_COST,
  stateOf,
} from "../support/scheduling.ts";

const LIMITS = { maxNumBatchedSeqs: 16, maxNumBatchedTokens: 512, chunkTokens: 128 };
const MB = 1e6;

interface Kind {
  readonly isDecoding: boolean;
  readonly hasRoom: boolean;
  /** Whether reading the cache costs time. Sequences that share an expert join with any context. */
  readonly readsCache: boolean;
}

/** Draws up to eight sequences of one kind that arrived together, with steps and experts of any cost. */
function smallState(random: () => number, { isDecoding, hasRoom, readsCache }: Kind): SchedulerState {
  const numExperts = 1 + randomInteger(random, 5);
  const sequences = Array.from({ length: 1 + randomInteger(random, 8) }, (_, arrival) => {
    const home = randomInteger(random, numExperts);
    const past = 1 + randomInteger(random, 800);
    if (isDecoding) return decoding(arrival, home, { numTokens: past + 1, numComputedTokens: past });
    const length = 2 + randomInteger(random, 127);
    const other = (): number => (random() < 0.02 ? randomInteger(random, numExperts) : home);
    return prefilling(arrival, Array.from({ length }, other));
  });
  const limits = hasRoom
    ? { maxNumBatchedSeqs: 8, maxNumBatchedTokens: 1024, chunkTokens: 128 }
    : {
        ...LIMITS,
        maxNumBatchedSeqs: 1 + randomInteger(random, 6),
        maxNumBatchedTokens: 128 + randomInteger(random, 300),
      };
  const missingBytes = Array.from({ length: 6 }, () => (random() < 0.5 ? 0 : randomInteger(random, 100 * MB)));
  const cost = { ...randomCost(random), ...(readsCache ? {} : { msPerCachedToken: 0 }) };
  return stateOf(sequences, { limits, cost, missingBytes });
}

function rateOf(state: SchedulerState, scheduled: ReturnType<ReturnType<typeof costAware>>): number {
  return scheduled.reduce((sum, { numTokens }) => sum + numTokens, 0) / predictedMs(state, scheduled);
}

/** Finds the most tokens per millisecond of all steps that the limits allow and that contain `mustHave`. */
function bestRate(state: SchedulerState, mustHave: readonly SchedulableSequence[]): number {
  const { sequences, limits } = state;
  let best = 0;
  for (let subset = 1; subset < 1 << sequences.length; subset++) {
    const members = sequences.filter((_, index) => (subset >> index) & 1);
    if (!mustHave.every((sequence) => members.includes(sequence))) continue;
    const step = members.map((sequence) => ({
      id: sequence.id,
      numTokens: nextChunkTokens(sequence, limits.chunkTokens),
    }));
    const numTokens = step.reduce((sum, one) => sum + one.numTokens, 0);
    if (step.length > limits.maxNumBatchedSeqs || numTokens > limits.maxNumBatchedTokens) continue;
    best = Math.max(best, rateOf(state, step));
  }
  return best;
}

function hasRoomForAll({ sequences, limits }: SchedulerState): boolean {
  const tokens = sequences.reduce((sum, sequence) => sum + nextChunkTokens(sequence, limits.chunkTokens), 0);
  return sequences.length <= limits.maxNumBatchedSeqs && tokens <= limits.maxNumBatchedTokens;
}

/** Predicts the time of a step of all sequences with all experts in memory. */
function wholeStepMs(state: SchedulerState): number {
  const everybody = state.sequences.map((sequence) => ({
    id: sequence.id,
    numTokens: nextChunkTokens(sequence, state.limits.chunkTokens),
  }));
  return predictedMs({ ...state, missingBytes: [] }, everybody);
}

/** Predicts the time of reading `experts`. */
function loadMs({ cost, missingBytes }: SchedulerState, experts: Iterable<number>): number {
  const bytes = Array.from(new Set(experts)).reduce((sum, expert) => sum + (missingBytes[expert] ?? 0), 0);
  return bytes * cost.loadMsPerByte;
}

describe("the step's tokens per predicted millisecond fall short of the best step's by", () => {
  // Among sequences of one expert arrival decides, not the length of context or chunk. It shows if there is no room
  // for all.
  test.each<[string, Kind, number, number]>([
    ["nothing: decodes", { isDecoding: true, hasRoom: true, readsCache: false }, 1e-9, 1e-9],
    ["0.2 % on the mean: decodes, few places", { isDecoding: true, hasRoom: false, readsCache: false }, 2e-3, 0.2],
    ["0.5 %: decodes of any context", { isDecoding: true, hasRoom: true, readsCache: true }, 0.006, 0.4],
    ["2 %: decodes of any context, few places", { isDecoding: true, hasRoom: false, readsCache: true }, 0.02, 0.5],
    ["4 %: prefill of any length, little room", { isDecoding: false, hasRoom: false, readsCache: true }, 0.04, 1],
  ])("%s", (_, kind, most, worst) => {
    const random = seededRandom(5);
    const gaps = Array.from({ length: 1000 }, () => {
      const state = smallState(random, kind);
      if (!kind.isDecoding && hasRoomForAll(state)) return 0;
      // With room for all, experts that load within the time of a step of all sequences join too.
      const mustHave = state.sequences.filter(
        ({ nextExperts }) => hasRoomForAll(state) && loadMs(state, Array.from(nextExperts)) <= wholeStepMs(state),
      );
      return 1 - rateOf(state, costAware()(state)) / bestRate(state, mustHave);
    });
    expect(Math.max(...gaps)).toBeLessThanOrEqual(worst);
    expect(mean(gaps)).toBeLessThanOrEqual(most);
  });
});

test("with room for all, leaves out only experts that take longer to load than a step of all sequences", () => {
  const random = seededRandom(9);
  let numLeftOut = 0;
  for (let round = 0; round < 1000; round++) {
    const state = smallState(random, { isDecoding: round % 2 === 0, hasRoom: true, readsCache: true });
    const chosen = new Set(idsOf(costAware()(state)));
    const isIn = ({ id }: SchedulableSequence): boolean => chosen.has(id);
    const present = new Set(state.sequences.filter(isIn).flatMap(({ nextExperts }) => Array.from(nextExperts)));
    for (const sequence of state.sequences.filter((one) => !isIn(one))) {
      const missing = Array.from(sequence.nextExperts).filter((expert) => !present.has(expert));
      expect(loadMs(state, missing)).toBeGreaterThan(wholeStepMs(state));
      numLeftOut++;
    }
  }
  expect(numLeftOut).toBeGreaterThan(100);
});

describe("runs all sequences that fit", () => {
  test("with one expert", () => {
    const random = seededRandom(8);
    for (let round = 0; round < 200; round++) {
      const sequences = Array.from({ length: 1 + randomInteger(random, 16) }, (_, arrival) =>
        decoding(arrival, 0, { numTokens: 1000, numComputedTokens: 999, waitingSinceMs: -randomInteger(random, 1000) }),
      );
      const state = stateOf(sequences, { limits: LIMITS, cost: randomCost(random), missingBytes: [50 * MB] });
      expect(costAware()(state)).toHaveLength(sequences.length);
    }
  });

  test("with all experts in memory and few sequences, decoding and prefill, on any number of experts", () => {
    const sequences = [0, 1, 2, 3, 4].map((arrival) => decoding(arrival, arrival));
    const long = [
      prefilling(
        5,
        Array.from({ length: 60 }, (_, index) => index % 7),
      ),
      prefilling(6, [3, 3, 6]),
    ];
    const scheduled = costAware()(stateOf([...sequences, ...long], { limits: LIMITS }));
    expect(scheduled).toHaveLength(7);
  });
});

test("begins with the longest queue if every expert has to be loaded, as Algorithm 1 does", () => {
  const random = seededRandom(6);
  for (let round = 0; round < 300; round++) {
    const sequences = Array.from({ length: 12 }, (_, arrival) => decoding(arrival, randomInteger(random, 4)));
    const state = stateOf(sequences, { limits: LIMITS, missingBytes: Array.from({ length: 4 }, () => 80 * MB) });
    const [first] = costAware()(state);
    expect(first?.id).toBe(readMe()(state)[0]?.id);
  }
});

test("continues with the expert in memory until the sequences of another have waited long", () => {
  const sequences = [1, 2, 3, 4].map((arrival) => decoding(arrival, 0));
  const step = (waitingSinceMs: number): readonly string[] =>
    idsOf(
      costAware()(
        stateOf([...sequences, decoding(0, 1, { waitingSinceMs })], { missingBytes: [0, 100 * MB], limits: LIMITS }),
      ),
    );
  expect(step(0)).toEqual(["s1", "s2", "s3", "s4"]);
  expect(step(-500)).toEqual(["s1", "s2", "s3", "s4"]);
  expect(step(-501)).toEqual(["s0", "s1", "s2", "s3", "s4"]);
});

test("prefers sequences with fewer tokens and longer waits if places are short", () => {
  const limits = { ...LIMITS, maxNumBatchedSeqs: 2 };
  const had = [30, 3, 90, 8].map((completionTokens, arrival) => decoding(arrival, 0, { completionTokens }));
  expect(idsOf(costAware()(stateOf(had, { limits })))).toEqual(["s1", "s3"]);
  const waited = [400, 100, 0, 300].map((ms, arrival) => decoding(arrival, 0, { waitingSinceMs: -ms }));
  expect(idsOf(costAware()(stateOf(waited, { limits })))).toEqual(["s0", "s3"]);
});

/** Creates prompts of these lengths, with all tokens for expert 0. */
function prompts(...lengths: readonly number[]): readonly SchedulableSequence[] {
  return lengths.map((numTokens, index) => schedulable(index + 1, { numTokens }));
}

describe("prefill beside decodes", () => {
  test("fills the step up to `maxStepMs`", () => {
    const state = stateOf([decoding(0, 0), ...prompts(60, 70, 20, 10)], { limits: LIMITS });
    const scheduled = costAware({ maxStepMs: 100 })(state);
    expect(idsOf(scheduled).toSorted()).toEqual(["s0", "s1", "s3", "s4"]);
    expect(predictedMs(state, scheduled)).toBeLessThanOrEqual(100);
  });

  test("never exceeds it while no sequence has waited", () => {
    const random = seededRandom(2);
    let numFull = 0;
    for (let round = 0; round < 1000; round++) {
      const state = smallState(random, { isDecoding: false, hasRoom: true, readsCache: true });
      // Some decodes find the places taken that are kept for prefill, and come back for those that it leaves.
      const decodes = Array.from({ length: 1 + randomInteger(random, 12) }, (_, index) => decoding(20 + index, 0));
      const mixed = { ...state, sequences: [...state.sequences, ...decodes] };
      const scheduled = costAware({ maxStepMs: 60 })(mixed);
      const numDecodes = scheduled.filter(({ numTokens }) => numTokens === 1).length;
      if (numDecodes === scheduled.length || numDecodes === 0) continue;
      expect(predictedMs(mixed, scheduled)).toBeLessThanOrEqual(60 + 1e-9);
      if (scheduled.length === mixed.limits.maxNumBatchedSeqs) numFull++;
    }
    expect(numFull).toBeGreaterThan(50);
  });

  test("leaves a place free that a decode would fill beyond the limit", () => {
    const limits = { ...LIMITS, maxNumBatchedSeqs: 8 };
    const decodes = Array.from({ length: 8 }, (_, index) => decoding(10 + index, 0));
    const state = stateOf([...prompts(40, 40), ...decodes], { limits });
    const kindsWithin = (maxStepMs: number): readonly number[] =>
      costAware({ maxStepMs })(state).map(({ numTokens }) => numTokens);
    // Two of the places are kept for prefill, and one prompt fits.
    const seven = [1, 1, 1, 1, 1, 1, 40];
    const ids = [...decodes.slice(0, 6).map(({ id }) => id), "s1"];
    const sevenMs = predictedMs(
      state,
      ids.map((id, index) => ({ id, numTokens: seven[index] ?? 0 })),
    );
    expect(kindsWithin(sevenMs + 1)).toEqual(seven);
    expect(kindsWithin(sevenMs + 1.2)).toEqual([...seven, 1]);
  });

  test("runs a chunk that is too large after it has waited as long as it exceeds the limit", () => {
    const step = (nowMs: number) =>
      idsOf(costAware({ maxStepMs: 100 })(stateOf([decoding(0, 0), ...prompts(128, 128)], { limits: LIMITS, nowMs })));
    const beyondMs = predictedMs(stateOf([decoding(0, 0), ...prompts(128)]), [
      { id: "s0", numTokens: 1 },
      { id: "s1", numTokens: 128 },
    ]);
    expect(step(beyondMs - 101)).toEqual(["s0"]);
    expect(step(beyondMs - 100)).toEqual(["s0", "s1"]);
  });

  test("has the whole step if no sequence decodes", () => {
    expect(costAware({ maxStepMs: 1 })(stateOf(prompts(128, 128, 128), { limits: LIMITS }))).toHaveLength(3);
  });
});

test("orders equal groups by arrival, and serves a higher priority first", () => {
  const limits = { ...LIMITS, maxNumBatchedSeqs: 2 };
  const sequences = [decoding(3, 0), decoding(1, 1), decoding(2, 0), decoding(4, 1)];
  expect(idsOf(costAware()(stateOf(sequences, { limits })))).toEqual(["s1", "s4"]);
  const urgent = decoding(5, 2, { priority: 1 });
  const missingBytes = [0, 0, 100 * MB];
  expect(idsOf(costAware()(stateOf([...sequences, urgent], { limits, missingBytes })))[0]).toBe("s5");
});

test("eventually puts a prompt first that other sequences keep out of the step", () => {
  const decodes = [1, 2, 3, 4].map((arrival) => decoding(arrival, 0));
  const prompt = schedulable(0, { numTokens: 20, waitingSinceMs: -501 });
  const limits = { ...LIMITS, maxNumBatchedSeqs: 4 };
  expect(idsOf(costAware()(stateOf([...decodes, prompt], { limits, cost: SLOW_COST })))).toEqual([
    "s0",
    "s1",
    "s2",
    "s3",
  ]);
});

describe("latency per token on a simulated clock", () => {
  const limits = { maxNumBatchedSeqs: 32, maxNumBatchedTokens: 512, chunkTokens: 128 };
  const served = (scheduler: Scheduler, maxResident: number, gapMs: number) => {
    const server = { limits, maxNumSeqs: 32, cost: SLOW_COST, expertBytes: 50 * MB, maxResident };
    const runs = [1, 2, 3].map((seed) => serve(scheduler, randomRequests(seededRandom(seed), 100, gapMs), server));
    return {
      mean: mean(runs.map(({ normalisedMs }) => mean(normalisedMs))),
      p95: mean(runs.map(({ normalisedMs }) => normalisedMs.toSorted((a, b) => a - b)[95] as number)),
    };
  };

  test.each([
    [3, 1000, 0.6],
    [2, 1500, 0.5],
  ])(
    "with %d of six experts in memory and a request every %d ms, is at most %d of the other schedulers'",
    (few, gapMs, share) => {
      const costAwares = served(costAware(), few, gapMs);
      for (const other of [served(fcfs(), few, gapMs), served(readMe(), few, gapMs)]) {
        expect(costAwares.mean).toBeLessThan(share * other.mean);
        expect(costAwares.p95).toBeLessThan(share * other.p95);
      }
    },
  );

  test.each([1000, 300])(
    "with all experts in memory and a request every %d ms, is within 1 % of that of fcfs",
    (gapMs) => {
      expect(served(costAware(), 6, gapMs).mean).toBeLessThan(1.01 * served(fcfs(), 6, gapMs).mean);
      expect(served(costAware(), 6, gapMs).p95).toBeLessThan(1.01 * served(fcfs(), 6, gapMs).p95);
    },
  );
});

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
