// Entry of the thread or process that runs a model: receives messages, runs steps while there is work, sends the
// results.

import { setImmediate as nextTurn } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { isMainThread, parentPort } from "node:worker_threads";
import { ReadMeError } from "@readme-moe/core";
import { fromWireAllowance } from "../allowed-tokens.ts";
import type { EngineOutput } from "../engine-parts.ts";
import {
  type FromWorker,
  movable,
  toWire,
  type ToWorker,
  type WireAccepted,
  type WireChunk,
  type WireEvent,
  type WireFailure,
  type WireProgress,
} from "../protocol.ts";
import { answerCall, OpenCalls } from "./calls.ts";
import { openEngine, watchFiles } from "./open-engine.ts";
import { ReaderServer } from "./reader-server.ts";
import { type RunningEngine, WorkerRequests, TimeSlices } from "./requests.ts";

/** Gives the event loop turns for at least `durationMs`. */
async function turnsFor(durationMs: number): Promise<void> {
  const endMs = performance.now() + durationMs;
  // oxlint-disable-next-line no-await-in-loop -- each turn advances other work
  while (performance.now() < endMs) await nextTurn();
}

/**
 * Requests that a program sends together arrive within a tenth of a millisecond of each other. The second limit keeps
 * endless messages from delaying a step.
 */
const [QUIET_MS, MAX_SETTLING_MS] = [0.3, 3];

/** Guess at the duration of a step before the first. */
const FIRST_STEP_MS = 20;

/** Time between two steps for calls that read files, which would advance by one read a step otherwise. */
const LONG_CALL_MS = 1.5;

class EngineServer {
  readonly #send: (message: FromWorker) => void;
  readonly #onClosed: () => void;
  #engine: RunningEngine | undefined;
  #requests: WorkerRequests | undefined;
  readonly #calls: OpenCalls;
  /** Calls under way that take many short turns of the event loop. */
  #numLongCalls = 0;
  #isRunning = false;
  #numReceived = 0;
  #isClosing = false;
  #accepted: WireAccepted[] = [];
  #progress: WireProgress[] = [];
  #chunks: WireChunk[] = [];
  #failures: WireFailure[] = [];
  #left: string[] = [];
  #events: WireEvent[] = [];
  #listened: ReadonlySet<WireEvent["name"]> = new Set();

  constructor(send: (message: FromWorker) => void, onClosed: () => void) {
    this.#send = send;
    this.#onClosed = onClosed;
    this.#calls = new OpenCalls(send);
  }

  /** Handles a message. Messages are handled in order; the work that they start continues after the return. */
  receive(message: ToWorker): void {
    this.#numReceived++;
    switch (message.type) {
      case "open":
        void this.#open(message);
        return;
      case "generate":
        void this.#requests?.begin(message).then(() => this.#run({ coalesce: true }));
        // Continues a prompt that takes more than one slice.
        void this.#run();
        return;
      case "abort":
        this.#requests?.abort(message.requestId, message.reason);
        // The freed memory may let another sequence run.
        void this.#leave(message.requestId).then(() => this.#run());
        return;
      case "processed":
        this.#engine?.core.answer(message.rowId, message.logits);
        void this.#run();
        return;
      case "allowed":
        this.#engine?.core.allow(message.questionId, fromWireAllowance(message));
        void this.#run();
        return;
      case "call":
        void this.#call(message);
        void this.#run();
        return;
      case "cancel":
        this.#calls.cancel(message.callId);
        return;
      case "listen":
        this.#listened = new Set(message.names);
        return;
      case "ping":
        this.#send({ type: "pong" });
        return;
      case "close":
        this.#isClosing = true;
        if (!this.#isRunning) void this.#close();
        return;
      case "end":
        process.exit();
        return;
      case "read":
        throw new TypeError("Expected a message to an engine, got one to a reader of prompts");
      default:
        throw new TypeError(`Unknown message: ${String(message satisfies never)}`);
    }
  }

  async #open({ path, options }: ToWorker & { type: "open" }): Promise<void> {
    try {
      const onProgress = (progress: (FromWorker & { type: "progress" })["progress"]): void =>
        this.#send({ type: "progress", progress });
      const opened = await openEngine(path, options, this.#output(), onProgress);
      const engine = { ...opened, slices: new TimeSlices() };
      this.#engine = engine;
      this.#requests = new WorkerRequests(engine, (id, error) => this.#fail(id, error));
      const { info, cacheFailure, longestStepMs } = engine;
      this.#send({ type: "opened", info, cacheFailure, longestStepMs });
      watchFiles((error) => this.#send({ type: "failed", error: toWire(error) }));
      shrinkHeap();
    } catch (error) {
      this.#send({ type: "failed", error: toWire(error) });
      this.#onClosed();
    }
  }

  #output(): EngineOutput {
    return {
      accepted: (sequence) => {
        const accepted = this.#requests?.accept(sequence);
        if (accepted) this.#accepted.push(accepted);
      },
      reading: (sequence) => {
        const progress = this.#requests?.progress(sequence, performance.now());
        if (!progress) return;
        this.#progress.push(progress);
        // A step may take seconds.
        this.#flush();
      },
      chunk: ({ requestId }, chunk) => {
        this.#chunks.push({ requestId, chunk: this.#requests?.complete(requestId, chunk) ?? chunk });
      },
      logits: ({ requestId, promptTokens, choice, tokenIds: known }, rowId, logits) => {
        // The caller gets the sequence's earlier tokens first.
        this.#flush();
        const tokenIds = Int32Array.from(known);
        this.#send({ type: "logits", requestId, rowId, logits, context: { tokenIds, promptTokens, choice } });
      },
      // Sent before the step's tokens, because the sequence waits for the answer.
      ask: ({ requestId, promptTokens, choice, tokenIds: known }, questionId, draft) => {
        const tokenIds = Int32Array.from(known);
        this.#send({ type: "ask", requestId, questionId, context: { tokenIds, promptTokens, choice, draft } });
      },
      failed: ({ requestId }, error) => this.#fail(requestId, error),
      event: (name, payload) => this.#events.push({ name, payload } as WireEvent),
    };
  }

  /**
   * Runs steps while they are of use. Receives messages between steps, and first waits for further requests if asked
   * to.
   */
  async #run({ coalesce = false } = {}): Promise<void> {
    const { core, slices } = this.#engine ?? {};
    if (this.#isRunning || !core || !slices) return;
    this.#isRunning = true;
    try {
      if (coalesce) await this.#settled();
      let stepMs = FIRST_STEP_MS;
      while ((core.hasWork || slices.hasWork) && !this.#isClosing) {
        // Long texts get a quarter of the time of the steps between, so they slow a stream by a quarter.
        const endMs = core.hasWork ? performance.now() + stepMs / 4 : Infinity;
        slices.run(endMs - performance.now());
        while (core.hasWork && slices.hasWork && performance.now() < endMs) {
          await nextTurn();
          slices.run(endMs - performance.now());
        }
        if (core.hasWork) {
          const startMs = performance.now();
          await core.step();
          stepMs = performance.now() - startMs;
        }
        this.#flush();
        await nextTurn();
        if (this.#numLongCalls > 0) await turnsFor(LONG_CALL_MS);
      }
    } catch (error) {
      // A step contains the errors of its sequences, so this is a defect, and further answers could be wrong.
      this.#send({ type: "failed", error: toWire(error) });
      this.#isClosing = true;
    }
    this.#flush();
    this.#isRunning = false;
    if (this.#isClosing) await this.#close();
    else void this.#engine?.savedPrefixes?.saveAll(() => this.#isRunning || this.#isClosing);
  }

  /** Waits until no message has arrived for a moment, so that requests that are sent together share the first step. */
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

  async #call(call: ToWorker & { type: "call" }): Promise<void> {
    const { name, args } = call;
    const isLong = name === "addExpert";
    if (isLong) this.#numLongCalls++;
    const work = async (signal: AbortSignal): Promise<unknown> => {
      const [engine, requests] = [this.#engine, this.#requests];
      if (!engine || !requests) throw new ReadMeError("ERR_DISPOSED", "The engine is not open");
      const value = await answerCall({ ...engine, requests }, name, args, signal);
      // Events that precede the answer are sent before it, even if no step follows.
      this.#flush();
      return value;
    };
    await this.#calls.answer(call, work).finally(() => {
      if (isLong) this.#numLongCalls--;
    });
  }

  #fail(requestId: string, error: unknown): void {
    this.#requests?.abort(requestId);
    this.#failures.push({ requestId, error: toWire(error) });
  }

