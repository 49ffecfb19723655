// Answers of a worker: each call is answered once, and errors have their causes.

import { errorChain, ReadMeError } from "@readme-moe/core";
import { expect, test } from "vitest";
import { fromWire, toWire, type FromWorker, type ToWorker } from "../../packages/engine/src/protocol.ts";
import { OpenCalls } from "../../packages/engine/src/worker/calls.ts";
import * as fc from "../support/fast-check.ts";

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

type Call = ToWorker & { readonly type: "call" };

/** A call that a worker has begun. */
interface Begun {
  readonly callId: number;
  readonly signal: AbortSignal;
  readonly settle: (error?: Error) => void;
  isCancelled: boolean;
}

test("two workers answer each of their calls once, and cancel no call but the one that is meant", async () => {
  const move = fc.record({
    kind: fc.constantFrom("call", "call", "return", "throw", "refuse", "cancel", "cancel"),
    worker: fc.nat(1),
    which: fc.nat(),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(move, { maxLength: 40, size: "max" }), async (moves) => {
      // Both count their calls from 0, so that ids of one are ids of the other.
      const workers = [0, 1].map(() => {
        const [sent, expected]: [FromWorker[], FromWorker[]] = [[], []];
        const canSend = { value: true };
        const calls = new OpenCalls((message) => {
          if (message.type === "result" && !canSend.value) throw new TypeError("cannot be cloned");
          sent.push(message);
        });
        return { calls, sent, expected, canSend, begun: [] as Begun[], over: [] as Begun[], numCalls: 0 };
      });
      for (const { kind, worker: index, which } of moves) {
        const worker = workers[index] as (typeof workers)[number];
        const { calls, begun, expected, canSend } = worker;
        const one = begun[which % Math.max(1, begun.length)];
        if (kind === "call") {
          const callId = worker.numCalls++;
          void calls.answer({ type: "call", callId } as Call, async (signal) => {
            await new Promise<void>((resolve, reject) => {
              const settle = (error?: Error): void => (error ? reject(error) : resolve());
              begun.push({ callId, signal, settle, isCancelled: false });
            });
            return `of ${index}`;
          });
        } else if (kind === "cancel") {
          // Also one that was answered, or never made.
          const callId = which % (worker.numCalls + 1);
          calls.cancel(callId);
          for (const open of begun) open.isCancelled ||= open.callId === callId;
        } else if (one) {
          const { callId } = one;
          const error = new RangeError(`no ${callId}`);
          canSend.value = kind !== "refuse";
          if (kind === "return") expected.push({ type: "result", callId, value: `of ${index}` });
          else if (kind === "throw") expected.push({ type: "error", callId, error: toWire(error) });
          one.settle(kind === "throw" ? error : undefined);
          begun.splice(begun.indexOf(one), 1);
          worker.over.push(one);
          await new Promise((resolve) => setImmediate(resolve));
          // An answer that cannot be sent is an error, whose stack is not known here.
          if (kind === "refuse") {
            const last = worker.sent.at(-1);
            expect(last).toMatchObject({ type: "error", callId, error: { message: "cannot be cloned" } });
            if (last) expected.push(last);
          }
        }
        for (const { sent, expected: messages, begun: open, over } of workers) {
          expect(sent).toStrictEqual(messages);
          for (const { signal, isCancelled } of [...open, ...over]) expect(signal.aborted).toBe(isCancelled);
        }
      }
    }),
    { numRuns: 60 },
  );
});
