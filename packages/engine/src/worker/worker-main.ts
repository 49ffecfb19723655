// Entry of the thread or process that runs a model, or reads prompts for one: receives messages, runs steps while there
// is work, sends the results.

import { setImmediate as nextTurn } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { isMainThread, parentPort } from "node:worker_threads";
import { type LoadProgress, ReadMeError } from "@readme-moe/core";
import { fromWireAllowance } from "../allowed-tokens.ts";
import type { EngineOutput } from "../engine-parts.ts";
import { type FromWorker, movable, type RequestNews, toWire, type ToWorker, type WireEvent } from "../protocol.ts";
import { answerCall, OpenCalls, type ServingEngine } from "./calls.ts";
import { openEngine, watchFiles } from "./open-engine.ts";
import { type OpenedReader, openReader } from "./open-reader.ts";
import { type ReadingEngine, WorkerRequests, TimeSlices } from "./requests.ts";

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

class WorkerServer {
  readonly #send: (message: FromWorker) => void;
  readonly #onClosed: () => void;
  #opened: ServingEngine | (OpenedReader & ReadingEngine) | undefined;
  readonly #calls: OpenCalls;
  /** Calls under way that take many short turns of the event loop. */
  #numLongCalls = 0;
  #isRunning = false;
  #numReceived = 0;
  #isClosing = false;
  #news: (FromWorker & { type: "news" })["news"][number][] = [];
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
      case "read":
        void this.#open(message);
        return;
      case "generate":
        void this.#engine?.requests.begin(message).then(() => this.#run({ coalesce: message.comesAlone !== true }));
        // Continues a prompt that takes more than one slice.
        void this.#run();
        return;
      case "abort":
        this.#engine?.requests.abort(message.requestId, message.reason);
        // The freed memory may let another sequence run.
        void this.#leave(message.requestId).then(() => this.#run());
        return;
      case "answer": {
        const { questionId, answer } = message;
        this.#engine?.core.answer(questionId, answer instanceof Float32Array ? answer : fromWireAllowance(answer));
        void this.#run();
        return;
      }
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
      default:
        throw new TypeError(`Unknown message: ${String(message satisfies never)}`);
    }
  }

  /** The engine; `undefined` where prompts are only read. */
  get #engine(): ServingEngine | undefined {
    return this.#opened && "core" in this.#opened ? this.#opened : undefined;
  }

  async #open(message: ToWorker & { type: "open" | "read" }): Promise<void> {
    const slices = new TimeSlices();
    try {
      if (message.type === "read") {
        const reader = await openReader(message.path, message.options);
        this.#opened = { ...reader, slices };
        this.#send({ type: "reading", info: reader.info });
        return;
      }
      const onProgress = (progress: LoadProgress): void => this.#send({ type: "progress", progress });
      const opened = await openEngine(message.path, message.options, this.#output(), onProgress);
      const engine = { ...opened, slices };
      this.#opened = { ...engine, requests: new WorkerRequests(engine, (id, error) => this.#fail(id, error)) };
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
      accepted: (sequence) => this.#tell(this.#engine?.requests.accept(sequence)),
      reading: (sequence) => {
        const progress = this.#engine?.requests.progress(sequence, performance.now());
        if (!progress) return;
        this.#tell(progress);
        // A step may take seconds.
        this.#flush();
      },
      chunk: ({ requestId }, chunk) => {
        const completed = this.#engine?.requests.complete(requestId, chunk) ?? chunk;
        this.#tell({ type: "chunk", requestId, chunk: completed });
      },
      ask: ({ requestId, promptTokens, choice, tokenIds: known }, questionId, question) => {
        // Beside logits, the caller gets the sequence's earlier tokens first; allowed tokens are found before.
        if ("logits" in question) this.#flush();
        const context = { tokenIds: Int32Array.from(known), promptTokens, choice };
        this.#send({ type: "ask", requestId, questionId, context, ...question });
      },
      failed: ({ requestId }, error) => this.#fail(requestId, error),
      event: (name, payload) => this.#news.push({ type: "event", ...({ name, payload } as WireEvent) }),
    };
  }

  #tell(news: RequestNews | undefined): void {
    if (news) this.#news.push(news);
  }

  /**
   * Runs steps while they are of use. Receives messages between steps, and first waits for further requests if asked
   * to.
   */
  async #run({ coalesce = false } = {}): Promise<void> {
    if (this.#isRunning || !this.#opened) return;
    const { slices } = this.#opened;
    const core = this.#engine?.core;
    const hasSteps = (): boolean => core?.hasWork === true;
    this.#isRunning = true;
    try {
      if (coalesce) await this.#settled();
      let stepMs = FIRST_STEP_MS;
      while ((hasSteps() || slices.hasWork) && !this.#isClosing) {
        // Long texts get a quarter of the time of the steps between, so they slow a stream by a quarter.
        const endMs = hasSteps() ? performance.now() + stepMs / 4 : Infinity;
        slices.run(endMs - performance.now());
        while (hasSteps() && slices.hasWork && performance.now() < endMs) {
          await nextTurn();
          slices.run(endMs - performance.now());
        }
        if (core && hasSteps()) {
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
      if (!this.#opened) throw new ReadMeError("ERR_DISPOSED", "The engine is not open");
      const value = await answerCall(this.#opened, name, args, signal);
      // Events that precede the answer are sent before it, even if no step follows.
      this.#flush();
      return value;
    };
    await this.#calls.answer(call, work).finally(() => {
      if (isLong) this.#numLongCalls--;
    });
  }

  #fail(requestId: string, error: unknown): void {
    this.#engine?.requests.abort(requestId);
    this.#tell({ type: "failed", requestId, error: toWire(error) });
  }

  /** Says when nothing follows of an aborted request: a step that runs may still end some of its tokens. */
  async #leave(requestId: string): Promise<void> {
    await this.#engine?.core.whenNone((sequence) => sequence.requestId === requestId);
    this.#tell({ type: "left", requestId });
    this.#flush();
  }

  #flush(): void {
    const news = this.#news.filter((one) => one.type !== "event" || this.#listened.has(one.name));
    this.#news = [];
    if (news.length > 0) this.#send({ type: "news", news });
  }

  async #close(): Promise<void> {
    const opened = this.#opened;
    this.#opened = undefined;
    await opened?.close();
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

function serveThread(): void {
  const port = parentPort;
  if (!port) throw new Error("Expected a parent to serve");
  const server = new WorkerServer(
    (message) => port.postMessage(message, movable(message)),
    // A thread without listeners ends. Deno's ports cannot be closed.
    () => port.off("message", receive),
  );
  const receive = (message: ToWorker): void => server.receive(message);
  port.on("message", receive);
}

function serveProcess(): void {
  const server = new WorkerServer(
    (message) => {
      // Sending fails if the parent has just ended; "disconnect" follows.
      if (process.connected) process.send?.(message, undefined, undefined, () => undefined);
    },
    () => process.disconnect(),
  );
  process.on("message", (message: ToWorker) => server.receive(message));
  process.on("disconnect", () => process.exit());
  // Ctrl-C in a terminal reaches the whole process group; the parent decides what it means.
  process.on("SIGINT", () => undefined);
}

if (isMainThread) serveProcess();
else serveThread();
