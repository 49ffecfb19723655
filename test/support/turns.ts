// Turns of the event loop.

import { onTestFinished } from "vitest";

/** Counts turns until the test ends. @returns a function that returns the number of the current turn */
export function countTurns(): () => number {
  let turn = 0;
  let next = setImmediate(function count() {
    turn++;
    next = setImmediate(count);
  });
  onTestFinished(() => clearImmediate(next));
  return () => turn;
}
