// One worker from its start to its end: the channel to its thread or process, the calls that wait for its answers, and
// the notice of a worker that hangs.

import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { type LoadProgress, MAX_TIMER_MS, onceAborted, type ReadMeEmitter, ReadMeError } from "@readme-moe/core";
import type { ResolvedEngineOptions } from "../engine-options.ts";
import {
  type CallName,
  type Calls,
  fromWire,
  type FromWorker,
  movable,
  type ToWorker,
  type WireQuestion,
} from "../protocol.ts";

interface LinkListeners {
  readonly onNews: (message: FromWorker & { type: "news" }) => void;
  readonly onQuestion: (question: WireQuestion) => void;
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
type LinkOptions = Pick<ResolvedEngineOptions, "isolation" | "hungMs">;

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

  /** Opens a model, or with the answer "reading" what its prompts need, without weights. */
  open<Answer extends "opened" | "reading">(
    message: ToWorker & { type: Answer extends "opened" ? "open" : "read" },
    onProgress?: (progress: LoadProgress) => void,
  ): Promise<FromWorker & { type: Answer }> {
    this.hold();
    return new Promise((resolve, reject) => {
      this.#opening = { resolve: resolve as (value: unknown) => void, reject, onProgress };
      this.post(message);
    });
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
      case "news":
        this.#listeners.onNews(message);
        return;
      case "ask":
        this.#listeners.onQuestion(message);
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

interface Channel {
  post(message: ToWorker): void;
  /**
   * Ends the worker. A process ends at once, a thread after its current step; no message comes after this.
   * @param isHung - also ends a thread within JavaScript; one within native code ends when that returns, or never
   */
  kill(options?: { readonly isHung: boolean }): void;
  /** Sets whether the worker keeps the program running by itself. It does at first. */
  hold(isHeld: boolean): void;
  /** Resolves with the reason when the worker has ended or was killed. */
  readonly exited: Promise<string>;
}

type OnMessage = (message: FromWorker) => void;

// Development runs the sources, a published package the one file that its build makes of the worker's modules.
const IS_SOURCE = import.meta.url.endsWith(".ts");
const ENTRY = new URL(IS_SOURCE ? "../worker/worker-main.ts" : "../worker-main.js", import.meta.url);

// Threads inherit the program's flags. `--input-type` describes a program without a file, and would stop a thread.
const THREAD_FLAGS = process.execArgv.some((flag) => flag.startsWith("--input-type")) ? { execArgv: [] } : {};

const PROGRAM_TEXT = new Set(["-e", "--eval", "-p", "--print", "-pe"]);
// Flags that state or watch the program, or that take a port or a file of their own.
const OF_THE_PROGRAM = /^--(?:eval=|print=|input-type|inspect|watch|test|cpu-prof|heap-prof)/;

/** Flags that limit a worker process's memory: `--expose-gc` allows a collection after the model was opened. */
const MEMORY_FLAGS: readonly string[] = ["--expose-gc", "--max-semi-space-size=4"];

/** glibc learns to keep freed blocks of up to 64 MB unless the threshold is set; opening a model frees many of them. */
const MEMORY_ENVIRONMENT = { MALLOC_TRIM_THRESHOLD_: "131072" };

export function openChannel(isolation: "thread" | "process", onMessage: OnMessage): Channel {
  return isolation === "thread" ? openThread(onMessage) : openProcess(onMessage);
}

function openThread(onMessage: OnMessage): Channel {
  const worker = IS_SOURCE ? sourceThread() : new Worker(ENTRY, { ...THREAD_FLAGS, name: "readme-moe" });
  worker.on("message", onMessage);
  const killed = new AbortController();
  const exited = new Promise<string>((resolve) => {
    worker.on("error", (error: Error) => resolve(error.message));
    worker.on("exit", (code) => resolve(`its thread ended with code ${code}`));
    killed.signal.addEventListener("abort", () => resolve("its thread was ended"));
  });
  return {
    post: (message) => worker.postMessage(message, movable(message)),
    // `terminate` within native code can abort the whole process, so the thread is asked to end. A thread that never
    // returns from its step is left behind, unless it is known to hang.
    kill: (options) => {
      worker.off("message", onMessage);
      worker.postMessage({ type: "end" } satisfies ToWorker, []);
      worker.unref();
      killed.abort();
      if (options?.isHung) void worker.terminate();
    },
    hold: (isHeld) => {
      if (isHeld) worker.ref();
      else worker.unref();
    },
    exited,
  };
}

/** Starts a thread that registers the TypeScript loader itself: Node 20 does not hand loaders down to threads. */
function sourceThread(): Worker {
  const entry = JSON.stringify(ENTRY.href);
  const code = `import("tsx/esm/api").then(({ register }) => { register(); return import(${entry}); });`;
  return new Worker(code, { eval: true, name: "readme-moe" });
}

function openProcess(onMessage: OnMessage): Channel {
  const child = fork(fileURLToPath(ENTRY), [], {
    // "advanced" keeps typed arrays, maps and sets, as messages between threads do.
    serialization: "advanced",
    // The program's own flags and environment come last, so that they win.
    execArgv: [...MEMORY_FLAGS, ...workerFlags(process.execArgv)],
    env: { ...MEMORY_ENVIRONMENT, ...process.env },
  });
  child.on("message", (message) => onMessage(message as FromWorker));
  const exited = new Promise<string>((resolve) => {
    child.on("error", (error) => resolve(error.message));
    child.on("exit", (code, signal) =>
      resolve(signal ? `${signal} ended its process` : `its process ended with code ${code}`),
    );
  });
  return {
    post: (message) => {
      // Sending to a process that has just ended fails; `exited` reports the end.
      if (child.connected) child.send(message, () => undefined);
    },
    kill: () => void child.kill("SIGKILL"),
    hold: (isHeld) => {
      // The channel of Bun's child processes cannot be held.
      for (const handle of [child, child.channel]) {
        if (isHeld) handle?.ref?.();
        else handle?.unref?.();
      }
    },
    exited,
  };
}

/** Selects the flags that also apply to workers: loaders, conditions and memory limits. */
function workerFlags(execArgv: readonly string[]): string[] {
  return execArgv.filter((flag, index) => {
    const before = execArgv[index - 1] ?? "";
    // An argument without a dash is the value of the flag before it.
    const isOfBefore = PROGRAM_TEXT.has(before) || (!flag.startsWith("-") && OF_THE_PROGRAM.test(before));
    return !PROGRAM_TEXT.has(flag) && !OF_THE_PROGRAM.test(flag) && !isOfBefore;
  });
}

/** Number of equal parts of a limit. Parts are counted, not time: none pass while this process is suspended or busy. */
const PARTS = 10;

/** Silence of a worker that was asked for a sign of life, in whole parts of the limit. */
interface Silence {
  readonly isAsked: boolean;
  readonly parts: number;
}

/** State of a worker that has just given a sign of life. */
export const HEARD: Silence = { isAsked: false, parts: 0 };

/** Returns the silence after one more part of the limit. A worker that was heard is asked again. */
export function afterPart({ isAsked, parts }: Silence): Silence {
  return { isAsked: true, parts: isAsked ? parts + 1 : 0 };
}

/** Whether a worker counts as hung: it was silent for nine to ten parts of the limit. */
export function isHung({ parts }: Silence): boolean {
  return parts >= PARTS - 1;
}

interface WatchdogHooks {
  /** Asks the worker for a sign of life. */
  readonly ask: () => void;
  /** Called once, with the limit. */
  readonly onHung: (limitMs: number) => void;
}

/** Watches a worker while answers are awaited. */
class Watchdog {
  readonly #hooks: WatchdogHooks;
  #silence: Silence = HEARD;
  #limitMs: number;
  #timer: NodeJS.Timeout | undefined;

  constructor(limitMs: number, hooks: WatchdogHooks) {
    this.#limitMs = limitMs;
    this.#hooks = hooks;
  }

  /** Notes a sign of life. */
  heard(): void {
    this.#silence = HEARD;
  }

  /** Sets the longest silence, in ms. The part that runs begins again. */
  set limitMs(limitMs: number) {
    if (limitMs === this.#limitMs) return;
    this.#limitMs = limitMs;
    if (this.#timer) this.#schedule();
  }

  start(): void {
    this.stop();
    this.#silence = HEARD;
    this.#pass();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #pass(): void {
    if (!this.#silence.isAsked) this.#hooks.ask();
    this.#silence = afterPart(this.#silence);
    if (isHung(this.#silence)) this.#hooks.onHung(this.#limitMs);
    else this.#schedule();
  }

  /** Gives each part a timer of its own, so that messages are received between two parts that are late. */
  #schedule(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#pass(), this.#limitMs / PARTS).unref();
  }
}
