// Errors of the worker arrive with their causes.

import { errorChain, ReadMeError } from "@readme-moe/core";
import { expect, test } from "vitest";
import { fromWire, toWire } from "../../packages/engine/src/protocol.ts";

test.each([
  (options: ErrorOptions) => new ReadMeError("ERR_FILE_UNREADABLE", "layer 3 cannot be read", options),
  (options: ErrorOptions) => new TypeError("wrong", options),
  (options: ErrorOptions) => new RangeError("too much", options),
])("keep their class, codes and causes: %#", (make) => {
  const disk = Object.assign(new Error("EIO: i/o error"), { code: "EIO" });
  const error = make({ cause: new RangeError("in between", { cause: disk }) });
  const arrived = fromWire(structuredClone(toWire(error)));
  expect(arrived.constructor).toBe(error.constructor);
  expect(errorChain(arrived)).toEqual(errorChain(error));
  // The stack helps to debug the other side.
  expect((arrived.cause as Error).stack).toBe(error.stack);
});

test("any other thrown value arrives as a failure of the engine", () => {
  const ring = new Error("a");
  ring.cause = ring;
  for (const thrown of ["text", undefined, { a: 1 }, ring]) {
    expect(fromWire(structuredClone(toWire(thrown)))).toMatchObject({ code: "ERR_ENGINE_FAILED" });
  }
});
