import { ReadMeError, type EngineInfo } from "@readme-moe/core";
import type { ResolvedEngineOptions } from "../engine-options.ts";
import {
  fromWire,
  type CallName,
  type Calls,
  type FromWorker,
  type LoadProgress,
  type ToWorker,
  type WireLogits,
} from "../protocol.ts";
import { onceAborted } from "./abort-listeners.ts";
import { openChannel, type Channel } from "./channel.ts";

export interface LinkListeners {
  readonly onStep: (step: FromWorker & { type: "step" }) => void;
  readonly onLogits: (row: WireLogits) => void;
  /** The worker ended, or could not go on, without having been asked to; called once. */
  readonly onFailed: (error: ReadMeError) => void;
}

interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** One worker from its start to its end, and the questions that wait for its answers. */
export class WorkerLink {
  readonly #channel: Channel;
  readonly #listeners: LinkListeners;
  readonly #calls = new Map<number, Pending>();
  readonly #exited: Promise<void>;
  #opening: (Pending & { readonly onProgress: ((progress: LoadProgress) => void) | undefined }) | undefined;
  #numCalls = 0;
  #numHolds = 0;
  #state: "alive" | "closing" | "ended" = "alive";

  constructor(isolation: "thread" | "process", listeners: LinkListeners) {
    this.#listeners = listeners;
    const channel = openChannel(isolation, (message) => this.#receive(message));
    this.#channel = channel;
    this.#exited = this.#watch(channel);
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

  /** @param signal - ends the work; the promise is rejected with its reason then */
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
   * Somebody waits for the worker: the program goes on until `release`. One whose engine has nothing to do ends when the rest
   * of it has, as with any library that only computes.
   */
  hold(): void {
    if (this.#numHolds++ === 0) this.#channel.hold(true);
  }

  release(): void {
    if (--this.#numHolds === 0 && this.#state === "alive") this.#channel.hold(false);
  }

  post(message: ToWorker): void {
    if (this.#state !== "ended") this.#channel.post(message);
  }

  /** Ends the worker once its step is done; by force when it does not end by itself. */
  async close(): Promise<void> {
    if (this.#state === "alive") {
      this.#state = "closing";
      this.hold();
      this.#channel.post({ type: "close" });
      const timer = setTimeout(() => this.#channel.kill(), CLOSE_TIMEOUT_MS);
      await this.#exited;
      clearTimeout(timer);
    } else {
      await this.#exited;
    }
  }

  /** Ends the worker at once, whatever it does. Those who wait are told as when it ends by itself. */
  kill(): void {
    this.#channel.kill();
  }

  async #watch(channel: Channel): Promise<void> {
    const reason = await channel.exited;
    const wasClosing = this.#state === "closing";
    this.#end(new ReadMeError("ERR_ENGINE_FAILED", `The engine's worker is gone: ${reason}`), wasClosing);
  }

  #receive(message: FromWorker): void {
    // A process may be known to have ended before all that it said is here; those it was for were told otherwise.
    if (this.#state === "ended") return;
    switch (message.type) {
      case "progress":
        this.#opening?.onProgress?.(message.progress);
        return;
      case "opened":
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
        this.#listeners.onLogits(message);
        return;
      case "result":
        this.#take(message.callId)?.resolve(message.value);
        return;
      case "error":
        this.#take(message.callId)?.reject(fromWire(message.error));
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

  /** Tells everybody who waits, once. */
  #end(error: Error, wasAsked: boolean): void {
    if (this.#state === "ended") return;
    this.#state = "ended";
    const told = wasAsked ? new ReadMeError("ERR_DISPOSED", "The engine was disposed") : error;
    for (const pending of this.#calls.values()) pending.reject(told);
    this.#calls.clear();
    // Whoever opens the engine gets the error itself; it has not failed, it never worked.
    if (this.#opening) this.#opening.reject(told);
    else if (!wasAsked) this.#listeners.onFailed(asReadMeError(error));
    this.#opening = undefined;
  }
}

const CLOSE_TIMEOUT_MS = 10_000;

function asReadMeError(error: Error): ReadMeError {
  if (error instanceof ReadMeError && error.code === "ERR_ENGINE_FAILED") return error;
  return new ReadMeError("ERR_ENGINE_FAILED", `The engine cannot go on: ${error.message}`, { cause: error });
}
