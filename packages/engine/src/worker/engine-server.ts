// The worker's side of an engine: receives messages, runs steps while there is work, sends what came of them.

import { ReadMeError, type EngineInfo, type GenerateChunk } from "@readme-moe/core";
import {
  toWire,
  type CallName,
  type FromWorker,
  type ToWorker,
  type WireAccepted,
  type WireChunk,
  type WireEvent,
  type WireFailure,
} from "../protocol.ts";
import type { Sequence } from "../sequence.ts";
import { answerCall } from "./calls.ts";
import { openParts, type OpenedEngine } from "./open-parts.ts";
import { RequestBook } from "./request-book.ts";
import { shrinkHeap } from "./shrink-heap.ts";

export class EngineServer {
  readonly #send: (message: FromWorker) => void;
  #opened: OpenedEngine | undefined;
  #requests: RequestBook | undefined;
  /** Questions without an answer yet. */
  readonly #calls = new Map<number, AbortController>();
  #isRunning = false;
  #numReceived = 0;
  #isClosing = false;
  #onClosed: () => void = () => undefined;
  #accepted: WireAccepted[] = [];
  #chunks: WireChunk[] = [];
  #failures: WireFailure[] = [];
  #events: WireEvent[] = [];
  #listened: ReadonlySet<WireEvent["name"]> = new Set();

  constructor(send: (message: FromWorker) => void) {
    this.#send = send;
  }

  onClosed(listener: () => void): void {
    this.#onClosed = listener;
  }

