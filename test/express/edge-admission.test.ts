// Which requests are admitted, how their load is counted, and how others are refused.

import { ReadMeEmitter, type ReadMeEvents } from "@readme-moe/core";
import { Admission, ApiError, type Entrant, type Ticket } from "@readme-moe/express";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { entrant, loads, NOTHING } from "../support/admission.ts";

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
});
afterEach(() => {
  vi.useRealTimers();
});

function refusal(admission: Admission, options: Partial<Entrant> = {}): ApiError {
  try {
    admission.enter(entrant(options));
  } catch (error) {
    if (error instanceof ApiError) return error;
    throw error;
  }
  throw new Error("Expected a refusal");
}

test("a request counts its bytes as tokens until its prompt's length is known, and the limit of every choice", () => {
  const admission = new Admission();
  const ticket = admission.enter(entrant({ bytes: 100, maxCompletionTokens: 7, choices: 3 }));
  expect(loads(admission)).toEqual({ requests: 1, waiting: 1, tokens: 121, bytes: 100 });
  ticket.correct(30);
  expect(loads(admission)).toEqual({ requests: 1, waiting: 1, tokens: 51, bytes: 100 });
  ticket.started();
  expect(loads(admission)).toEqual({ requests: 1, waiting: 0, tokens: 51, bytes: 100 });
  ticket.release();
  ticket.release();
  ticket.correct(1000);
  ticket.started();
  expect(loads(admission)).toEqual(NOTHING);
});

test.each([
  ["requests", { maxRequests: 2 }],
  ["tokens", { maxTokens: 40 }],
  ["bytes", { maxBytes: 25 }],
] as const)("two requests fit and a third is told to come back, by the limit of %s", (measure, options) => {
  const events = new ReadMeEmitter();
  const reasons: unknown[] = [];
  events.on("request:rejected", ({ reason, retryAfterMs }) => reasons.push([reason, retryAfterMs]));
  const admission = new Admission({ ...options, events });
  const [first] = [admission.enter(entrant()), admission.enter(entrant())];
  const before = admission.stats;
  const error = refusal(admission);
  expect(error).toMatchObject({ status: 503, code: "server_overloaded" });
  expect(error.headers).toEqual({ "retry-after": "1", "retry-after-ms": "1000", "x-should-retry": "true" });
  expect(reasons).toEqual([[measure, 1000]]);
  expect(admission.stats).toEqual(before);
  first?.release();
  admission.enter(entrant());
});

test("the status of an overload can be 429", () => {
  const admission = new Admission({ maxRequests: 1, overloadStatus: 429 });
  admission.enter(entrant());
  expect(refusal(admission)).toMatchObject({ status: 429, type: "server_error", code: "server_overloaded" });
});

test("a request with more tokens than the limit is admitted while no other is in", () => {
  const admission = new Admission({ maxTokens: 100 });
  const ticket = admission.enter(entrant({ bytes: 500 }));
  expect(refusal(admission, { bytes: 1 }).code).toBe("server_overloaded");
  ticket.correct(80);
  admission.enter(entrant({ bytes: 1 }));
});

test("a request with more bytes than the limit is not told to come back", () => {
  const error = refusal(new Admission({ maxBytes: 100 }), { bytes: 101 });
  expect(error).toMatchObject({ status: 413, code: "request_too_large", headers: {} });
});

test.each([
  [{ maxTokens: 100 }, [20, 30], 120, 3000],
  [{ maxBytes: 100 }, [20, 30], 90, 2000],
  [{ maxRequests: 2 }, [20, 30], 10, 1000],
])("an overload waits for as many releases as free what is missing: %j", (options, held, bytes, waitMs) => {
  const admission = new Admission(options);
  for (const one of held) admission.enter(entrant({ bytes: one, maxCompletionTokens: 0 }));
  const { headers } = refusal(admission, { bytes, maxCompletionTokens: 0 });
  expect(headers["retry-after-ms"]).toBe(`${waitMs}`);
});

