import {
  addedMs,
  choosePull,
  NO_HOMES,
  predictStepMs,
  seededRandom,
  type FleetState,
  type Homes,
  type PullOptions,
  type QueueState,
  type WorkerState,
} from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import { COST, queueState, workerState } from "./states.ts";

const fleetOf = (workers: readonly WorkerState[], nowMs = 0, homes: Homes = NO_HOMES): FleetState => {
  return { nowMs, workers: workers.map((worker) => ({ ...worker, publishedMs: nowMs })), homes };
};
const homeAt = (key: string, workerId: string): Homes => ({ byKey: { [key]: [{ workerId, share: 1 }] } });

/** Options that the cases below are made for. */
const OPTIONS: PullOptions = { maxDelayMs: 500, overdueEvery: 4, patience: 1 };

/** Time of all sequences of a worker until each has run `steps` steps, step by step. */
function sequenceMs(running: readonly string[], steps: number): number {
  let sum = 0;
  for (let step = 0; step < steps; step++) {
    const work = { tokens: running.length, distinctExperts: new Set(running).size, cachedTokens: 0, missingBytes: 0 };
    sum += running.length * predictStepMs({ ...COST, msPerCachedToken: 0 }, work);
  }
  return sum;
}

describe("the cost of a job on a worker", () => {
  test("is the time of all sequences with it, less their time without it", () => {
    for (const running of [[], ["e0"], ["e0", "e0", "e1"], ["e1", "e2", "e3", "e0"]]) {
      for (const missing of [0, 4000]) {
        const counts: Record<string, number> = {};
        for (const key of running) counts[key] = (counts[key] ?? 0) + 1;
        const state = workerState("a", {
          cost: { ...COST, msPerCachedToken: 0 },
          runningSeqs: running.length,
          runningByKey: counts,
          missingBytes: [missing],
        });
        const prefillAndReadMs = 20 * COST.msPerToken + missing * COST.loadMsPerByte;
        const sameExpert = counts["e0"] ?? 0;
        // The job keeps its expert in steps when the others that use it have ended.
        const longerMs = sameExpert === 0 ? 0 : 10 * uncoveredShare(sameExpert) * COST.msPerExpert;
        const withJob = sequenceMs([...running, "e0"], 10) + (running.length + 1) * (prefillAndReadMs + longerMs);
        const added = addedMs(state, queueState("e0"), { isHome: false });
        expect(added / (withJob - sequenceMs(running, 10))).toBeCloseTo(1, 3);
      }
    }
  });

  test("counts each expert of a route by its share, and reads in every step when memory is short", () => {
    const shares = [0.75, 0.25, 0];
    const state = workerState("a", { runningSeqs: 1, runningByExpert: [0, 0, 1], missingBytes: [1000, 500, 0] });
    const job = { key: "e0", head: { promptTokens: 20, expertShares: shares } };
    const free = addedMs({ ...state, missingBytes: [] }, job, { isHome: false });
    const roomy = addedMs(state, job, { isHome: false });
    const chances = [1 - 0.25 ** 20, 1 - 0.75 ** 20];
    expect(roomy - free).toBeCloseTo(2 * COST.loadMsPerByte * (1000 * (chances[0] ?? 0) + 500 * (chances[1] ?? 0)), 9);
    const crowded = addedMs({ ...state, expertPlaces: 1.5 }, job, { isHome: false });
    expect(crowded - free).toBeCloseTo(2 * 10 * COST.loadMsPerByte * (0.75 * 1000 + 0.25 * 500), 9);
  });

  test("leaves out what a home has anyway, and the part of a prompt that is cached", () => {
    const state = workerState("a", { runningSeqs: 2, runningByKey: { e1: 2 }, missingBytes: [1000] });
    const away = addedMs(state, queueState("e0"), { isHome: false });
    const home = addedMs(state, queueState("e0"), { isHome: true });
    expect(away - home).toBeCloseTo(3 * (1000 * COST.loadMsPerByte + 10 * COST.msPerExpert), 9);
    const cached = { ...state, prefixTokens: { p3: 15 } };
    const [plain, shorter] = [state, cached].map((one) => addedMs(one, queueState("p3"), { isHome: false }));
    expect((plain ?? 0) - (shorter ?? 0)).toBeCloseTo(3 * 15 * COST.msPerToken, 9);
  });
});

