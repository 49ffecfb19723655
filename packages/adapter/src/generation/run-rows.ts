// Runs the rows of one call as sequences of the engine, which batches them with all others. The caller's hooks see the
// rows in step, as in the hosts: a step is passed on when every row that is not done has its token.

import type { Engine, GenerateRequest } from "@readme-moe/core";

export interface RowHooks {
  /**
   * Receives a step. An error that it throws ends the call.
   * @param tokens - one for each row; `undefined` for rows that are done
   * @returns whether each row ends here
   */
  readonly onStep?: ((tokens: readonly (number | undefined)[]) => readonly boolean[]) | undefined;
  /** Called again and again, also before the first token. */
  readonly isInterrupted?: (() => boolean) | undefined;
}

export type RowRequest = Omit<GenerateRequest, "signal">;

const INTERRUPT_POLL_MS = 20;

/**
 * @param requests - one for each row; `undefined` for rows without new tokens
 * @returns the tokens of each row
 * @throws errors of the engine, of a hook or of `signal`; all rows have been stopped then
 */
export async function runRows(
  engine: Pick<Engine, "generate">,
  requests: readonly (RowRequest | undefined)[],
  { onStep, isInterrupted }: RowHooks,
  signal?: AbortSignal,
): Promise<readonly (readonly number[])[]> {
  signal?.throwIfAborted();
  const group = new RowGroup(requests, onStep);
  const onAbort = (): void => group.fail(signal?.reason);
  signal?.addEventListener("abort", onAbort, { once: true });
  const poll = isInterrupted && setInterval(() => isInterrupted() && group.stop(), INTERRUPT_POLL_MS);
  try {
    await group.run(engine);
  } finally {
    clearInterval(poll);
    signal?.removeEventListener("abort", onAbort);
  }
  return group.tokens();
}

interface Row {
  readonly request: RowRequest | undefined;
  readonly tokens: number[];
  readonly abort: AbortController;
  /** Whether the engine has no more tokens for the row. */
  isEnded: boolean;
  /** Whether a hook, an interrupt or a failure has ended the row. */
  isStopped: boolean;
}

class RowGroup {
  readonly #rows: readonly Row[];
  readonly #onStep: RowHooks["onStep"];
  /** Number of steps that were passed on. */
  #numSteps = 0;
  #failure: { readonly error: unknown } | undefined;

  constructor(requests: readonly (RowRequest | undefined)[], onStep: RowHooks["onStep"]) {
    this.#rows = requests.map((request) => ({
      request,
      tokens: [],
      abort: new AbortController(),
      isEnded: false,
      isStopped: false,
    }));
    this.#onStep = onStep;
  }

  async run(engine: Pick<Engine, "generate">): Promise<void> {
    await Promise.all(this.#rows.map((row) => this.#runRow(row, engine)));
  }

  async #runRow(row: Row, engine: Pick<Engine, "generate">): Promise<void> {
    try {
      if (row.request) {
        for await (const chunk of engine.generate({ ...row.request, signal: row.abort.signal })) {
          if (row.isStopped) break;
          for (const { id } of chunk.tokens) row.tokens.push(id);
          this.#passOn();
        }
      }
      row.isEnded = true;
      this.#passOn();
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

  /** @throws the error that the group failed with */
  tokens(): readonly (readonly number[])[] {
    if (this.#failure) throw this.#failure.error;
    return this.#rows.map(({ tokens }) => tokens);
  }

  /** Calls the hook for each step that is complete. */
  #passOn(): void {
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
