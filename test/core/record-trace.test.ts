// Compares a trace recorded from events with the records of a plain simulated engine.

import { array, assert, integer, nat, property, record } from "../support/fast-check.ts";
import { ReadMeEmitter, recordTrace, recordTraceLines } from "@readme-moe/core";
import { readTrace } from "@readme-moe/refactor/simulation";
import { describe, expect, test } from "vitest";

const LAYOUT = { numExperts: 4, layerBytes: [10, 20] };

/** An engine without a model that emits an engine's events. */
class EventsOfAnEngine {
  readonly events = new ReadMeEmitter();
  step = 0;

  queue(sequenceId: string, experts: readonly number[], promptTokens = experts.length): void {
    this.route(sequenceId, 0, experts);
    this.events.emit("sequence:queued", { sequenceId, promptTokens, numWaiting: 1 });
  }

  route(sequenceId: string, position: number, experts: readonly number[]): void {
    this.events.emit("router:routed", { sequenceId, position, experts: Uint16Array.from(experts), durationMs: 0 });
  }

  /** @param ran - of each sequence, where its tokens begin and how many they are */
  run(ran: Readonly<Record<string, readonly [position: number, numTokens: number]>>, laterSteps?: number[]): void {
    this.events.emit("batch:scheduled", {
      step: this.step,
      sequenceIds: Object.keys(ran),
      positions: Object.values(ran).map(([position]) => position),
      numTokens: Object.values(ran).map(([, numTokens]) => numTokens),
      distinctExperts: 1,
      numWaiting: 0,
      ...(laterSteps && { laterSteps }),
    });
    this.events.emit("batch:completed", {
      step: this.step++,
      tokens: 1,
      prefillTokens: 0,
      durationMs: 1,
      predictedMs: 1,
      forwardMs: 1,
      kvUsedTokens: 0,
      kvCapacityTokens: 64,
      ...(laterSteps && { expertRuns: [{ experts: [1], planned: [1, 2] }] }),
    });
  }

  finish(sequenceId: string, reason: "stop" | "abort" = "stop"): void {
    const times = { queuedMs: 0, durationMs: 1 };
    const tokens = {
      promptTokens: 1,
      completionTokens: 1,
      cachedTokens: 0,
      acceptedDraftTokens: 0,
      rejectedDraftTokens: 0,
    };
    this.events.emit("sequence:finished", { sequenceId, reason, ...tokens, ...times });
  }
}

test("records arrivals, the experts of all tokens that ran, and the tokens of each step", () => {
  const engine = new EventsOfAnEngine();
  const stop = recordTrace(engine.events, LAYOUT);
  engine.queue("a", [0, 0, 1]);
  engine.run({ a: [0, 2] });
  engine.queue("b", [3]);
  engine.run({ a: [2, 1], b: [0, 1] });
  engine.route("a", 3, [2]);
  engine.finish("b");
  engine.run({ a: [3, 1] });
  engine.finish("a");
  expect(stop()).toEqual({
    layout: LAYOUT,
    sequences: [
      { id: "s0", arrivalStep: 0, promptTokens: 3, experts: [0, 0, 1, 2] },
      { id: "s1", arrivalStep: 1, promptTokens: 1, experts: [3] },
    ],
    steps: [
      { step: 0, tokensPerExpert: [2, 0, 0, 0] },
      { step: 1, tokensPerExpert: [0, 1, 0, 1] },
      { step: 2, tokensPerExpert: [0, 0, 1, 0] },
    ],
  });
});

test("leaves out tokens that came from the prefix cache", () => {
  const engine = new EventsOfAnEngine();
  const stop = recordTrace(engine.events, LAYOUT);
  engine.queue("a", [0, 0, 1, 2]);
  engine.run({ a: [2, 2] });
  engine.route("a", 4, [3]);
  engine.run({ a: [4, 1] });
  engine.finish("a");
  const { sequences, steps } = stop();
  expect(sequences).toEqual([{ id: "s0", arrivalStep: 0, promptTokens: 2, experts: [1, 2, 3] }]);
  expect(steps[0]?.tokensPerExpert).toEqual([0, 1, 1, 0]);
});

