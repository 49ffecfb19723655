// Several rows of one call, each a sequence of its own to the engine, which runs them together with everybody else's. To
// the caller's hooks they go in step, as the hosts run them: a step is handed on when every row that is not done has its token.

import type { Engine, GenerateRequest } from "@readme-moe/core";

export interface RowHooks {
  /**
   * @param tokens - of each row; `undefined` of rows that are done
   * @returns which rows end here; what it throws ends the call
   */
  readonly onStep?: ((tokens: readonly (number | undefined)[]) => readonly boolean[]) | undefined;
  /** Asked for while nothing has come yet. */
  readonly isInterrupted?: (() => boolean) | undefined;
}

const INTERRUPT_POLL_MS = 20;

interface Row {
  readonly tokens: number[];
  readonly abort: AbortController;
  /** The engine has no more for it, or nobody wants more. */
  isEnded: boolean;
  isStopped: boolean;
}

/**
 * @param requests - one for each row; `undefined` for rows that get nothing
 * @returns the tokens of each row
 * @throws what the engine, a hook or `signal` throws; then no row goes on
 */
export async function runRows(
  engine: Pick<Engine, "generate">,
  requests: readonly (Omit<GenerateRequest, "signal"> | undefined)[],
  { onStep, isInterrupted }: RowHooks,
  signal?: AbortSignal,
): Promise<readonly (readonly number[])[]> {
  signal?.throwIfAborted();
  const rows = requests.map((request): Row => ({
    tokens: [],
    abort: new AbortController(),
    isEnded: request === undefined,
    isStopped: false,
  }));
  let failure: { readonly error: unknown } | undefined;
  let numSteps = 0;
  const stop = (row: Row): void => {
    row.isStopped = true;
    row.abort.abort();
  };
  const fail = (error: unknown): void => {
    failure ??= { error };
    rows.forEach(stop);
  };
  const isLive = (row: Row): boolean => !row.isStopped && !(row.isEnded && row.tokens.length <= numSteps);
  const handOn = (): void => {
    while (onStep && !failure) {
      const live = rows.filter(isLive);
      if (live.length === 0 || live.some(({ tokens }) => tokens.length <= numSteps)) return;
      const tokens = rows.map((row) => (isLive(row) ? row.tokens[numSteps] : undefined));
      numSteps++;
      const done = onStep(tokens);
      rows.forEach((row, index) => {
        if (!done[index] || row.isStopped) return;
        row.tokens.length = Math.min(row.tokens.length, numSteps);
        stop(row);
      });
    }
  };
  const pump = async (row: Row, request: Omit<GenerateRequest, "signal">): Promise<void> => {
    try {
      for await (const chunk of engine.generate({ ...request, signal: row.abort.signal })) {
        if (row.isStopped) break;
        for (const { id } of chunk.tokens) row.tokens.push(id);
        handOn();
      }
    } catch (error) {
      if (!row.isStopped) fail(error);
    } finally {
      row.isEnded = true;
      if (!failure) attempt(handOn, fail);
    }
  };
  const onAbort = (): void => fail(signal?.reason);
  signal?.addEventListener("abort", onAbort, { once: true });
  const poll = isInterrupted && setInterval(() => isInterrupted() && rows.forEach(stop), INTERRUPT_POLL_MS);
  try {
    await Promise.all(rows.map((row, index) => requests[index] && pump(row, requests[index])));
  } finally {
    clearInterval(poll);
    signal?.removeEventListener("abort", onAbort);
  }
  if (failure) throw failure.error;
  return rows.map(({ tokens }) => tokens);
}

function attempt(work: () => void, onError: (error: unknown) => void): void {
  try {
    work();
  } catch (error) {
    onError(error);
  }
}
