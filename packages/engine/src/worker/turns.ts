// Turns of the event loop between the parts of long work, in which arrived messages are received.

import { setImmediate as nextTurn } from "node:timers/promises";

/** Gives the event loop turns for at least `durationMs`. */
export async function turnsFor(durationMs: number): Promise<void> {
  const endMs = performance.now() + durationMs;
  // oxlint-disable-next-line no-await-in-loop -- each turn advances other work
  while (performance.now() < endMs) await nextTurn();
}