  /** Messages are handled in order; work that they start goes on after it returns. */
  receive(message: ToWorker): void {
    this.#numReceived++;
    switch (message.type) {
      case "open":
        void this.#open(message);
        return;
      case "generate":
        void this.#requests?.begin(message).then(() => this.#run({ mayHaveCompany: true }));
        // Goes on with a prompt that takes longer.
        void this.#run();
        return;
      case "abort":
        this.#requests?.abort(message.requestId, message.reason);
        this.#flush();
        // While logits are with their callers nothing runs, and others may have the memory now.
        void this.#run();
        return;
      case "processed":
        this.#opened?.core.answer(message.rowId, message.logits);
        void this.#run();
        return;
      case "call":
        void this.#call(message.callId, message.name, message.args);
        void this.#run();
        return;
      case "cancel":
        this.#calls.get(message.callId)?.abort();
        return;
      case "listen":
        this.#listened = new Set(message.names);
        return;
      case "close":
        this.#isClosing = true;
        if (!this.#isRunning) void this.#close();
        return;
      case "end":
        process.exit();
        return;
      default:
        throw new TypeError(`Unknown message: ${String(message satisfies never)}`);
    }
  }

  async #open({ path, options }: ToWorker & { type: "open" }): Promise<void> {
    try {
      const output = {
        accepted: (sequence: Sequence) => {
          const accepted = this.#requests?.accept(sequence);
          if (accepted) this.#accepted.push(accepted);
        },
        chunk: (sequence: { requestId: string }, chunk: GenerateChunk) => {
          const whole = this.#requests?.complete(sequence.requestId, chunk) ?? chunk;
          this.#chunks.push({ requestId: sequence.requestId, chunk: whole });
        },
        logits: (sequence: Sequence, rowId: number, logits: Float32Array<ArrayBuffer>) => {
          // Tokens of before come to the caller first.
          this.#flush();
          const { requestId, promptTokens, choice } = sequence;
          const tokenIds = Int32Array.from(sequence.tokenIds);
          this.#send({ type: "logits", requestId, rowId, logits, context: { tokenIds, promptTokens, choice } });
        },
        failed: (sequence: { requestId: string }, error: unknown) => this.#fail(sequence.requestId, error),
        event: (name: WireEvent["name"], payload: WireEvent["payload"]) => {
          this.#events.push({ name, payload } as WireEvent);
        },
      };
      const opened = await openParts(path, options, output, (progress) => this.#send({ type: "progress", progress }));
      this.#opened = opened;
      this.#requests = new RequestBook(opened, (id, error) => this.#fail(id, error));
      this.#send({ type: "opened", info: infoOf(opened), cacheFailure: opened.cacheFailure });
      shrinkHeap();
    } catch (error) {
      this.#send({ type: "failed", error: toWire(error) });
      this.#onClosed();
    }
  }

  /** Runs steps while they are of use. Messages are received between steps, and before the first where more may be on the way. */
  async #run({ mayHaveCompany = false } = {}): Promise<void> {
    const { core, turns } = this.#opened ?? {};
    if (this.#isRunning || !core || !turns) return;
    this.#isRunning = true;
    try {
      if (mayHaveCompany) await this.#settled();
      let stepMs = Infinity;
      while ((core.hasWork || turns.hasWork) && !this.#isClosing) {
        // Long texts get a quarter of the time of the steps between, so that they slow a stream by a quarter.
        turns.run(core.hasWork ? stepMs / 4 : Infinity);
        if (core.hasWork) {
          const startMs = performance.now();
          await core.step();
          stepMs = performance.now() - startMs;
        }
        this.#flush();
        await nextTurn();
      }
    } catch (error) {
      // Steps contain what a sequence can do wrong, so this is a defect; going on could give wrong answers.
      this.#send({ type: "failed", error: toWire(error) });
      this.#isClosing = true;
    }
    this.#flush();
    this.#isRunning = false;
    if (this.#isClosing) await this.#close();
  }

  /** Waits until no message has come for a moment, so that requests that come together share the first step and its prefill. */
  async #settled(): Promise<void> {
    let nowMs = performance.now();
    const endMs = nowMs + MAX_SETTLING_MS;
    for (let quietMs = nowMs; nowMs < Math.min(quietMs + QUIET_MS, endMs);) {
      const before = this.#numReceived;
      // oxlint-disable-next-line no-await-in-loop -- each turn may bring messages
      await nextTurn();
      nowMs = performance.now();
      if (before !== this.#numReceived) quietMs = nowMs;
    }
  }

  async #call(callId: number, name: CallName, args: unknown): Promise<void> {
    const cancel = new AbortController();
    this.#calls.set(callId, cancel);
    try {
      if (!this.#opened) throw new ReadMeError("ERR_DISPOSED", "The engine is not open");
      const value = await answerCall(this.#opened, name, args, cancel.signal);
      // What happened before the answer is told before it, and no later than it when no step follows.
      this.#flush();
      this.#send({ type: "result", callId, value });
    } catch (error) {
      this.#send({ type: "error", callId, error: toWire(error) });
    } finally {
      this.#calls.delete(callId);
    }
  }

  #fail(requestId: string, error: unknown): void {
    this.#requests?.abort(requestId);
    this.#failures.push({ requestId, error: toWire(error) });
  }

  #flush(): void {
    const events = this.#events.filter(({ name }) => this.#listened.has(name));
    if (this.#accepted.length + this.#chunks.length + this.#failures.length + events.length > 0) {
      this.#send({ type: "step", accepted: this.#accepted, chunks: this.#chunks, failures: this.#failures, events });
    }
    [this.#accepted, this.#chunks, this.#failures, this.#events] = [[], [], [], []];
  }

  async #close(): Promise<void> {
    const opened = this.#opened;
    this.#opened = undefined;
    await opened?.close();
    this.#send({ type: "closed" });
    this.#onClosed();
  }
}

// A program that sends several requests at once needs a tenth of a millisecond for each. Endless messages delay no step for longer.
const [QUIET_MS, MAX_SETTLING_MS] = [0.3, 3];

function infoOf({ model, text, options, sizes, kernel }: OpenedEngine): EngineInfo {
  const { config } = model;
  return {
    path: model.path,
    modelType: config.modelType,
    precision: options.precision,
    vocabSize: config.vocabSize,
    contextTokens: sizes.maxTokens,
    experts: model.experts.names,
    hasRouter: model.router !== undefined,
    hasChatTemplate: text.chatTemplate !== undefined,
    chatTemplateKnowsTools: text.chatTemplate?.knowsTools ?? false,
    eosTokenIds: config.eosTokenIds,
    maxNumSeqs: options.maxNumSeqs,
    kvCapacityTokens: sizes.capacityTokens,
    kernel,
  };
}

/** Lets messages that have come be received. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