test("records tokens from the prefix cache that ran after a preemption", () => {
  const engine = new EventsOfAnEngine();
  const stop = recordTrace(engine.events, LAYOUT);
  engine.queue("a", [0, 0, 1, 2]);
  engine.run({ a: [2, 1] });
  engine.events.emit("sequence:preempted", { sequenceId: "a", tokens: 4 });
  engine.run({ a: [0, 4] });
  engine.finish("a");
  expect(stop().sequences).toEqual([{ id: "s0", arrivalStep: 0, promptTokens: 4, experts: [0, 0, 1, 2] }]);
});

test("records tokens of a preempted sequence once, and in steps as often as they ran", () => {
  const engine = new EventsOfAnEngine();
  const stop = recordTrace(engine.events, LAYOUT);
  engine.queue("a", [0, 1]);
  engine.run({ a: [0, 2] });
  engine.route("a", 2, [1]);
  engine.events.emit("sequence:preempted", { sequenceId: "a", tokens: 3 });
  engine.run({ a: [0, 3] });
  engine.finish("a");
  const { sequences, steps } = stop();
  expect(sequences).toEqual([{ id: "s0", arrivalStep: 0, promptTokens: 2, experts: [0, 1, 1] }]);
  expect(steps.map((step) => step.tokensPerExpert)).toEqual([
    [1, 1, 0, 0],
    [1, 2, 0, 0],
  ]);
});

describe("a sequence that is aborted", () => {
  test("is recorded as far as it ran, within its prompt and after it", () => {
    const engine = new EventsOfAnEngine();
    const stop = recordTrace(engine.events, LAYOUT);
    engine.queue("a", [0, 1, 2]);
    engine.queue("b", [3]);
    engine.queue("never", [1]);
    engine.run({ a: [0, 2], b: [0, 1] });
    engine.route("b", 1, [2]);
    for (const id of ["a", "b", "never"]) engine.finish(id, "abort");
    expect(stop().sequences).toEqual([
      { id: "s0", arrivalStep: 0, promptTokens: 2, experts: [0, 1] },
      { id: "s1", arrivalStep: 0, promptTokens: 1, experts: [3] },
    ]);
  });
});

test("records running sequences when it ends or the engine fails, and continues after a restart", () => {
  const engine = new EventsOfAnEngine();
  const stop = recordTrace(engine.events, LAYOUT);
  engine.queue("a", [0]);
  engine.run({ a: [0, 1] });
  engine.events.emit("engine:failed", { code: "ERR_ENGINE_FAILED", message: "gone" });
  engine.step = 0;
  engine.queue("a", [1]);
  engine.run({ a: [0, 1] });
  const trace = stop();
  expect(trace.sequences.map(({ id, arrivalStep, experts }) => ({ id, arrivalStep, experts }))).toEqual([
    { id: "s0", arrivalStep: 0, experts: [0] },
    { id: "s1", arrivalStep: 1, experts: [1] },
  ]);
  expect(trace.steps.map(({ step }) => step)).toEqual([0, 1]);
  engine.run({ a: [0, 1] });
  expect(engine.events.eventNames()).toEqual([]);
});

test("can begin at any time: leaves out earlier sequences and numbers steps from the first one", () => {
  const engine = new EventsOfAnEngine();
  engine.queue("old", [0, 0]);
  engine.step = 70;
  const stop = recordTrace(engine.events, LAYOUT);
  engine.route("old", 2, [3]);
  engine.queue("new", [1]);
  engine.run({ old: [1, 2], new: [0, 1] });
  engine.finish("old");
  const { sequences, steps } = stop();
  expect(sequences).toEqual([{ id: "s0", arrivalStep: 0, promptTokens: 1, experts: [1] }]);
  expect(steps).toEqual([{ step: 0, tokensPerExpert: [0, 1, 0, 1] }]);
});