/** Share of a time at whose end none of `count` sequences runs any more that end at random times in it, on a grid. */
function uncoveredShare(count: number): number {
  const ends = Array.from({ length: 200 }, (_, index) => (index + 0.5) / 200);
  let sum = 0;
  // The last end is at most `end` with the chance `end ** count`.
  for (const end of ends) sum += end ** count;
  return sum / ends.length;
}

describe("a worker takes", () => {
  test("nothing without room, of another version, or that exceeds its memory", () => {
    const queues = [queueState("e0")];
    const idle = workerState("a");
    expect(choosePull({ ...idle, freeSeqs: 0 }, queues, fleetOf([idle]))).toEqual({});
    expect(choosePull({ ...idle, modelVersion: "2" }, queues, fleetOf([idle]))).toEqual({});
    expect(choosePull({ ...idle, freeKvTokens: 39 }, queues, fleetOf([idle]))).toEqual({});
    expect(choosePull({ ...idle, freeKvTokens: 40 }, queues, fleetOf([idle])).queueId).toBe("0/e0");
  });

  test("at once what costs nowhere less, and leaves to a home what it costs more", () => {
    const [home, other] = [workerState("home"), workerState("other", { runningSeqs: 2, runningByKey: { e1: 2 } })];
    const fleet = fleetOf([home, other], 0, homeAt("e0", "home"));
    expect(choosePull(home, [queueState("e0")], fleet)).toEqual({ queueId: "0/e0", reason: "home" });
    const left = choosePull(other, [queueState("e0")], fleet);
    expect(left.queueId).toBeUndefined();
    expect(left.askAgainMs).toBeGreaterThan(0);
  });

  test("the job of a home that is gone", () => {
    const [home, other] = [workerState("home"), workerState("other", { runningSeqs: 1, runningByKey: { e1: 1 } })];
    const homes = homeAt("e0", "home");
    const at = (ageMs: number) =>
      choosePull(other, [queueState("e0", { head: { queuedMs: 5000, promptTokens: 1, maxNewTokens: 1 } })], {
        nowMs: 5000,
        workers: [{ ...home, publishedMs: 5000 - ageMs }, other],
        homes,
      });
    expect(at(3000).queueId).toBeUndefined();
    expect(at(3001)).toEqual({ queueId: "0/e0", reason: "home" });
  });

  test("the highest priority first, then the job that has waited longest", () => {
    const worker = workerState("a", { pulls: 1 });
    const at = (queues: readonly QueueState[]) => choosePull(worker, queues, fleetOf([worker], 100)).queueId;
    expect(at([queueState("e0", { id: "low", waiting: 9 }), queueState("e0", { id: "high", priority: 1 })])).toBe(
      "high",
    );
    const many = queueState("e0", { id: "many", waiting: 5, head: fresh(50) });
    expect(at([many, queueState("e0", { id: "old", head: fresh(40) })])).toBe("old");
  });

  test("every so many times the oldest job that is overdue, of any priority", () => {
    const [old, urgent] = [
      queueState("e0", { id: "old" }),
      queueState("e1", { id: "urgent", priority: 9, waiting: 9 }),
    ];
    const queues = [old, urgent];
    for (const pulls of [0, 1, 2, 3, 4]) {
      const worker = workerState("a", { pulls });
      const early = choosePull(worker, queues, fleetOf([worker], 499), OPTIONS);
      const late = choosePull(worker, [old, { ...urgent, head: fresh(600) }], fleetOf([worker], 600), OPTIONS);
      expect(early.queueId).toBe("urgent");
      expect(late).toEqual(
        pulls % 4 === 0 ? { queueId: "old", reason: "overdue" } : { queueId: "urgent", reason: "home" },
      );
    }
  });
});

const fresh = (queuedMs: number): QueueState["head"] => ({ queuedMs, promptTokens: 20, maxNewTokens: 20 });

/** All combinations of one value of each list. */
function* combinations<T>(lists: readonly (readonly T[])[]): Generator<readonly T[]> {
  const [first, ...rest] = lists;
  if (!first) yield [];
  else for (const value of first) for (const others of combinations(rest)) yield [value, ...others];
}

