// Which grammar is compiled next, and what makes room for it.

import { describe, expect, test } from "vitest";
import {
  nextMove,
  type CompileState,
  type KeptGrammar,
  type Move,
  type RunningCompilation,
  Turns,
  type WaitingCompilation,
} from "../../packages/grammar/src/matching/compile-plan.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const SLICE_MS = 100;
/** How long a busy grammar takes to answer. */
const BUSY_MS = 20;
const waits = (key: string, ...clients: string[]): WaitingCompilation => ({ key, clients, isLong: false });
const long = (key: string, ...clients: string[]): WaitingCompilation => ({ key, clients, isLong: true });
const runs = (one: WaitingCompilation, startedMs = 0, isEnding = false): RunningCompilation => ({
  ...one,
  clients: isEnding ? [] : one.clients,
  startedMs,
  isEnding,
});
const kept = (key: string, client: string, { isIdle = true, usedMs = 0 } = {}): KeptGrammar => ({
  key,
  client,
  isIdle,
  usedMs,
});
const decide = (state: Partial<CompileState>): Move =>
  nextMove({
    waiting: [],
    running: [],
    kept: [],
    numRetiring: 0,
    numEnding: 0,
    turns: new Map(),
    maxGrammars: 8,
    sliceMs: SLICE_MS,
    nowMs: 10,
    ...state,
  });
const WAIT = { type: "wait", forMs: undefined };

describe("the next compilation", () => {
  test("is the first of the client whose turn it is", () => {
    const turns = new Map([
      ["a", 3],
      ["b", 2],
    ]);
    const waiting = [waits("a1", "a"), waits("b1", "b"), waits("b2", "b")];
    expect(decide({ waiting, turns })).toEqual({ type: "start", key: "b1" });
    expect(decide({ waiting: [...waiting, waits("shared", "a", "c")], turns })).toEqual({
      type: "start",
      key: "shared",
    });
  });

  test("starts beside a running one, which goes on in the place for long ones", () => {
    const running = [runs(waits("a1", "a"))];
    expect(decide({ waiting: [waits("b1", "b")], running })).toEqual({ type: "promote", key: "a1" });
    const promoted = [runs(long("a1", "a"))];
    expect(decide({ waiting: [waits("b1", "b")], running: promoted })).toEqual({ type: "start", key: "b1" });
    expect(decide({ waiting: [long("b1", "b")], running: promoted })).toEqual(WAIT);
    expect(decide({ waiting: [long("b1", "b")], running })).toEqual({ type: "start", key: "b1" });
  });

  test("of a client with none running comes at once, before a second one of another", () => {
    const running = [runs(long("a1", "a")), runs(waits("a2", "a"))];
    const waiting = [waits("a3", "a"), waits("b1", "b")];
    expect(decide({ waiting, running })).toEqual({ type: "put-off", key: "a2", isLong: false });
    expect(decide({ waiting: waiting.slice(0, 1), running })).toEqual({ type: "wait", forMs: 90 });
  });

  test("comes after a slice of time when both places are taken by others", () => {
    const running = [runs(long("a1", "a")), runs(waits("b1", "b"))];
    const waiting = [waits("c1", "c")];
    expect(decide({ waiting, running })).toEqual({ type: "wait", forMs: 90 });
    expect(decide({ waiting, running, nowMs: 100 })).toEqual({ type: "put-off", key: "b1", isLong: true });
    expect(decide({ waiting: [], running, nowMs: 100 })).toEqual(WAIT);
    const ending = [runs(long("a1", "a")), runs(waits("b1", "b"), 0, true)];
    expect(decide({ waiting, running: ending, nowMs: 100 })).toEqual(WAIT);
  });

  test("waits for its turn and a slice of time where only one grammar is kept", () => {
    const [waiting, running] = [[long("a2", "a"), waits("b1", "b")], [runs(waits("a1", "a"))]];
    const turns = new Map([
      ["a", 1],
      ["b", 2],
    ]);
    expect(decide({ waiting, running, turns, maxGrammars: 1 })).toEqual({ type: "wait", forMs: 90 });
    const move = decide({ waiting, running, turns, maxGrammars: 1, nowMs: 200 });
    expect(move).toEqual({ type: "put-off", key: "a1", isLong: true });
    expect(decide({ waiting, turns, maxGrammars: 1 })).toEqual({ type: "start", key: "a2" });
  });
});

