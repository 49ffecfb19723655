// Calls that a worker answers, each once, and that callers may cancel.

import { toWire, type FromWorker, type ToWorker } from "../protocol.ts";

type Call = ToWorker & { type: "call" };

/** Calls without an answer yet. */
export class OpenCalls {
  readonly #send: (message: FromWorker) => void;
  readonly #cancels = new Map<number, AbortController>();

  constructor(send: (message: FromWorker) => void) {
    this.#send = send;
  }

  /** Answers a call with what `work` returns or throws. @param work - its signal aborts when the caller cancels */
  async answer({ callId }: Call, work: (signal: AbortSignal) => Promise<unknown>): Promise<void> {
    const cancel = new AbortController();
    this.#cancels.set(callId, cancel);
    try {
      this.#send({ type: "result", callId, value: await work(cancel.signal) });
    } catch (error) {
      this.#send({ type: "error", callId, error: toWire(error) });
    } finally {
      this.#cancels.delete(callId);
    }
  }

  cancel(callId: number): void {
    this.#cancels.get(callId)?.abort();
  }
}
