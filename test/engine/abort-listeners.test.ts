import { getEventListeners } from "node:events";
import { expect, test } from "vitest";
import { onceAborted } from "../../packages/engine/src/host/request.ts";

test("requests that share a signal share its listener, are all told once, and leave nothing behind", () => {
  const controller = new AbortController();
  const { signal } = controller;
  const told: number[] = [];
  const stops = Array.from({ length: 100 }, (_, index) => onceAborted(signal, () => told.push(index)));
  expect(getEventListeners(signal, "abort")).toHaveLength(1);
  stops[7]?.();
  stops[7]?.();
  controller.abort();
  expect(told).toEqual(Array.from({ length: 100 }, (_, index) => index).filter((index) => index !== 7));
  for (const stop of stops) stop();
  expect(getEventListeners(signal, "abort")).toHaveLength(0);
});

test("when the last of them has left, nobody listens; who comes later is told", () => {
  const controller = new AbortController();
  const callback = (): void => void told++;
  let told = 0;
  const stops = [onceAborted(controller.signal, callback), onceAborted(controller.signal, callback)];
  stops[0]?.();
  expect(getEventListeners(controller.signal, "abort")).toHaveLength(1);
  stops[1]?.();
  expect(getEventListeners(controller.signal, "abort")).toHaveLength(0);
  onceAborted(controller.signal, callback);
  stops[0]?.();
  controller.abort();
  expect(told).toBe(1);
  expect(() => onceAborted(undefined, callback)()).not.toThrow();
});

test("one that leaves because another was told is not told", () => {
  const controller = new AbortController();
  const told: string[] = [];
  onceAborted(controller.signal, () => {
    told.push("first");
    stop();
  });
  const stop = onceAborted(controller.signal, () => told.push("second"));
  controller.abort();
  expect(told).toEqual(["first"]);
});
