import { describeValue } from "@readme-moe/core";

/** Who asks for a grammar, and for how long. */
export interface Asker {
  /**
   * Ends the wait: the call rejects with the signal's reason at once, and what nobody else waits for is no longer
   * compiled.
   */
  readonly signal?: AbortSignal | undefined;
  /**
   * Any name of who asks, such as that of an API key. Clients take turns, and one may fill half of `maxWaiting`. A call
   * without a name is a client of its own.
   */
  readonly client?: string | undefined;
}

export const ASKER_NAMES: readonly (keyof Asker)[] = ["signal", "client"];

/** @throws {TypeError} naming the option; the signal's reason where it is aborted */
export function resolveAsker({ signal, client }: Asker): Asker {
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw new TypeError(`Expected \`signal\` to be an AbortSignal, got ${describeValue(signal)}`);
  }
  if (client !== undefined && typeof client !== "string") {
    throw new TypeError(`Expected \`client\` to be a text, got ${describeValue(client)}`);
  }
  signal?.throwIfAborted();
  return { signal, client };
}