describe("lines", () => {
  test("are the same trace, with the input of an expert cache", () => {
    const engine = new EventsOfAnEngine();
    const lines: string[] = [];
    const stop = recordTrace(engine.events, LAYOUT);
    const stopLines = recordTraceLines(engine.events, LAYOUT, (line) => lines.push(line));
    engine.queue("late", [2, 1]);
    engine.queue("b", [1]);
    engine.run({ b: [0, 1] }, [Infinity, 1, 2, Infinity]);
    engine.finish("b");
    engine.run({ late: [0, 2] });
    const trace = stop();
    stopLines();
    expect(trace.steps[0]).toEqual({
      step: 0,
      tokensPerExpert: [0, 1, 0, 0],
      runs: [{ experts: [1], planned: [1, 2] }],
      laterSteps: [Infinity, 1, 2, Infinity],
    });
    const read = readTrace(lines.join(""), "recorded.jsonl");
    expect(read.steps).toEqual(trace.steps);
    expect(new Set(read.sequences)).toEqual(new Set(trace.sequences));
  });

  test("are a valid trace wherever a crash cuts them", () => {
    const engine = new EventsOfAnEngine();
    const lines: string[] = [];
    recordTraceLines(engine.events, LAYOUT, (line) => lines.push(line));
    engine.queue("a", [0, 1]);
    engine.run({ a: [0, 2] }, [1, 1, Infinity, Infinity]);
    engine.finish("a");
    const text = lines.join("");
    for (let length = (lines[0] as string).length; length <= text.length; length++) {
      const whole = text.slice(0, length).split("\n").length - 1;
      const { sequences, steps } = readTrace(text.slice(0, length), "cut.jsonl");
      const isLastComplete = text[length] === "\n" ? 1 : 0;
      expect(sequences.length + steps.length).toBe(whole + isLastComplete - 1);
    }
  });
});

test("agrees with plain records on any sequence of events", () => {
  const operation = record({ kind: nat(9), who: nat(3), amount: integer({ min: 1, max: 4 }) });
  const holds = property(array(operation, { maxLength: 60, size: "max" }), (operations) => {
    const engine = new EventsOfAnEngine();
    const stop = recordTrace(engine.events, LAYOUT);
    const live = new Map<number, { name: string; experts: number[]; ran: number; prompt: number; arrival: number }>();
    const ended: { arrival: number; name: number; prompt: number; experts: number[] }[] = [];
    const counts: number[][] = [];
    let numArrived = 0;
    const names = new Map<string, number>();
    const end = (who: number): void => {
      const one = live.get(who);
      if (!one) return;
      live.delete(who);
      const experts = one.experts.slice(0, one.ran);
      const prompt = Math.min(one.prompt, one.ran);
      if (one.ran > 0) ended.push({ arrival: one.arrival, name: names.get(one.name) as number, prompt, experts });
      engine.finish(one.name);
    };
    for (const { kind, who, amount } of operations) {
      const one = live.get(who);
      if (!one) {
        const name = `${who}.${numArrived}`;
        names.set(name, numArrived++);
        const experts = Array.from({ length: amount }, (_, at) => (who + at * kind) % 4);
        live.set(who, { name, experts, ran: 0, prompt: amount, arrival: engine.step });
        engine.queue(name, experts);
      } else if (kind === 0) end(who);
      else if (one.ran < one.experts.length) {
        const numTokens = Math.min(amount, one.experts.length - one.ran);
        const tokens = [0, 0, 0, 0];
        for (const expert of one.experts.slice(one.ran, one.ran + numTokens))
          tokens[expert] = (tokens[expert] ?? 0) + 1;
        counts.push(tokens);
        engine.run({ [one.name]: [one.ran, numTokens] });
        one.ran += numTokens;
      } else {
        engine.route(one.name, one.experts.length, [kind % 4]);
        one.experts.push(kind % 4);
      }
    }
    const running = Array.from(live.keys());
    const trace = stop();
    for (const who of running) end(who);
    expect(trace.steps.map((step) => step.tokensPerExpert)).toEqual(counts);
    const expected = ended.map(({ arrival, name, prompt, experts }) => {
      return { id: `s${name}`, arrivalStep: arrival, promptTokens: prompt, experts };
    });
    expect(trace.sequences.toSorted(byId)).toEqual(expected.toSorted(byId));
  });
  assert(holds, { numRuns: 200 });
});

function byId(a: { readonly id: string }, b: { readonly id: string }): number {
  return Number(a.id.slice(1)) - Number(b.id.slice(1));
}