test("a client's share is refused by its measure, and leaves room to others", () => {
  const events = new ReadMeEmitter();
  const reasons: string[] = [];
  events.on("request:rejected", ({ reason }) => reasons.push(reason));
  const admission = new Admission({ maxRequests: 4, maxClientShare: 0.5, events });
  for (const client of ["a", "a", "b"]) admission.enter(entrant({ client }));
  const error = refusal(admission, { client: "a" });
  expect(error).toMatchObject({ status: 429, code: "rate_limit_exceeded" });
  expect(error.headers["retry-after-ms"]).toBe("1000");
  admission.enter(entrant({ client: "b" }));
  expect(reasons).toEqual(["share"]);
});

test.each([
  [{ bytes: 2_000_000 }, 505],
  [{ choices: 128, maxCompletionTokens: 100_000 }, 917_504],
])("a single request that may take all tokens leaves room to other clients: %j", (about, correctedTokens) => {
  const admission = new Admission();
  const ticket = admission.enter(entrant({ client: "a", ...about }));
  const enterOther = (): void => {
    admission.refuseIfFull({ ...entrant({ client: "b" }) });
    admission.enter(entrant({ client: "b" })).release();
  };
  expect(loads(admission).tokens).toBe(917_504);
  enterOther();
  expect(refusal(admission, { client: "a" })).toMatchObject({ status: 429, code: "rate_limit_exceeded" });
  ticket.correct(2_000_000);
  enterOther();
  ticket.correct(500);
  expect(loads(admission).tokens).toBe(correctedTokens);
  ticket.release();
  expect(loads(admission)).toEqual(NOTHING);
});

test("events carry what entered, waited and left, and count only requests that generate", () => {
  const events = new ReadMeEmitter();
  const seen: unknown[] = [];
  for (const name of ["request:admitted", "request:started", "request:released", "request:rejected"] as const) {
    events.on(name, (event) => seen.push([name, event]));
  }
  const admission = new Admission({ maxRequestsPerKey: 1, maxBytes: 100, maxQueueMs: 5000, events });
  vi.advanceTimersByTime(1000);
  const about = { model: "m", key: "k", bytes: 7, choices: 2, maxCompletionTokens: 3, expert: "law" };
  const ticket = admission.enter(entrant(about));
  refusal(admission, about);
  refusal(admission, { ...about, bytes: 101 });
  vi.advanceTimersByTime(250);
  ticket.started();
  ticket.started();
  vi.advanceTimersByTime(500);
  ticket.release();
  const silent = admission.enter(entrant({ ...about, isGeneration: false }));
  silent.started();
  silent.release();
  const unstarted = admission.enter(entrant({ model: "m" }));
  unstarted.release();
  unstarted.started();
  expect(seen).toEqual([
    ["request:admitted", about],
    ["request:rejected", { model: "m", key: "k", reason: "key", retryAfterMs: 1000 }],
    ["request:rejected", { model: "m", key: "k", reason: "bytes", retryAfterMs: 0 }],
    ["request:started", { model: "m", sinceMs: 250 }],
    ["request:released", { model: "m", isStarted: true, durationMs: 750 }],
    ["request:admitted", { model: "m", key: undefined, bytes: 10, choices: 1, maxCompletionTokens: 5 }],
    ["request:released", { model: "m", isStarted: false, durationMs: 0 }],
  ]);
});

test("a key's limit leaves places to other keys", () => {
  const admission = new Admission({ maxRequestsPerKey: 2 });
  const [first] = [admission.enter(entrant({ key: "a" })), admission.enter(entrant({ key: "a" }))];
  expect(refusal(admission, { key: "a" })).toMatchObject({ status: 429, code: "rate_limit_exceeded" });
  admission.enter(entrant({ key: "b" }));
  admission.enter(entrant());
  first?.release();
  admission.enter(entrant({ key: "a" }));
});

