import { getEventListeners } from "node:events";
import { onceAborted } from "@readme-moe/core";
import { expect, test } from "vitest";

test("requests that share a signal share one listener, are all called once, and leave none behind", () => {
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

test("the listener is removed with its last request and added again for a later one", () => {
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

test("a request that stops listening during the abort is not called", () => {
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
