// Plans of opening and closing models keep to the memory, close none that is in use, and let nobody wait for ever. A
// plain simulation carries the plans out, with openings, closings and requests that take any time.

import { describe, expect, test } from "vitest";
import { type OnDemandState, planModels } from "../../packages/express/src/edge/models/plan-models.ts";
import * as fc from "../support/fast-check.ts";

const MEMORY_BYTES = 10;
const TURN_MS = 50;
const LIMITS = { memoryBytes: MEMORY_BYTES, turnMs: TURN_MS };

const CLOSED: OnDemandState = {
  name: "a",
  bytes: 4,
  phase: "closed",
  numUses: 0,
  waitingSinceMs: undefined,
  openedMs: 0,
  usedMs: 0,
  keepAliveMs: Infinity,
};
const open = (name: string, more: Partial<OnDemandState> = {}): OnDemandState => ({
  ...CLOSED,
  name,
  phase: "open",
  ...more,
});
const wanted = (name: string, sinceMs: number, bytes = 4): OnDemandState => ({
  ...CLOSED,
  name,
  bytes,
  waitingSinceMs: sinceMs,
});

describe("a plan", () => {
  test("opens what is wanted as long as there is memory, the first that waited first", () => {
    const models = [wanted("late", 3), wanted("early", 1), wanted("middle", 2)];
    expect(planModels(models, LIMITS, 10)).toMatchObject({ open: ["early", "middle"], close: [], yielding: [] });
  });

  test("closes the model that was not used for longest, and waits until its memory is there", () => {
    const models = [open("new", { usedMs: 9 }), open("old", { usedMs: 1 }), wanted("c", 10)];
    expect(planModels(models, LIMITS, 10)).toMatchObject({ open: [], close: ["old"] });
    const closing = [models[0] as OnDemandState, open("old", { phase: "closing" }), wanted("c", 10)];
    expect(planModels(closing, LIMITS, 11)).toMatchObject({ open: [], close: [], yielding: [] });
  });

  test("lets a busy model have its turn, and then end its requests", () => {
    const models = [open("busy", { numUses: 2, openedMs: 100, bytes: 9 }), wanted("b", 110)];
    expect(planModels(models, LIMITS, 149)).toMatchObject({ close: [], yielding: [], nextMs: 150 });
    expect(planModels(models, LIMITS, 150)).toMatchObject({ close: [], yielding: ["busy"] });
    const done = [open("busy", { openedMs: 100, bytes: 9, waitingSinceMs: 151 }), wanted("b", 110)];
    expect(planModels(done, LIMITS, 160)).toMatchObject({ close: ["busy"], yielding: [] });
  });

  test("lets no later request go ahead of one that waits for much memory", () => {
    const models = [open("busy", { numUses: 1, openedMs: 0 }), wanted("large", 1, 8), wanted("small", 2, 1)];
    expect(planModels(models, LIMITS, 100)).toMatchObject({ open: [], yielding: ["busy"] });
  });

  test("closes models that nobody has asked for within their time, and says when it will", () => {
    const models = [open("a", { usedMs: 5, keepAliveMs: 10 }), open("b", { usedMs: 5, keepAliveMs: 20 })];
    expect(planModels(models, LIMITS, 14)).toMatchObject({ close: [], nextMs: 15 });
    expect(planModels(models, LIMITS, 15)).toMatchObject({ close: ["a"], nextMs: 25 });
    const kept = [open("a", { keepAliveMs: 0, numUses: 1 }), open("b")];
    expect(planModels(kept, LIMITS, 1e9)).toEqual({ open: [], close: [], yielding: [], nextMs: Infinity });
  });
});

interface Simulated {
  state: { -readonly [Name in keyof OnDemandState]: OnDemandState[Name] };
  /** Ids of requests that wait, and those that run with the times of their ends. */
  waiting: number[];
  running: { readonly id: number; readonly endMs: number }[];
  /** End of the opening or closing under way. */
  dueMs: number;
}

class Simulation {
  readonly models: readonly Simulated[];
  nowMs = 0;
  readonly served: number[] = [];
  #next = 0;
  #nextMs = Infinity;
  readonly #durations: readonly number[];

  constructor(sizes: readonly number[], keepAlivesMs: readonly number[], durations: readonly number[]) {
    this.#durations = durations;
    this.models = sizes.map((bytes, index) => ({
      state: { ...CLOSED, name: `${index}`, bytes, keepAliveMs: keepAlivesMs[index] ?? Infinity },
      waiting: [],
      running: [],
      dueMs: Infinity,
    }));
  }