describe("deadlines", () => {
  test("a request without a first token in time is aborted, and keeps its place until it is released", () => {
    const admission = new Admission({ maxQueueMs: 1000 });
    const [late, early] = [admission.enter(entrant()), admission.enter(entrant())];
    vi.advanceTimersByTime(999);
    early.started();
    expect(late.signal.aborted).toBe(false);
    vi.advanceTimersByTime(1);
    expect(late.signal.reason).toMatchObject({ status: 408, code: "queue_timeout" });
    expect((late.signal.reason as ApiError).headers["retry-after"]).toMatch(/^[1-9]\d*$/);
    expect(early.signal.aborted).toBe(false);
    expect(admission.stats.requests).toBe(2);
    late.release();
    expect(admission.stats.requests).toBe(1);
  });

  test("a request whose prompt is being read no longer waits: it has no deadline, and is not displaced", () => {
    const events = new ReadMeEmitter();
    const started: number[] = [];
    events.on("request:started", ({ sinceMs }) => started.push(sinceMs));
    const admission = new Admission({ maxQueueMs: 1000, maxRequests: 2, displaceWaiting: true, events });
    const [read, silent] = [admission.enter(entrant()), admission.enter(entrant())];
    read.reading();
    expect(admission.stats).toMatchObject({ requests: 2, waiting: 1 });
    admission.enter(entrant({ priority: 1 }));
    expect([read.signal.aborted, silent.signal.aborted]).toEqual([false, true]);
    vi.advanceTimersByTime(60_000);
    read.reading();
    expect([read.signal.aborted, started]).toEqual([false, []]);
    read.started();
    expect(started).toEqual([60_000]);
    read.release();
    read.reading();
  });

  test("a started request that takes too long is aborted", () => {
    const admission = new Admission({ maxRequestMs: 5000 });
    const ticket = admission.enter(entrant());
    ticket.started();
    vi.advanceTimersByTime(5000);
    expect(ticket.signal.reason).toMatchObject({ status: 408, code: "request_timeout" });
  });

  test("a client's abort ends its request with the client's reason and leaves no timer", () => {
    const admission = new Admission({ maxRequestMs: 5000 });
    const client = new AbortController();
    const ticket = admission.enter(entrant({ signal: client.signal }));
    client.abort("gone");
    expect(ticket.signal.reason).toBe("gone");
    ticket.release();
    expect(vi.getTimerCount()).toBe(0);
  });

  test("a request whose client has left before is aborted at once", () => {
    const ticket = new Admission().enter(entrant({ signal: AbortSignal.abort("left") }));
    expect(ticket.signal.reason).toBe("left");
  });

  test("a client that leaves after the release, or before the deadline, changes nothing afterwards", () => {
    const events = new ReadMeEmitter();
    const reasons: string[] = [];
    events.on("request:rejected", ({ reason }) => reasons.push(reason));
    const admission = new Admission({ maxQueueMs: 1000, maxRequests: 2, displaceWaiting: true, events });
    const [early, late] = [new AbortController(), new AbortController()];
    const released = admission.enter(entrant({ signal: late.signal }));
    released.release();
    late.abort("late");
    expect(released.signal.aborted).toBe(false);
    const waiting = admission.enter(entrant({ signal: early.signal }));
    early.abort("early");
    vi.advanceTimersByTime(2000);
    expect([waiting.signal.reason, reasons]).toEqual(["early", []]);
    const overdue = admission.enter(entrant());
    vi.advanceTimersByTime(1000);
    overdue.release();
    admission.enter(entrant({ priority: -1 }));
    admission.enter(entrant());
    expect(reasons).toEqual(["queue-deadline", "displaced"]);
  });
});

function enterAll(admission: Admission, priorities: readonly number[]): readonly Ticket[] {
  return priorities.map((priority) => admission.enter(entrant({ priority })));
}

