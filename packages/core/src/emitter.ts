import { EventEmitter } from "eventemitter3";
import type { ReadMeEvents } from "./events.ts";

type Listener = (...args: never[]) => unknown;

/**
 * The bus that all parts of one engine share. Events observe: a listener that throws, or whose promise is rejected,
 * hurts neither the emitter nor the listeners after it, and is told to `listener:failed`.
 */
export class ReadMeEmitter extends EventEmitter<ReadMeEvents> {
  readonly #contained = new WeakMap<Listener, Map<keyof ReadMeEvents, Listener>>();
  /** `once` removes what it was given, which is contained already. */
  readonly #wrappers = new WeakSet<Listener>();
  #onInterest: (() => void) | undefined;

  /** Calls `tell` after listeners were added or removed, in place of the watcher before it. A remote sender then sends only what is heard. */
  watchInterest(tell: () => void): void {
    this.#onInterest = tell;
  }

  override on<Name extends EventEmitter.EventNames<ReadMeEvents>>(
    name: Name,
    listener: EventEmitter.EventListener<ReadMeEvents, Name>,
    context?: unknown,
  ): this {
    super.on(name, this.#contain(name, listener), context);
    this.#onInterest?.();
    return this;
  }

  override once<Name extends EventEmitter.EventNames<ReadMeEvents>>(
    name: Name,
    listener: EventEmitter.EventListener<ReadMeEvents, Name>,
    context?: unknown,
  ): this {
    super.once(name, this.#contain(name, listener), context);
    this.#onInterest?.();
    return this;
  }

  override addListener<Name extends EventEmitter.EventNames<ReadMeEvents>>(
    name: Name,
    listener: EventEmitter.EventListener<ReadMeEvents, Name>,
    context?: unknown,
  ): this {
    return this.on(name, listener, context);
  }

  override off<Name extends EventEmitter.EventNames<ReadMeEvents>>(
    name: Name,
    listener?: EventEmitter.EventListener<ReadMeEvents, Name>,
    context?: unknown,
    once?: boolean,
  ): this {
    super.off(name, listener && this.#contain(name, listener), context, once);
    this.#onInterest?.();
    return this;
  }

  override removeAllListeners(name?: EventEmitter.EventNames<ReadMeEvents>): this {
    super.removeAllListeners(name);
    this.#onInterest?.();
    return this;
  }

  override removeListener<Name extends EventEmitter.EventNames<ReadMeEvents>>(
    name: Name,
    listener?: EventEmitter.EventListener<ReadMeEvents, Name>,
    context?: unknown,
    once?: boolean,
  ): this {
    return this.off(name, listener, context, once);
  }

  /** The same wrapper for the same listener, so that it can be removed. */
  #contain<Function extends Listener>(name: keyof ReadMeEvents, listener: Function): Function {
    if (this.#wrappers.has(listener)) return listener;
    const byName = this.#contained.get(listener) ?? new Map<keyof ReadMeEvents, Listener>();
    this.#contained.set(listener, byName);
    const known = byName.get(name);
    if (known) return known as Function;
    const failed = (error: unknown): void => {
      // A failing listener of failures has nobody left to tell.
      if (name !== "listener:failed") this.emit("listener:failed", { source: name, error });
    };
    const contained = function (this: unknown, ...args: never[]): void {
      try {
        const result = listener.apply(this, args);
        if (result instanceof Promise) result.catch(failed);
      } catch (error) {
        failed(error);
      }
    };
    byName.set(name, contained);
    this.#wrappers.add(contained);
    return contained as Function;
  }
}