  /** Says when nothing follows of an aborted request: a step that runs may still end some of its tokens. */
  async #leave(requestId: string): Promise<void> {
    await this.#engine?.core.whenNone((sequence) => sequence.requestId === requestId);
    this.#left.push(requestId);
    this.#flush();
  }

  #flush(): void {
    const [accepted, progress, chunks] = [this.#accepted, this.#progress, this.#chunks];
    const [failures, left] = [this.#failures, this.#left];
    const events = this.#events.filter(({ name }) => this.#listened.has(name));
    [this.#accepted, this.#progress, this.#chunks] = [[], [], []];
    [this.#failures, this.#left, this.#events] = [[], [], []];
    const step = { accepted, progress, chunks, failures, left, events };
    if (Object.values(step).every(({ length }) => length === 0)) return;
    this.#send({ type: "step", ...step });
  }

  async #close(): Promise<void> {
    const engine = this.#engine;
    this.#engine = undefined;
    await engine?.close();
    this.#send({ type: "closed" });
    this.#onClosed();
  }
}

/**
 * Collects the garbage of opening a model, tens of megabytes of parsed files, and keeps the heap small from then on.
 * Only in a process of the engine's own: V8's flags apply to the whole process, and opening takes a third longer with
 * them.
 */
function shrinkHeap(): void {
  if (!isMainThread) return;
  setFlagsFromString("--optimize-for-size");
  // In a later turn, when the stack holds no reference to the garbage.
  setImmediate(() => globalThis.gc?.());
}

/** Creates the receiver of messages: the first one that is no ping says which worker this is. */
function receiver(send: (message: FromWorker) => void, onClosed: () => void): (message: ToWorker) => void {
  let server: EngineServer | ReaderServer | undefined;
  return (message) => {
    if (!server && message.type === "ping") return send({ type: "pong" });
    server ??= message.type === "read" ? new ReaderServer(send, onClosed) : new EngineServer(send, onClosed);
    server.receive(message);
  };
}

function serveThread(): void {
  const port = parentPort;
  if (!port) throw new Error("Expected a parent to serve");
  const receive = receiver(
    (message) => port.postMessage(message, movable(message)),
    // A thread without listeners ends. Deno's ports cannot be closed.
    () => port.off("message", receive),
  );
  port.on("message", receive);
}

function serveProcess(): void {
  const receive = receiver(
    (message) => {
      // Sending fails if the parent has just ended; "disconnect" follows.
      if (process.connected) process.send?.(message, undefined, undefined, () => undefined);
    },
    () => process.disconnect(),
  );
  process.on("message", receive);
  process.on("disconnect", () => process.exit());
  // Ctrl-C in a terminal reaches the whole process group; the parent decides what it means.
  process.on("SIGINT", () => undefined);
}

if (isMainThread) serveProcess();
else serveThread();