describe("priority", () => {
  test("displaces the newest waiting request of the lowest priority, and tells it to come back", () => {
    const admission = new Admission({ maxRequests: 3, displaceWaiting: true });
    const tickets = enterAll(admission, [0, 1, 0]);
    admission.enter(entrant({ priority: 5 }));
    expect(tickets.map(({ signal }) => signal.aborted)).toEqual([false, false, true]);
    expect(tickets[2]?.signal.reason).toMatchObject({ status: 503, code: "server_overloaded" });
    for (const ticket of tickets) ticket.release();
    expect(admission.stats.requests).toBe(1);
  });

  test("does not displace running requests, those of equal priority, or those that would not make enough room", () => {
    const admission = new Admission({ maxTokens: 45, displaceWaiting: true });
    const tickets = enterAll(admission, [0, 0, 2]);
    tickets[0]?.started();
    expect(refusal(admission, { priority: 0 }).status).toBe(503);
    expect(refusal(admission, { priority: 1, bytes: 30 }).status).toBe(503);
    expect(tickets.map(({ signal }) => signal.aborted)).toEqual([false, false, false]);
  });

  test("displaces nothing unless `displaceWaiting` is set", () => {
    const admission = new Admission({ maxRequests: 1 });
    admission.enter(entrant({ priority: -1 }));
    expect(refusal(admission, { priority: 9 }).status).toBe(503);
  });
});

test("ten thousand requests that queue and are cancelled leave no load", () => {
  vi.useRealTimers();
  const events = new ReadMeEmitter();
  const rejected: Parameters<ReadMeEvents["request:rejected"]>[0][] = [];
  events.on("request:rejected", (event) => rejected.push(event));
  const admission = new Admission({ maxRequests: 5000, events });
  const entered: [Ticket, AbortController][] = [];
  for (let i = 0; i < 10_000; i++) {
    const client = new AbortController();
    try {
      entered.push([admission.enter(entrant({ signal: client.signal, key: `k${i % 7}` })), client]);
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 503) throw error;
    }
  }
  expect([entered.length, rejected.length, admission.stats.waiting]).toEqual([5000, 5000, 5000]);
  for (const [ticket, client] of entered) {
    client.abort();
    ticket.release();
  }
  expect(loads(admission)).toEqual(NOTHING);
});

test.each([
  ["maxRequests", 0],
  ["maxTokens", 1.5],
  ["maxBytes", 0],
  ["maxRequestsPerKey", 0],
  ["maxClientShare", 0],
  ["maxClientShare", 1.01],
  ["maxQueueMs", Infinity],
  ["maxQueueMs", 0],
  ["maxRequestMs", 0],
  ["overloadStatus", 500],
  ["maxRequest", 1],
])("refuses a wrong option: %s %s", (name, value) => {
  expect(() => new Admission({ [name]: value })).toThrow(`\`${name}\``);
});

test.each([
  ["bytes", -1],
  ["choices", 0],
  ["maxCompletionTokens", NaN],
  ["maxCompletionTokens", -1],
  ["priority", NaN],
])("refuses wrong numbers: %s %s", (name, value) => {
  const admission = new Admission();
  expect(() => admission.enter(entrant({ [name]: value }))).toThrow(`\`${name}\``);
  expect(loads(admission)).toEqual(NOTHING);
});

test("refuses wrong numbers of tokens that are known later", () => {
  const admission = new Admission();
  expect(() => admission.enter(entrant({ maxCompletionTokens: 2 ** 52, choices: 4 }))).toThrow(
    "`maxCompletionTokens * choices`",
  );
  const ticket = admission.enter(entrant());
  const before = loads(admission);
  expect(() => ticket.correct(-1)).toThrow("`promptTokens`");
  expect(loads(admission)).toEqual(before);
  expect(() => new Admission({ maxRequest: 1 } as object)).toThrow("of admission, did you mean `maxRequests`");
});