test("agrees with a plain decision in every small case", () => {
  const worlds = {
    waits: [0, 30, 90, 700],
    priorities: [0, 1],
    running: [{}, { e0: 1 }, { e0: 1, e1: 2 }],
    homes: ["none", "a", "b"],
    otherRunning: [{}, { e0: 2 }],
    otherFree: [0, 2],
    pulls: [3, 4],
  };
  let cases = 0;
  let taken = 0;
  for (const [waitA = 0, waitB = 0] of combinations([worlds.waits, worlds.waits])) {
    for (const priority of worlds.priorities) {
      for (const running of worlds.running) {
        for (const home of worlds.homes) {
          for (const other of worlds.otherRunning) {
            for (const freeSeqs of worlds.otherFree) {
              for (const pulls of worlds.pulls) {
                const nowMs = 1000;
                const own = withRunning(workerState("a", { pulls, missingBytes: [0, 2000] }), running);
                const theirs = withRunning(workerState("b", { freeSeqs, publishedMs: nowMs }), other);
                const queues = [
                  queueState("e0", { head: fresh(nowMs - waitA) }),
                  queueState("e1", { head: fresh(nowMs - waitB), priority, waiting: 3 }),
                ];
                const homes = home === "none" ? NO_HOMES : homeAt("e0", home);
                const decision = choosePull(own, queues, { nowMs, workers: [theirs], homes }, OPTIONS);
                expect(decision.queueId).toBe(plainChoice(own, theirs, queues, { nowMs, homes }));
                cases++;
                if (decision.queueId !== undefined) taken++;
                else expect(decision.askAgainMs).toBeGreaterThan(nowMs);
              }
            }
          }
        }
      }
    }
  }
  expect(cases).toBe(4 * 4 * 2 * 3 * 3 * 2 * 2 * 2);
  // The cases are of both kinds.
  expect(taken).toBeGreaterThan(cases / 10);
  expect(taken).toBeLessThan(cases);
});

function withRunning(state: WorkerState, runningByKey: Readonly<Record<string, number>>): WorkerState {
  return { ...state, runningByKey, runningSeqs: Object.values(runningByKey).reduce((sum, count) => sum + count, 0) };
}

/** Time of a step of the running sequences, each with one token. */
function baseMs({ runningSeqs, runningByKey }: WorkerState): number {
  return COST.fixedMs + COST.msPerToken * runningSeqs + COST.msPerExpert * Object.keys(runningByKey).length;
}

/** The rule of `choosePull` for two workers, written from its description, on costs that are summed step by step. */
function plainChoice(
  own: WorkerState,
  other: WorkerState,
  queues: readonly QueueState[],
  { nowMs, homes }: { readonly nowMs: number; readonly homes: Homes },
): string | undefined {
  const isHomeOf = (worker: WorkerState, key: string): boolean => homes.byKey[key]?.[0]?.workerId === worker.id;
  const cost = (worker: WorkerState, queue: QueueState, isHome = isHomeOf(worker, queue.key)): number => {
    const running = Object.entries(worker.runningByKey).flatMap(([key, count]) => Array<string>(count).fill(key));
    const together = [...running, queue.key];
    const before = sequenceMs(running, 10);
    let after = sequenceMs(together, 10);
    const same = running.filter((key) => key === queue.key).length;
    // A home runs the expert anyway; elsewhere it stays for longer than the others that use it.
    if (isHome && same === 0) after -= together.length * 10 * COST.msPerExpert;
    if (!isHome && same > 0) after += (together.length * 10 * COST.msPerExpert) / (1 + same);
    const missing = isHome ? 0 : (worker.missingBytes[Number(queue.key.slice(1))] ?? 0);
    const once = 20 * COST.msPerToken + missing * COST.loadMsPerByte + 10 * 20 * COST.msPerCachedToken;
    return after - before + together.length * once;
  };
  const roomMs = other.freeSeqs > 0 ? 0 : other.runningSeqs === 0 ? Infinity : (baseMs(other) * 10) / other.runningSeqs;
  const overdue = queues.filter(({ head }) => nowMs - head.queuedMs >= 500);
  overdue.sort((a, b) => a.head.queuedMs - b.head.queuedMs);
  if (own.pulls % 4 === 0 && overdue[0]) return overdue[0].id;
  const worth = new Map<QueueState, number>();
  for (const queue of queues) {
    const best = Math.min(cost(own, queue), cost(other, queue) + roomMs);
    const regret = cost(own, queue) - best;
    const waited = ((nowMs - queue.head.queuedMs) * (queue.waiting + 1)) / 2;
    if (waited >= regret - 1e-9) worth.set(queue, nowMs - queue.head.queuedMs - (cost(own, queue, false) - best));
  }
  const [best] = Array.from(worth).toSorted(
    ([a, x], [b, y]) => b.priority - a.priority || (Math.abs(x - y) < 1e-9 ? a.head.queuedMs - b.head.queuedMs : y - x),
  );
  return best?.[0].id ?? overdue[0]?.id;
}

