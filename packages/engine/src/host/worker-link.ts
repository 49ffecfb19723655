// One worker from its start to its end, and the calls that wait for its answers.

import {
  MAX_TIMER_MS,
  onceAborted,
  ReadMeError,
  type EngineInfo,
  type PromptInfo,
  type ReadMeEmitter,
} from "@readme-moe/core";
import type { ResolvedEngineOptions } from "../engine-options.ts";
import { fromWire, type CallName, type Calls, type FromWorker, type LoadProgress, type ToWorker } from "../protocol.ts";
import type { ResolvedReaderOptions } from "../reader-options.ts";
import type { FunctionCall } from "./caller-functions.ts";
import { openChannel, type Channel } from "./channel.ts";
import { Watchdog } from "./watchdog.ts";

interface LinkListeners {
  readonly onStep: (step: FromWorker & { type: "step" }) => void;
  /** Receives a call of a request's function. */
  readonly onFunctionCall: (call: FunctionCall) => void;
  /** Called once, at the moment when `failed` resolves. */
  readonly onFailed: (error: ReadMeError) => void;
}

interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

const CLOSE_TIMEOUT_MS = 10_000;
/** Silence that is allowed while a model is opened, whose files are parsed at once, in limits of a silence later. */
const OPENING_LIMITS = 5;
/** Silence that is allowed in any case before the first sign of life: a process starts and loads its modules. */
const STARTING_MS = 60_000;
/** Silence that is allowed in any case, in predicted longest steps: a machine may be that much slower for a while. */
const LONGEST_STEPS = 10;

/** The worker's place, and how long it may be silent. */
export type LinkOptions = Pick<ResolvedEngineOptions, "isolation" | "hungMs">;

export class WorkerLink {
  readonly #channel: Channel;
  readonly #hungMs: number;
  readonly #watchdog: Watchdog;
  readonly #listeners: LinkListeners;
  readonly #calls = new Map<number, Pending>();
  readonly #exited: Promise<void>;
  /** Resolves if the worker ends, or cannot go on, without having been asked to end. */
  readonly failed: Promise<ReadMeError>;
  #reportFailed!: (error: ReadMeError) => void;
  #opening: (Pending & { readonly onProgress: ((progress: LoadProgress) => void) | undefined }) | undefined;
  #numCalls = 0;
  #numHolds = 0;
  #state: "alive" | "closing" | "ended" = "alive";