describe("room is made", () => {
  const waiting = [waits("new", "n")];

  test("by the grammar used longest ago of the client who has the most", () => {
    const homes = [kept("b1", "b"), kept("a1", "a"), kept("a2", "a"), kept("c1", "c")];
    expect(decide({ waiting, kept: homes, maxGrammars: 4 })).toEqual({ type: "evict", key: "a1" });
    expect(decide({ waiting, kept: homes, maxGrammars: 5 })).toEqual({ type: "start", key: "new" });
    expect(decide({ waiting, kept: homes.slice(1, 2), maxGrammars: 1 })).toEqual({ type: "evict", key: "a1" });
  });

  test("by a stale grammar before others", () => {
    const homes = [kept("b1", "b"), kept("a1", "a", { usedMs: 60_000 }), kept("a2", "a", { usedMs: 70_000 })];
    expect(decide({ waiting, kept: homes, maxGrammars: 3, nowMs: 70_000 })).toEqual({ type: "evict", key: "b1" });
  });

  test("by an idle grammar before a busy one, and by what ends already before both", () => {
    const homes = [kept("a1", "a", { isIdle: false }), kept("a2", "a", { isIdle: false }), kept("b1", "b")];
    expect(decide({ waiting, kept: homes, maxGrammars: 3 })).toEqual({ type: "evict", key: "b1" });
    const busy = homes.slice(0, 2);
    expect(decide({ waiting, kept: busy, maxGrammars: 2 })).toEqual({ type: "retire", key: "a1" });
    expect(decide({ waiting, kept: busy.slice(1), numRetiring: 1, maxGrammars: 2 })).toEqual(WAIT);
    expect(decide({ waiting, kept: homes.slice(1), numEnding: 1, maxGrammars: 3 })).toEqual(WAIT);
    expect(decide({ waiting, running: [runs(waits("x", "x"), 0, true)], maxGrammars: 1 })).toEqual(WAIT);
  });
});

test("a row of turns goes round", () => {
  const turns = new Turns();
  for (const client of ["a", "b", "a"]) turns.join(client);
  expect([...turns.all]).toEqual([
    ["a", 1],
    ["b", 2],
  ]);
  turns.had(["a"]);
  turns.join("c");
  turns.keepOnly(new Set(["a", "c"]));
  expect([...turns.all]).toEqual([
    ["a", 3],
    ["c", 4],
  ]);
});

interface Job extends WaitingCompilation {
  readonly workMs: number;
  readonly cameMs: number;
  startedMs: number | undefined;
}

let numRetired = 0;

/** Compilations, threads and time without any of them being real. */
class Simulation {
  readonly turns = new Turns();
  waiting: Job[] = [];
  running: (RunningCompilation & { readonly job: Job; endsMs: number })[] = [];
  kept: KeptGrammar[] = [];
  retiring: { readonly endsMs: number }[] = [];
  nowMs = 0;
  numAdded = 0;
  readonly done: Job[] = [];
  readonly maxGrammars: number;

  constructor(maxGrammars: number) {
    this.maxGrammars = maxGrammars;
  }

  add(client: string, workMs: number): Job {
    const job = { ...waits(`${client}:${this.numAdded++}`, client), workMs, cameMs: this.nowMs };
    const whole: Job = { ...job, startedMs: undefined };
    this.waiting.push(whole);
    this.turns.join(client);
    this.pump();
    return whole;
  }

  state(): CompileState {
    const { waiting, running, kept: homes, maxGrammars, nowMs } = this;
    this.turns.keepOnly(new Set([...waiting, ...running].flatMap(({ clients }) => clients)));
    const threads = { kept: homes, numRetiring: this.retiring.length, numEnding: 0 };
    return { waiting, running, ...threads, turns: this.turns.all, maxGrammars, sliceMs: SLICE_MS, nowMs };
  }

  pump(): number | undefined {
    for (let moves = 0; ; moves++) {
      if (moves > 1000) throw new Error("Moves without an end");
      const move = nextMove(this.state());
      if (move.type === "wait") return move.forMs;
      this.apply(move);
      expect(this.running.length).toBeLessThanOrEqual(Math.min(2, this.maxGrammars));
      expect(this.running.filter(({ isLong }) => !isLong).length).toBeLessThanOrEqual(1);
      const numThreads = this.running.length + this.kept.length + this.retiring.length;
      expect(numThreads).toBeLessThanOrEqual(this.maxGrammars);
    }
  }

