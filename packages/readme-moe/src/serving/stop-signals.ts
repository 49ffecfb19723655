// SIGTERM and SIGINT: the first asks the server to leave in order, the second makes it leave at once.

export interface StopSignals extends Disposable {
  readonly signal: AbortSignal;
}

/** @param interrupted - aborted by the first SIGINT */
export function stopSignals(interrupted: AbortSignal): StopSignals {
  const stop = new AbortController();
  const leave = (code: number) => (): void => {
    if (stop.signal.aborted) process.exit(code);
    stop.abort();
  };
  const [onTerminate, onInterrupt] = [leave(143), leave(130)];
  process.on("SIGTERM", onTerminate).on("SIGINT", onInterrupt);
  if (interrupted.aborted) stop.abort();
  return {
    signal: stop.signal,
    [Symbol.dispose]() {
      process.off("SIGTERM", onTerminate).off("SIGINT", onInterrupt);
    },
  };
}