  constructor({ isolation, hungMs }: LinkOptions, listeners: LinkListeners) {
    this.#listeners = listeners;
    this.#hungMs = hungMs;
    this.#watchdog = new Watchdog(Math.max(STARTING_MS, OPENING_LIMITS * hungMs), {
      ask: () => this.post({ type: "ping" }),
      onHung: (limitMs) => this.#endHung(limitMs),
    });
    const channel = openChannel(isolation, (message) => this.#receive(message));
    this.#channel = channel;
    this.#exited = this.#watch(channel);
    this.failed = new Promise((resolve) => (this.#reportFailed = resolve));
  }

  async open(
    path: string,
    options: ResolvedEngineOptions,
    onProgress?: (progress: LoadProgress) => void,
  ): Promise<{ readonly info: EngineInfo; readonly cacheFailure: string | undefined }> {
    this.hold();
    return new Promise((resolve, reject) => {
      this.#opening = { resolve: resolve as (value: unknown) => void, reject, onProgress };
      this.post({ type: "open", path, options });
    });
  }

  /** Opens what prompts need, without weights. */
  async read(path: string, options: ResolvedReaderOptions): Promise<PromptInfo> {
    this.hold();
    const reading = new Promise<FromWorker & { type: "reading" }>((resolve, reject) => {
      this.#opening = { resolve: resolve as (value: unknown) => void, reject, onProgress: undefined };
      this.post({ type: "read", path, options });
    });
    return (await reading).info;
  }

  /** @param signal - ends the call, which then rejects with the signal's reason */
  async call<Name extends CallName>(
    name: Name,
    args: Calls[Name]["args"],
    signal?: AbortSignal,
  ): Promise<Calls[Name]["result"]> {
    signal?.throwIfAborted();
    this.hold();
    const callId = ++this.#numCalls;
    const stopListening = onceAborted(signal, () => {
      this.#take(callId)?.reject(signal?.reason);
      this.post({ type: "cancel", callId });
    });
    try {
      return await new Promise((resolve, reject) => {
        this.#calls.set(callId, { resolve: resolve as (value: unknown) => void, reject });
        this.post({ type: "call", callId, name, args });
      });
    } finally {
      stopListening();
    }
  }

  /**
   * Keeps the program running until `release`, since a caller waits for the worker. An engine without work lets the
   * program end, as any library that only computes does.
   */
  hold(): void {
    if (this.#numHolds++ > 0) return;
    this.#channel.hold(true);
    if (this.#state === "alive") this.#watchdog.start();
  }

  release(): void {
    if (--this.#numHolds > 0) return;
    this.#watchdog.stop();
    if (this.#state === "alive") this.#channel.hold(false);
  }

  /** Tells the worker which events have listeners, now and after each change. The worker sends no other events. */
  watchInterest(events: ReadMeEmitter): void {
    let known = "";
    const tell = (): void => {
      const names = events.eventNames();
      if (names.join() === known) return;
      known = names.join();
      this.post({ type: "listen", names });
    };
    events.watchInterest(tell);
    tell();
  }

  post(message: ToWorker): void {
    if (this.#state !== "ended") this.#channel.post(message);
  }

  /** Ends the worker after its current step, or kills it if it does not end in time. */
  async close(): Promise<void> {
    if (this.#state === "alive") {
      this.#state = "closing";
      this.#watchdog.stop();
      this.hold();
      this.#channel.post({ type: "close" });
      const timer = setTimeout(() => this.#channel.kill(), CLOSE_TIMEOUT_MS);
      await this.#exited;
      clearTimeout(timer);
    } else {
      await this.#exited;
    }
  }

  /** Ends the worker at once. Waiting calls fail as if it had ended by itself. */
  kill(): void {
    this.#channel.kill();
  }

  #limitOf(longestStepMs: number): number {
    const longestMs = Math.ceil(LONGEST_STEPS * longestStepMs);
    return longestMs > this.#hungMs ? Math.min(longestMs, MAX_TIMER_MS) : this.#hungMs;
  }

  #endHung(limitMs: number): void {
    const message = `The engine's worker hung: it gave no sign of life for ${limitMs} ms, and was ended`;
    this.#end(new ReadMeError("ERR_ENGINE_FAILED", message), false);
    this.#channel.kill({ isHung: true });
  }

  async #watch(channel: Channel): Promise<void> {
    const reason = await channel.exited;
    const wasClosing = this.#state === "closing";
    this.#end(new ReadMeError("ERR_ENGINE_FAILED", `The engine's worker is gone: ${reason}`), wasClosing);
  }

  #receive(message: FromWorker): void {
    // The end of a process may be known before its last messages arrive. Their receivers have failed by then.
    if (this.#state === "ended") return;
    this.#watchdog.heard();
    switch (message.type) {
      case "progress":
        this.#opening?.onProgress?.(message.progress);
        return;
      case "opened":
      case "reading":
        this.#watchdog.limitMs = this.#limitOf(message.type === "opened" ? message.longestStepMs : 0);
        this.#opening?.resolve(message);
        this.#opening = undefined;
        this.release();
        return;
      case "failed":
        this.#end(fromWire(message.error), false);
        this.#channel.kill();
        return;
      case "step":
        this.#listeners.onStep(message);
        return;
      case "logits":
      case "ask":
        this.#listeners.onFunctionCall(message);
        return;
      case "result":
        this.#take(message.callId)?.resolve(message.value);
        return;
      case "error":
        this.#take(message.callId)?.reject(fromWire(message.error));
        return;
      case "pong":
        if (this.#opening) this.#watchdog.limitMs = OPENING_LIMITS * this.#hungMs;
        return;
      case "closed":
        return;
      default:
        throw new TypeError(`Unknown message: ${String(message satisfies never)}`);
    }
  }

  #take(callId: number): Pending | undefined {
    const pending = this.#calls.get(callId);
    if (this.#calls.delete(callId)) this.release();
    return pending;
  }

  /** Rejects everything that waits, once. */
  #end(error: Error, wasAsked: boolean): void {
    if (this.#state === "ended") return;
    this.#state = "ended";
    this.#watchdog.stop();
    const reason = wasAsked ? new ReadMeError("ERR_DISPOSED", "The engine was disposed") : error;
    for (const pending of this.#calls.values()) pending.reject(reason);
    this.#calls.clear();
    // An engine that could not be opened has not failed: `open` rejects with the error.
    if (this.#opening) this.#opening.reject(reason);
    else if (!wasAsked) {
      const failure = asReadMeError(error);
      this.#reportFailed(failure);
      this.#listeners.onFailed(failure);
    }
    this.#opening = undefined;
  }
}

function asReadMeError(error: Error): ReadMeError {
  if (error instanceof ReadMeError && error.code === "ERR_ENGINE_FAILED") return error;
  return new ReadMeError("ERR_ENGINE_FAILED", `The engine cannot go on: ${error.message}`, { cause: error });
}
