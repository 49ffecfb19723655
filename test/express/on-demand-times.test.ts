// Times of models that are opened on demand: when they close, and when a failed opening is tried again.

import { ReadMeEmitter } from "@readme-moe/core";
import { shuttingDown } from "../../packages/express/src/http/errors.ts";
import { OnDemandModels } from "../../packages/express/src/edge/models/on-demand.ts";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
});
afterEach(() => {
  vi.useRealTimers();
});

function onDemand(memoryBytes = Infinity) {
  const log: string[] = [];
  const failing = new Set<string>();
  const models = new OnDemandModels({
    memoryBytes,
    turnMs: 10_000,
    events: new ReadMeEmitter(),
    async open(name) {
      if (failing.has(name)) throw new Error("broken");
      log.push(`open ${name}`);
    },
    async close(name) {
      log.push(`close ${name}`);
    },
  });
  return { models, log, failing };
}

const flush = () => vi.advanceTimersByTimeAsync(0);

test("a model closes when nobody has used it for its time, which each use begins anew", async () => {
  const { models, log } = onDemand();
  models.add("a", 1, 1000);
  const first = await models.enter("a", undefined);
  await vi.advanceTimersByTimeAsync(5000);
  const second = await models.enter("a", undefined);
  first();
  first();
  await vi.advanceTimersByTimeAsync(5000);
  second();
  expect(models.closesInMs("a")).toBe(1000);
  await vi.advanceTimersByTimeAsync(999);
  expect([log, models.closesInMs("a")]).toEqual([["open a"], 1]);
  await vi.advanceTimersByTimeAsync(1);
  expect(log).toEqual(["open a", "close a"]);
});

test("a request's own time holds until the model is closed, and negative ones for ever", async () => {
  const { models, log } = onDemand();
  models.add("a", 1, 1000);
  (await models.enter("a", undefined, 3000))();
  await vi.advanceTimersByTimeAsync(2000);
  (await models.enter("a", undefined))();
  await vi.advanceTimersByTimeAsync(2999);
  expect(log).toEqual(["open a"]);
  await vi.advanceTimersByTimeAsync(1);
  expect(log).toEqual(["open a", "close a"]);
  (await models.enter("a", undefined))();
  expect(models.closesInMs("a")).toBe(1000);
  (await models.enter("a", undefined, Infinity))();
  await vi.advanceTimersByTimeAsync(1e9);
  expect(log.at(-1)).toBe("open a");
  models.unload("a");
  await flush();
  expect(log.at(-1)).toBe("close a");
});

test("an opening that failed is tried again by the first request after five seconds", async () => {
  const { models, log, failing } = onDemand();
  models.add("a", 1, Infinity);
  failing.add("a");
  await expect(models.enter("a", undefined)).rejects.toMatchObject({ code: "model_failed", status: 503 });
  failing.clear();
  await vi.advanceTimersByTimeAsync(4999);
  await expect(models.enter("a", undefined)).rejects.toMatchObject({ headers: { "retry-after-ms": "1" } });
  await vi.advanceTimersByTimeAsync(1);
  (await models.enter("a", undefined))();
  expect(log).toEqual(["open a"]);
});

test("an engine that fails at the moment of its opening is closed, and opened by a request after five seconds", async () => {
  const log: string[] = [];
  const models: OnDemandModels = new OnDemandModels({
    memoryBytes: 10,
    turnMs: 10_000,
    events: new ReadMeEmitter(),
    async open(name) {
      log.push(`open ${name}`);
      if (log.length === 1) expect(models.giveUp(name, [])).toBe(true);
    },
    async close(name) {
      log.push(`close ${name}`);
    },
  });
  models.add("a", 10, Infinity);
  expect(models.giveUp("b", [])).toBe(false);
  await expect(models.enter("a", undefined)).rejects.toMatchObject({ code: "model_failed" });
  await vi.advanceTimersByTimeAsync(5000);
  expect(log).toEqual(["open a", "close a"]);
  (await models.enter("a", undefined))();
  expect(log).toEqual(["open a", "close a", "open a"]);
});

test("a busy model gives way after its turn: new requests of it wait, and come after those of the other", async () => {
  const { models, log } = onDemand(10);
  models.add("a", 10, Infinity);
  models.add("b", 10, Infinity);
  const order: string[] = [];
  const use = (name: string): Promise<() => void> =>
    models.enter(name, undefined).then((leave) => (order.push(name), leave));
  const running = await use("a");
  const ofB = use("b");
  await vi.advanceTimersByTimeAsync(9000);
  const others = await use("a");
  await vi.advanceTimersByTimeAsync(1000);
  const later = use("a");
  running();
  others();
  const leaveB = await ofB;
  expect(log).toEqual(["open a", "close a", "open b"]);
  leaveB();
  (await later)();
  expect(order).toEqual(["a", "a", "b", "a"]);
  expect(log).toEqual(["open a", "close a", "open b", "close b", "open a"]);
});

test("a request that leaves while it waits counts no more, and the end of all refuses the others", async () => {
  const { models, log } = onDemand(10);
  models.add("a", 10, Infinity);
  models.add("b", 10, Infinity);
  const leave = await models.enter("a", undefined);
  const gone = new AbortController();
  const left = models.enter("b", gone.signal);
  gone.abort(new Error("gone"));
  await expect(left).rejects.toThrow("gone");
  leave();
  await vi.advanceTimersByTimeAsync(20_000);
  expect(log).toEqual(["open a"]);
  const again = await models.enter("a", undefined);
  const waiting = models.enter("b", undefined);
  models.stop(shuttingDown());
  await expect(waiting).rejects.toMatchObject({ code: "shutting_down" });
  again();
  await expect(models.enter("a", undefined)).rejects.toMatchObject({ code: "shutting_down" });
  await flush();
  expect(log).toEqual(["open a"]);
});
