// Shares the time of the event loop: a client whose bodies take long to read waits in proportion before its next one is read.

import { LIMITS } from "../limits.ts";

/** Work up to this long is not counted. */
const FREE_MS = 5;
/** Estimated time to parse and check a body. */
const MS_PER_BYTE = 12 / 2 ** 20;

/** When clients' next bodies may be read. Times in ms of any one clock. */
export class Paces {
  readonly #share: number;
  /** The end of each waiting client's wait, by client. */
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
