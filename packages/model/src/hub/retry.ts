import type { ReadMeError } from "@readme-moe/core";
import type { Delay } from "./options.ts";

const MAX_ATTEMPTS = 5;
const FIRST_WAIT_MS = 500;
// A server that asks for more is not waited for: the caller can plan better with the error.
const MAX_WAIT_MS = 60_000;

/** A failure that another attempt may not have. */
export class TransientFailure extends Error {
  override readonly name = "TransientFailure";
  /** What the caller gets once attempts have run out. */
  readonly failure: ReadMeError;
  /** What the server asked for. */
  readonly retryAfterMs: number | undefined;
  /** The attempt brought so much that it does not count as failed. */
  readonly isWorthwhile: boolean;

  constructor(failure: ReadMeError, options: { retryAfterMs?: number | undefined; isWorthwhile?: boolean } = {}) {
    super(failure.message, { cause: failure });
    this.failure = failure;
    this.retryAfterMs = options.retryAfterMs;
    this.isWorthwhile = options.isWorthwhile ?? false;
  }
}

/**
 * Attempts again after a `TransientFailure`, up to 5 times in a row, waiting longer each time, or as long as the
 * server asks for. Other errors pass through.
 */
export async function retrying<Result>(
  attempt: () => Promise<Result>,
  { delay, signal }: { readonly delay: Delay; readonly signal: AbortSignal | undefined },
): Promise<Result> {
  for (let numFailures = 0; ;) {
    try {
      return await attempt();
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof TransientFailure)) throw error;
      numFailures = error.isWorthwhile ? 1 : numFailures + 1;
      const waitMs = error.retryAfterMs ?? FIRST_WAIT_MS * 2 ** (numFailures - 1);
      if (numFailures >= MAX_ATTEMPTS || waitMs > MAX_WAIT_MS) throw error.failure;
      await waited(delay(waitMs, signal), signal);
    }
  }
}

/** A timer that is aborted fails with an error of its own; callers get the signal's reason. */
async function waited(timer: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  try {
    await timer;
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  }
}