  apply(move: Exclude<Move, { type: "wait" }>): void {
    const job = this.waiting.find(({ key }) => key === move.key);
    const run = this.running.find(({ key, isEnding }) => key === move.key && !isEnding);
    switch (move.type) {
      case "start":
        if (!job) throw new Error(`Nothing of ${move.key} waits`);
        this.waiting = this.waiting.filter((one) => one !== job);
        this.turns.had(job.clients);
        job.startedMs ??= this.nowMs;
        this.running.push({ ...runs(job, this.nowMs), job, endsMs: this.nowMs + job.workMs });
        break;
      case "promote":
        this.running = this.running.map((one) => (one.key === move.key ? { ...one, isLong: true } : one));
        break;
      case "put-off":
        if (!run) throw new Error(`Nothing of ${move.key} runs`);
        this.running = this.running.filter((one) => one !== run);
        this.running.push({ ...run, clients: [], isEnding: true, endsMs: this.nowMs + 1 });
        this.waiting.push(Object.assign(run.job, { isLong: run.job.isLong || move.isLong }));
        break;
      case "evict":
        this.kept = this.kept.filter(({ key }) => key !== move.key);
        break;
      case "retire":
        expect(this.kept.every(({ isIdle }) => !isIdle)).toBe(true);
        this.kept = this.kept.filter(({ key }) => key !== move.key);
        this.retiring.push({ endsMs: this.nowMs + BUSY_MS });
        numRetired++;
        break;
      default:
        throw new TypeError(`Unknown move: ${String(move satisfies never)}`);
    }
  }

  /** To the next thing that happens. */
  step(untilMs: number, random?: () => number): void {
    if (random) this.kept = this.kept.map((one) => ({ ...one, isIdle: random() < 0.5 }));
    const sliceMs = this.pump();
    const endsMs = [...this.running, ...this.retiring].map((one) => one.endsMs);
    this.nowMs = Math.min(untilMs, ...endsMs, sliceMs === undefined ? Infinity : this.nowMs + sliceMs);
    this.retiring = this.retiring.filter((one) => one.endsMs > this.nowMs);
    for (const one of this.running.filter(({ endsMs: endMs }) => endMs <= this.nowMs)) {
      this.running.splice(this.running.indexOf(one), 1);
      if (one.isEnding) continue;
      this.done.push(one.job);
      this.kept.push(kept(one.key, one.job.clients[0] as string, { usedMs: this.nowMs }));
    }
  }
}

test.each(Array.from({ length: 60 }, (_, seed) => seed))(
  "whatever comes, all is compiled, and short ones of others do not wait for long ones (seed %i)",
  (seed) => {
    const random = seededRandom(seed);
    const simulation = new Simulation(1 + randomInteger(random, 5));
    const numClients = 1 + randomInteger(random, 4);
    let numJobs = 0;
    for (let round = 0; round < 40; round++) {
      const untilMs = simulation.nowMs + randomInteger(random, 300);
      while (simulation.nowMs < untilMs) simulation.step(untilMs, random);
      for (let count = randomInteger(random, 4); count > 0; count--) {
        simulation.add(`c${randomInteger(random, numClients)}`, random() < 0.3 ? 500 : 5);
        numJobs++;
      }
    }
    // One more comes, of a client of its own: each of the others has one turn before it.
    const cameMs = simulation.nowMs;
    const last = simulation.add("late", 5);
    while (last.startedMs === undefined) simulation.step(Infinity);
    const waitedMs = last.startedMs - cameMs;
    if (simulation.maxGrammars > 1) expect(waitedMs).toBeLessThanOrEqual((numClients + 1) * (SLICE_MS + BUSY_MS + 2));
    while (simulation.done.length < numJobs + 1) simulation.step(Infinity);
    expect(simulation.waiting).toEqual([]);
    expect(new Set(simulation.done).size).toBe(numJobs + 1);
  },
);

test("some of these had to make room while they were busy", () => {
  expect(numRetired).toBeGreaterThan(10);
});

test("a client with twelve slow grammars delays a short one of another not at all", () => {
  const simulation = new Simulation(8);
  for (let index = 0; index < 12; index++) simulation.add("slow", 10_000);
  for (let at = 0; at < 5; at++) {
    simulation.step(simulation.nowMs + 37);
    const other = simulation.add("other", 5);
    while (other.startedMs === undefined) simulation.step(Infinity);
    // The time a thread takes to end.
    expect(other.startedMs - other.cameMs).toBeLessThanOrEqual(1);
    while (!simulation.done.includes(other)) simulation.step(Infinity);
  }
});
