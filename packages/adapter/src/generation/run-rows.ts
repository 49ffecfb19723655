// Several rows of one call, each a sequence of its own to the engine, which runs them together with everybody else's. To
// the caller's hooks they go in step, as the hosts run them: a step is handed on when every row that is not done has its token.

import type { Engine, GenerateRequest } from "@readme-moe/core";

export interface RowHooks {
  /**
   * @param tokens - of each row; `undefined` of rows that are done
   * @returns which rows end here; what it throws ends the call
   */
  readonly onStep?: ((tokens: readonly (number | undefined)[]) => readonly boolean[]) | undefined;
  /** Asked again and again, also while nothing has come yet. */
  readonly isInterrupted?: (() => boolean) | undefined;
}

export type RowRequest = Omit<GenerateRequest, "signal">;

const INTERRUPT_POLL_MS = 20;

/**
 * @param requests - one for each row; `undefined` for rows that get nothing
 * @returns the tokens of each row
 * @throws what the engine, a hook or `signal` throws; then no row goes on
 */
export async function runRows(
  engine: Pick<Engine, "generate">,
  requests: readonly (RowRequest | undefined)[],
  { onStep, isInterrupted }: RowHooks,
  signal?: AbortSignal,
): Promise<readonly (readonly number[])[]> {
  signal?.throwIfAborted();
  const group = new RowGroup(requests.length, onStep);
  const onAbort = (): void => group.fail(signal?.reason);
  signal?.addEventListener("abort", onAbort, { once: true });
  const poll = isInterrupted && setInterval(() => isInterrupted() && group.stop(), INTERRUPT_POLL_MS);
  try {
    await Promise.all(requests.map((request, index) => group.run(index, engine, request)));
  } finally {
    clearInterval(poll);
    signal?.removeEventListener("abort", onAbort);
  }
  return group.tokens();
}

interface Row {
  readonly tokens: number[];
  readonly abort: AbortController;
  /** The engine has no more for it. */
  isEnded: boolean;
  /** Nobody wants more. */
  isStopped: boolean;
}

class RowGroup {
  readonly #rows: readonly Row[];
  readonly #onStep: RowHooks["onStep"];
  /** Handed on. */
  #numSteps = 0;
  #failure: { readonly error: unknown } | undefined;

  constructor(size: number, onStep: RowHooks["onStep"]) {
    this.#rows = Array.from({ length: size }, () => ({
      tokens: [],
      abort: new AbortController(),
      isEnded: false,
      isStopped: false,
    }));
    this.#onStep = onStep;
  }

  async run(index: number, engine: Pick<Engine, "generate">, request: RowRequest | undefined): Promise<void> {
    const row = this.#rows[index] as Row;
    try {
      if (request) {
        for await (const chunk of engine.generate({ ...request, signal: row.abort.signal })) {
          if (row.isStopped) break;
          for (const { id } of chunk.tokens) row.tokens.push(id);
          this.#handOn();
        }
      }
      row.isEnded = true;
      this.#handOn();
    } catch (error) {
      if (!row.isStopped) this.fail(error);
    } finally {
      row.isEnded = true;
    }
  }

  stop(): void {
    this.#rows.forEach(stopRow);
  }

  fail(error: unknown): void {
    this.#failure ??= { error };
    this.stop();
  }

  /** @throws what the group failed of */
  tokens(): readonly (readonly number[])[] {
    if (this.#failure) throw this.#failure.error;
    return this.#rows.map(({ tokens }) => tokens);
  }

  #handOn(): void {
    while (this.#onStep) {
      const live = this.#rows.filter((row) => this.#isLive(row));
      if (live.length === 0 || live.some(({ tokens }) => tokens.length <= this.#numSteps)) return;
      const tokens = this.#rows.map((row) => (this.#isLive(row) ? row.tokens[this.#numSteps] : undefined));
      this.#numSteps++;
      const done = this.#onStep(tokens);
      for (const [index, row] of this.#rows.entries()) {
        if (!done[index] || row.isStopped) continue;
        row.tokens.length = Math.min(row.tokens.length, this.#numSteps);
        stopRow(row);
      }
    }
  }

  #isLive(row: Row): boolean {
    return !row.isStopped && !(row.isEnded && row.tokens.length <= this.#numSteps);
  }
}

function stopRow(row: Row): void {
  row.isStopped = true;
  row.abort.abort();
}
