// Models that are opened when a request asks for them, and closed when none has for a while or another model needs
// their memory. Requests wait meanwhile. What to do is decided by `planModels`; here it is done.

import { errorChain, type ErrorLink, MAX_TIMER_MS, type ReadMeEmitter } from "@readme-moe/core";
import { type ApiError, modelFailed, reasonOf } from "../../http/errors.ts";
import { type ModelsLimits, type OnDemandState, planModels } from "./plan-models.ts";

/** Wait before a model that could not be opened is tried again. */
const RETRY_MS = 5000;

type Mutable<Value> = { -readonly [Name in keyof Value]: Value[Name] };

interface Waiter {
  readonly resolve: (leave: () => void) => void;
  readonly reject: (error: unknown) => void;
}

interface Entry extends Mutable<OnDemandState> {
  readonly waiters: Set<Waiter>;
  readonly defaultKeepAliveMs: number;
  isYielding: boolean;
  /** Reasons why the engine has failed before its opening was noted. */
  lost: readonly ErrorLink[] | undefined;
  failure: { readonly reason: string; readonly untilMs: number } | undefined;
}

interface OnDemandHooks extends ModelsLimits {
  /** Opens the engine of a name and serves it. */
  readonly open: (name: string) => Promise<void>;
  /** Stops serving the engine of a name and disposes it. */
  readonly close: (name: string) => Promise<void>;
  readonly events: Pick<ReadMeEmitter, "emit">;
}

export class OnDemandModels {
  readonly #hooks: OnDemandHooks;
  readonly #entries = new Map<string, Entry>();
  #timer: NodeJS.Timeout | undefined;
  #stopped: ApiError | undefined;

  constructor(hooks: OnDemandHooks) {
    this.#hooks = hooks;
  }

  add(name: string, bytes: number, keepAliveMs: number): void {
    const [numUses, waitingSinceMs, openedMs, usedMs] = [0, undefined, 0, 0];
    const state = { name, bytes, phase: "closed" as const, numUses, waitingSinceMs, openedMs, usedMs, keepAliveMs };
    const more = { waiters: new Set<Waiter>(), defaultKeepAliveMs: keepAliveMs, isYielding: false, lost: undefined, failure: undefined };
    this.#entries.set(name, { ...state, ...more });
  }

  /** Forgets a model that another engine serves from now on. Requests that wait for it get that one. */
  remove(name: string): void {
    const entry = this.#entries.get(name);
    if (!entry) return;
    this.#entries.delete(name);
    for (const { resolve } of entry.waiters) resolve(() => undefined);
    this.#plan();
  }

  /**
   * Waits until a model is open, and keeps it open until the request leaves.
   *
   * @param keepAliveMs - time for which it stays open after its last request, from now on. @default as before
   * @returns a function that lets the model be closed; further calls have no effect
   * @throws {ApiError} 503 `model_failed`, `shutting_down`; the signal's reason
   */
  async enter(name: string, signal: AbortSignal | undefined, keepAliveMs?: number): Promise<() => void> {
    const entry = this.#entries.get(name);
    if (!entry) return () => undefined;
    signal?.throwIfAborted();
    if (this.#stopped) throw this.#stopped;
    const { failure } = entry;
    const nowMs = performance.now();
    if (failure && nowMs < failure.untilMs) {
      throw modelFailed(name, { reason: failure.reason, waitMs: failure.untilMs - nowMs });
    }
    entry.failure = undefined;
    if (keepAliveMs !== undefined) entry.keepAliveMs = keepAliveMs;
    if (this.#isFree(entry)) return this.#use(entry);
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        entry.waiters.delete(waiter);
        if (entry.waiters.size === 0) entry.waitingSinceMs = undefined;
        waiter.reject(signal?.reason);
        this.#plan();
      };
      const stopListening = (): void => signal?.removeEventListener("abort", onAbort);
      const waiter: Waiter = {
        resolve(leave) {
          stopListening();
          resolve(leave);
        },
        reject(error) {
          stopListening();
          // oxlint-disable-next-line prefer-promise-reject-errors -- a signal's reason can be anything
          reject(error);
        },
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      entry.waiters.add(waiter);
      entry.waitingSinceMs ??= nowMs;
      this.#plan();
    });
  }

  /** Counts a request that does not wait. @returns nothing where the model is not open */
  enterNow(name: string): (() => void) | undefined {
    const entry = this.#entries.get(name);
    return entry?.phase === "open" ? this.#use(entry) : undefined;
  }

