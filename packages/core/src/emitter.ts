import { EventEmitter } from "eventemitter3";
import type { ReadMeEvents } from "./events.ts";

type Listener = (...args: never[]) => unknown;

/**
 * Bus of the events of an engine or a server. Events only observe: a listener that throws, or whose promise is
 * rejected, affects neither the emitter nor later listeners, and is reported by `listener:failed`.
 */
export class ReadMeEmitter extends EventEmitter<ReadMeEvents> {
  readonly #contained = new WeakMap<Listener, Map<keyof ReadMeEvents, Listener>>();
  /** Wrappers, which `once` passes back to `off`. */
  readonly #wrappers = new WeakSet<Listener>();
  #onInterest: (() => void) | undefined;

  /**
   * Sets the function that is called after listeners were added or removed. A remote sender can then send only events
   * that have listeners.
   */
  watchInterest(onInterest: () => void): void {
    this.#onInterest = onInterest;
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

  /** Wraps a listener. The same listener gets the same wrapper, so that it can be removed. */
  #contain<Function extends Listener>(name: keyof ReadMeEvents, listener: Function): Function {
    if (this.#wrappers.has(listener)) return listener;
    const byName = this.#contained.get(listener) ?? new Map<keyof ReadMeEvents, Listener>();
    this.#contained.set(listener, byName);
    const known = byName.get(name);
    if (known) return known as Function;
    const failed = (error: unknown): void => {
      // A failing listener of `listener:failed` must not call itself.
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