describe("no job starves", () => {
  test("a worker with room takes every job within the longest delay, whatever the others publish", () => {
    const random = seededRandom(5);
    for (let run = 0; run < 300; run++) {
      const others = Array.from({ length: 3 }, (_, n) => workerState(`o${n}`, { freeSeqs: Math.floor(random() * 3) }));
      const busy = 1 + Math.floor(random() * 8);
      const worker = workerState("a", {
        runningSeqs: busy,
        runningByKey: { e9: busy },
        missingBytes: [random() * 1e6],
        pulls: run,
      });
      const queues = [queueState("e0"), queueState("e1")];
      let nowMs = 0;
      for (let asked = 0; ; asked++) {
        const decision = choosePull(worker, queues, fleetOf(others, nowMs, homeAt("e0", "o0")), OPTIONS);
        if (decision.queueId !== undefined) break;
        expect(decision.askAgainMs).toBeGreaterThan(nowMs);
        expect(asked).toBeLessThan(4);
        nowMs = decision.askAgainMs ?? Infinity;
      }
      expect(nowMs).toBeLessThanOrEqual(500);
    }
  });

  test("among ever new jobs of higher priorities, a job is taken within four pulls for each older one", () => {
    const options: PullOptions = { ...OPTIONS, maxDelayMs: 100 };
    for (let seed = 0; seed < 20; seed++) {
      const random = seededRandom(seed);
      const jobs: { readonly id: number; readonly key: string; readonly priority: number; readonly atMs: number }[] =
        [];
      const due = new Map<number, number>();
      let worker = workerState("a", { runningSeqs: 5, runningByKey: { e9: 5 } });
      let pulls = 0;
      for (let nowMs = 0, id = 0; nowMs < 20_000; nowMs += 10) {
        // More jobs arrive than leave in bursts; a key's queue is served in order.
        while (jobs.length < 12 && random() < 0.6) {
          const key = `e${Math.floor(random() * 4)}`;
          jobs.push({ id: id++, key, priority: Math.floor(random() * 3), atMs: nowMs });
        }
        for (const job of jobs) {
          const older = jobs.filter(({ atMs, id: other }) => atMs < job.atMs || (atMs === job.atMs && other < job.id));
          if (nowMs - job.atMs >= 100 && !due.has(job.id)) due.set(job.id, pulls + 4 * (older.length + 1));
        }
        const heads = new Map<string, (typeof jobs)[number][]>();
        for (const job of jobs) {
          const queueId = `${job.priority}/${job.key}`;
          heads.set(queueId, [...(heads.get(queueId) ?? []), job]);
        }
        const queues = Array.from(heads, ([queueId, [first, ...rest]]) =>
          queueState(first?.key ?? "", {
            id: queueId,
            priority: first?.priority ?? 0,
            waiting: rest.length + 1,
            head: fresh(first?.atMs ?? 0),
          }),
        );
        const { queueId } = choosePull({ ...worker, pulls }, queues, fleetOf([worker], nowMs), options);
        const taken = queueId === undefined ? undefined : heads.get(queueId)?.[0];
        if (!taken) continue;
        pulls++;
        jobs.splice(jobs.indexOf(taken), 1);
        expect(pulls).toBeLessThanOrEqual(due.get(taken.id) ?? Infinity);
        worker = { ...worker, runningByKey: random() < 0.5 ? { e9: 5 } : { [taken.key]: 5 } };
      }
      expect(pulls).toBeGreaterThan(1000);
    }
  });

  test("nor behind jobs whose deadline has passed before they came", () => {
    const worker = workerState("a", { pulls: 4 });
    const hopeless = queueState("e1", { id: "hopeless", head: { ...fresh(900), deadlineMs: 0 } });
    const queues = [hopeless, queueState("e0", { id: "old" })];
    expect(choosePull(worker, queues, fleetOf([worker], 1000), OPTIONS).queueId).toBe("old");
  });
});