  /** Closes a model as soon as no request uses it or waits for it. */
  unload(name: string): void {
    const entry = this.#entries.get(name);
    if (!entry) return;
    entry.keepAliveMs = 0;
    this.#plan();
  }

  /**
   * Closes a model whose engine has failed, so that a later request opens it again.
   * @returns whether the model is opened on demand
   */
  giveUp(name: string, causes: readonly ErrorLink[]): boolean {
    const entry = this.#entries.get(name);
    if (!entry) return false;
    if (entry.phase === "opening") entry.lost = causes;
    if (entry.phase === "open") {
      this.#noteFailure(entry, "its engine has failed", causes);
      void this.#close(entry);
    }
    return true;
  }

  /** Returns the time until an open model is closed if no request comes, in ms; `Infinity` for never. */
  closesInMs(name: string): number {
    const entry = this.#entries.get(name);
    if (!entry) return Infinity;
    const { phase, numUses, usedMs, keepAliveMs } = entry;
    if (phase !== "open" || numUses !== 0) return keepAliveMs;
    return Math.max(0, usedMs + keepAliveMs - performance.now());
  }

  /** Opens and closes nothing any more, and refuses requests that wait. */
  stop(why: ApiError): void {
    this.#stopped = why;
    clearTimeout(this.#timer);
    for (const { waiters } of this.#entries.values()) {
      for (const { reject } of waiters) reject(why);
      waiters.clear();
    }
  }

  #isFree({ phase, isYielding }: Entry): boolean {
    return phase === "open" && !isYielding;
  }

  #use(entry: Entry): () => void {
    entry.numUses++;
    let hasLeft = false;
    return () => {
      if (hasLeft) return;
      hasLeft = true;
      entry.numUses--;
      entry.usedMs = performance.now();
      if (entry.numUses === 0) this.#plan();
    };
  }

  #plan(): void {
    if (this.#stopped) return;
    const { open, close, yielding, nextMs } = planModels([...this.#entries.values()], this.#hooks, performance.now());
    for (const entry of this.#entries.values()) {
      entry.isYielding = yielding.includes(entry.name);
      if (open.includes(entry.name)) void this.#open(entry);
      if (close.includes(entry.name)) void this.#close(entry);
      else if (this.#isFree(entry)) this.#admit(entry);
    }
    clearTimeout(this.#timer);
    if (nextMs === Infinity) return;
    const waitMs = Math.min(MAX_TIMER_MS, Math.max(0, Math.ceil(nextMs - performance.now())));
    this.#timer = setTimeout(() => this.#plan(), waitMs).unref();
  }

  /** Lets in the requests that wait for an open model. */
  #admit(entry: Entry): void {
    entry.waitingSinceMs = undefined;
    for (const { resolve } of entry.waiters) resolve(this.#use(entry));
    entry.waiters.clear();
  }

  async #open(entry: Entry): Promise<void> {
    const { name } = entry;
    const startMs = performance.now();
    // The server may stop meanwhile, and another engine may be set for the name.
    const isWanted = (): boolean => !this.#stopped && this.#entries.get(name) === entry;
    entry.phase = "opening";
    entry.lost = undefined;
    try {
      await this.#hooks.open(name);
      if (!isWanted()) return;
      entry.phase = "open";
      entry.openedMs = entry.usedMs = performance.now();
      this.#hooks.events.emit("model:opened", { name, durationMs: entry.openedMs - startMs });
      if (entry.lost) this.giveUp(name, entry.lost);
    } catch (error) {
      if (!isWanted()) return;
      entry.phase = "closed";
      this.#noteFailure(entry, reasonOf(error), errorChain(error));
    }
    this.#plan();
  }

  async #close(entry: Entry): Promise<void> {
    const { name } = entry;
    entry.phase = "closing";
    // A worker that does not end in order is killed; its memory comes back in any case.
    await this.#hooks.close(name).catch(() => undefined);
    entry.phase = "closed";
    if (entry.waiters.size === 0) entry.keepAliveMs = entry.defaultKeepAliveMs;
    this.#hooks.events.emit("model:closed", { name });
    this.#plan();
  }

  /** Refuses the requests that wait, and those of the next seconds. */
  #noteFailure(entry: Entry, reason: string, causes: readonly ErrorLink[]): void {
    for (const { reject } of entry.waiters) reject(modelFailed(entry.name, { reason, waitMs: RETRY_MS }));
    entry.waiters.clear();
    entry.waitingSinceMs = undefined;
    entry.failure = { reason, untilMs: performance.now() + RETRY_MS };
    this.#hooks.events.emit("model:open-failed", { name: entry.name, retryInMs: RETRY_MS, causes });
  }
}