  ask(index: number): void {
    const model = this.models[index % this.models.length] as Simulated;
    model.waiting.push(this.#next++);
    model.state.waitingSinceMs ??= this.nowMs;
    this.#plan();
  }

  get numAsked(): number {
    return this.#next;
  }

  /** Lets the next things happen, up to a time. */
  advance(untilMs: number): void {
    for (;;) {
      const dueMs = Math.min(
        this.#nextMs,
        ...this.models.flatMap((one) => [one.dueMs, ...one.running.map((r) => r.endMs)]),
      );
      if (dueMs > untilMs) break;
      this.nowMs = Math.max(this.nowMs, dueMs);
      for (const model of this.models) this.#settle(model);
      this.#plan();
    }
    this.nowMs = untilMs;
  }

  #settle(model: Simulated): void {
    const { state } = model;
    const ended = model.running.filter(({ endMs }) => endMs <= this.nowMs);
    model.running = model.running.filter(({ endMs }) => endMs > this.nowMs);
    for (const { id } of ended) this.served.push(id);
    if (ended.length > 0) state.usedMs = this.nowMs;
    state.numUses = model.running.length;
    if (model.dueMs > this.nowMs) return;
    model.dueMs = Infinity;
    state.phase = state.phase === "opening" ? "open" : "closed";
    if (state.phase === "open") state.openedMs = state.usedMs = this.nowMs;
  }

  #plan(): void {
    const states = this.models.map(({ state }) => state);
    const plan = planModels(states, LIMITS, this.nowMs);
    for (const model of this.models) {
      const { state } = model;
      if (plan.open.includes(state.name)) {
        expect(state.phase).toBe("closed");
        Object.assign(state, { phase: "opening" });
        model.dueMs = this.nowMs + this.#duration();
      }
      if (plan.close.includes(state.name)) {
        expect([state.phase, state.numUses, model.running]).toEqual(["open", 0, []]);
        Object.assign(state, { phase: "closing" });
        model.dueMs = this.nowMs + this.#duration();
      }
      if (plan.yielding.includes(state.name)) {
        // Somebody waits, and its turn is over.
        expect(states.some(({ phase, waitingSinceMs }) => phase === "closed" && waitingSinceMs !== undefined)).toBe(
          true,
        );
        expect(this.nowMs - state.openedMs).toBeGreaterThanOrEqual(TURN_MS);
      } else if (state.phase === "open") {
        for (const id of model.waiting) model.running.push({ id, endMs: this.nowMs + this.#duration() });
        model.waiting = [];
        Object.assign(state, { waitingSinceMs: undefined, numUses: model.running.length });
      }
    }
    expect(plan.nextMs).toBeGreaterThan(this.nowMs);
    this.#nextMs = plan.nextMs;
    const held = states.filter(({ phase }) => phase !== "closed").reduce((sum, { bytes }) => sum + bytes, 0);
    expect(held).toBeLessThanOrEqual(MEMORY_BYTES);
  }

  #duration(): number {
    return this.#durations[(this.#next * 7 + this.served.length) % this.#durations.length] ?? 1;
  }
}

const simulation = fc.record({
  sizes: fc.array(fc.integer({ min: 1, max: MEMORY_BYTES }), { minLength: 1, maxLength: 5 }),
  keepAlivesMs: fc.array(fc.constantFrom(0, 1, 30, 1000, Infinity), { minLength: 5, maxLength: 5 }),
  durations: fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 9 }),
});
const move = fc.record({ model: fc.nat(4), waitMs: fc.constantFrom(0, 0, 0, 1, 3, 20, 100) });

test("whatever is asked and however long it takes, memory holds, all are served once, and idle models close", () => {
  let [numSwaps, numWaits] = [0, 0];
  fc.assert(
    fc.property(simulation, fc.array(move, { maxLength: 80, size: "max" }), (given, moves) => {
      const simulated = new Simulation(given.sizes, given.keepAlivesMs, given.durations);
      for (const { model, waitMs } of moves) {
        simulated.ask(model);
        if (simulated.models.some(({ waiting }) => waiting.length > 1)) numWaits++;
        simulated.advance(simulated.nowMs + waitMs);
      }
      // Each request waits at most for a turn, a closing and an opening of those before it.
      simulated.advance(simulated.nowMs + (1 + moves.length) * 1000);
      expect(simulated.served.toSorted((a, b) => a - b)).toEqual(
        Array.from({ length: simulated.numAsked }, (_, id) => id),
      );
      simulated.advance(simulated.nowMs + 2000);
      for (const { state } of simulated.models) {
        if (state.keepAliveMs !== Infinity) expect(state.phase).toBe("closed");
        if (state.phase === "closed" && state.openedMs > 0) numSwaps++;
      }
    }),
  );
  expect(Math.min(numSwaps, numWaits)).toBeGreaterThan(20);
});

test("two models that are asked for all the time take turns although only one fits", () => {
  const simulated = new Simulation([9, 9], [Infinity, Infinity], [5]);
  const served = [0, 0];
  for (let round = 0; round < 400; round++) {
    simulated.ask(round % 2);
    simulated.advance(simulated.nowMs + 2);
  }
  for (const id of simulated.served) served[id % 2] = (served[id % 2] ?? 0) + 1;
  expect(Math.min(...served)).toBeGreaterThan(120);
});
