// Errors as plain data, whatever was thrown.

import { errorChain, ReadMeError } from "@readme-moe/core";
import { describe, expect, test } from "vitest";

describe("a chain of errors", () => {
  test("has every cause, outermost first, with the codes of this project and of the system", () => {
    const system = Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC", errno: -28 });
    const written = new ReadMeError("ERR_WRITE_FAILED", "weights.bin: cannot be written", { cause: system });
    expect(errorChain(new Error("The model cannot be opened", { cause: written }))).toEqual([
      { name: "Error", message: "The model cannot be opened" },
      { name: "ReadMeError", code: "ERR_WRITE_FAILED", message: "weights.bin: cannot be written" },
      { name: "Error", code: "ENOSPC", message: "ENOSPC: no space left on device" },
    ]);
  });

  test("leaves out a cause that only repeats the message, and keeps a new code", () => {
    const same = new Error("gone", { cause: new Error("gone", { cause: new TypeError("why") }) });
    expect(errorChain(same).map(({ message }) => message)).toEqual(["gone", "why"]);
    const coded = new Error("gone", { cause: Object.assign(new Error("gone"), { code: "EIO" }) });
    expect(errorChain(coded)).toHaveLength(2);
  });

  test("takes the first of several errors", () => {
    const several = new AggregateError([new Error("first"), new Error("second")], "all failed");
    expect(errorChain(several).map(({ message }) => message)).toEqual(["all failed", "first"]);
  });

  test("does not quote a client's text", () => {
    let thrown: unknown;
    try {
      JSON.parse('my "secret" prompt');
    } catch (error) {
      thrown = error;
    }
    expect(JSON.stringify(errorChain(thrown))).not.toContain("secret");
    expect(errorChain(thrown)[0]?.message).toContain("not valid JSON");
  });

  test("ends and stays small for any thrown value", () => {
    const ring = new Error("a");
    ring.cause = new Error("b", { cause: ring });
    expect(errorChain(ring).map(({ message }) => message)).toEqual(["a", "b"]);
    let deep = new Error("0");
    for (let level = 1; level < 1000; level++) deep = new Error(`${level}`, { cause: deep });
    expect(errorChain(deep).length).toBeLessThan(10);
    expect(errorChain(new Error("x".repeat(1e6)))[0]?.message.length).toBeLessThan(2000);
    const hostile = new Proxy(new Error("hidden"), {
      get: () => {
        throw new Error("no");
      },
    });
    for (const thrown of [hostile, "text", 7, Symbol("s"), Object.create(null), () => undefined, { code: 5 }]) {
      expect(errorChain(thrown)).toHaveLength(1);
    }
    expect([errorChain(undefined), errorChain(null)]).toEqual([[], []]);
  });
});
