import { ReadMeEmitter, type ReadMeEvents } from "@readme-moe/core";
import { expect, expectTypeOf, test } from "vitest";

const FINISHED: Parameters<ReadMeEvents["model:swapped"]>[0] = {
  name: "name",
  path: "model",
  previousPath: undefined,
};

test("listeners get the event's payload, and can be removed", () => {
  const emitter = new ReadMeEmitter();
  const seen: string[] = [];
  const listener = ({ path }: { readonly path: string }): void => void seen.push(path);
  emitter.on("model:swapped", listener);
  emitter.once("model:swapped", () => seen.push("once"));
  emitter.emit("model:swapped", FINISHED);
  emitter.emit("model:swapped", FINISHED);
  emitter.off("model:swapped", listener);
  emitter.emit("model:swapped", FINISHED);
  expect(seen).toEqual(["model", "once", "model"]);
  expect(emitter.listenerCount("model:swapped")).toBe(0);
});

test("a listener that throws affects neither the emitter nor later listeners, and is reported", () => {
  const emitter = new ReadMeEmitter();
  const seen: unknown[] = [];
  emitter.on("listener:failed", ({ source, error }) => seen.push(source, (error as Error).message));
  emitter.on("model:swapped", () => {
    throw new Error("broken");
  });
  emitter.on("model:swapped", () => seen.push("after"));
  expect(emitter.emit("model:swapped", FINISHED)).toBe(true);
  expect(seen).toEqual(["model:swapped", "broken", "after"]);
});

test("a rejected promise of a listener is reported", async () => {
  const emitter = new ReadMeEmitter();
  const failed = new Promise<unknown>((resolve) => emitter.on("listener:failed", ({ error }) => resolve(error)));
  // oxlint-disable-next-line typescript/no-misused-promises -- callers do this, and it must be harmless
  emitter.on("model:swapped", async () => Promise.reject(new Error("later")));
  emitter.emit("model:swapped", FINISHED);
  expect(await failed).toMatchObject({ message: "later" });
});

test("a failing listener of `listener:failed` is not called again", () => {
  const emitter = new ReadMeEmitter();
  emitter.on("listener:failed", () => {
    throw new Error("again");
  });
  emitter.on("model:swapped", () => {
    throw new Error("broken");
  });
  expect(() => emitter.emit("model:swapped", FINISHED)).not.toThrow();
});

test("names and payloads are typed, and an event reaches only the listeners of its name", () => {
  const emitter = new ReadMeEmitter();
  const heard: unknown[] = [];
  emitter.on("model:swapped", (event) => {
    expectTypeOf(event.path).toEqualTypeOf<string>();
    heard.push(event);
  });
  emitter.on("batch:completed", (event) => {
    expectTypeOf(event.durationMs).toEqualTypeOf<number>();
    heard.push(event);
  });
  // @ts-expect-error no such event
  emitter.on("batch:complete", (event: unknown) => heard.push(event));
  emitter.emit("model:swapped", FINISHED);
  expect(heard).toEqual([FINISHED]);
  // @ts-expect-error a field is missing
  const emitsLess = (): boolean => emitter.emit("model:swapped", {});
  expect(emitsLess()).toBe(true);
});
