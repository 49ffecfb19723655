// Time of the event loop that each client takes: whoever sends what takes long to read waits in proportion before more is read.

import { LIMITS } from "../limits.ts";

/** Work that is so short is nobody's concern. */
const FREE_MS = 5;
/** What parsing and checking takes, about. */
const MS_PER_BYTE = 12 / 2 ** 20;

/** When clients' next bodies may be read. Times in ms of any one clock. */
export class Paces {
  readonly #share: number;
  /** Of clients that have to wait, when their wait ends. */
  readonly #readyMs = new Map<string, number>();

  /** @param share - the part of the time that one client may take, above 0 and at most 1 */
  constructor(share: number = LIMITS.loopShare.value) {
    this.#share = share;
  }

  /** How long a client's next body has to wait; 0 for most. */
  waitMs(client: string, nowMs: number): number {
    return Math.max(0, (this.#readyMs.get(client) ?? 0) - nowMs);
  }

  /**
   * Begins to read a body, whose time is counted by its length at first, so that bodies that come together take turns.
   * @returns counts what it really took, when it is read
   */
  begin(client: string, bytes: number, nowMs: number): (durationMs: number, nowMs: number) => void {
    const expectedMs = bytes * MS_PER_BYTE;
    this.#spend(client, expectedMs, nowMs);
    return (durationMs, endMs) => this.#spend(client, durationMs - expectedMs, endMs);
  }

  #spend(client: string, durationMs: number, nowMs: number): void {
    if (durationMs <= FREE_MS) return;
    const startMs = Math.max(nowMs, this.#readyMs.get(client) ?? 0);
    this.#readyMs.set(client, startMs + durationMs * (1 / this.#share - 1));
    for (const [other, readyMs] of this.#readyMs) if (readyMs <= nowMs) this.#readyMs.delete(other);
  }
}
