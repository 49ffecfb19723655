// Work of which one piece runs at a time.

import { onceAborted } from "@readme-moe/core";

/** Runs one piece of work at a time. Clients whose work waits take turns. */
export class ClientTurns {
  /** Functions that begin waiting work, by client. */
  readonly #waiting = new Map<string, Set<() => void>>();
  /** Client whose work runs. */
  #current: string | undefined;

  /**
   * Runs work when it is the client's turn.
   *
   * @throws the reason of `signal` if it aborts before the work has begun
   */
  async run<Result>(client: string, signal: AbortSignal, work: () => Promise<Result>): Promise<Result> {
    signal.throwIfAborted();
    if (this.#current === undefined) this.#current = client;
    else await this.#turn(client, signal);
    try {
      return await work();
    } finally {
      this.#pass();
    }
  }

  #turn(client: string, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const own = this.#waiting.get(client) ?? new Set();
      this.#waiting.set(client, own);
      const begin = (): void => {
        leave();
        resolve();
      };
      const leave = (): void => {
        detach();
        own.delete(begin);
        if (own.size === 0) this.#waiting.delete(client);
      };
      own.add(begin);
      const detach = onceAborted(signal, () => {
        leave();
        reject(signal.reason);
      });
    });
  }

  /** Passes the turn to the client that has waited longest, and not to the same one while another waits. */
  #pass(): void {
    const clients = [...this.#waiting.keys()];
    const client = clients.find((one) => one !== this.#current) ?? clients[0];
    this.#current = client;
    if (client === undefined) return;
    const own = this.#waiting.get(client) ?? new Set();
    const [begin] = own;
    // The client's further work waits behind that of the others.
    this.#waiting.delete(client);
    this.#waiting.set(client, own);
    begin?.();
  }
}
