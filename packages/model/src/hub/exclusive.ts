const running = new Map<string, Promise<void>>();

/** Runs `work` when no other work of this process runs under `key`. Whoever waits can be aborted. */
export async function exclusively<Result>(
  key: string,
  signal: AbortSignal | undefined,
  work: () => Promise<Result>,
): Promise<Result> {
  for (let other = running.get(key); other !== undefined; other = running.get(key)) await unlessAborted(other, signal);
  const result = work();
  const end = result.then(
    () => undefined,
    () => undefined,
  );
  running.set(key, end);
  try {
    return await result;
  } finally {
    running.delete(key);
  }
}

async function unlessAborted(promise: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (signal === undefined) return promise;
  signal.throwIfAborted();
  const listening = new AbortController();
  const aborted = new Promise<void>((resolve) => {
    signal.addEventListener("abort", () => resolve(), { signal: listening.signal });
  });
  await Promise.race([promise, aborted]);
  listening.abort();
  signal.throwIfAborted();
}
