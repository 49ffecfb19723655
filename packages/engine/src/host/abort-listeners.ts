// Requests often share a signal, such as that of a client or of Ctrl-C; each signal gets one listener for all of them.

const listeners = new WeakMap<AbortSignal, Set<() => void>>();

/**
 * Calls back when the signal aborts; for one that has aborted already, never.
 *
 * @returns stops it
 */
export function onceAborted(signal: AbortSignal | undefined, callback: () => void): () => void {
  if (!signal) return () => undefined;
  const callbacks = listeners.get(signal) ?? listen(signal);
  // The same function may be given twice, and stopped once.
  const own = (): void => callback();
  callbacks.add(own);
  return () => {
    callbacks.delete(own);
    if (callbacks.size > 0 || listeners.get(signal) !== callbacks) return;
    signal.removeEventListener("abort", callAll);
    listeners.delete(signal);
  };
}

function listen(signal: AbortSignal): Set<() => void> {
  const callbacks = new Set<() => void>();
  listeners.set(signal, callbacks);
  signal.addEventListener("abort", callAll, { once: true });
  return callbacks;
}

function callAll({ target }: Event): void {
  const signal = target as AbortSignal;
  const callbacks = listeners.get(signal) ?? [];
  listeners.delete(signal);
  for (const callback of callbacks) callback();
}
