// The hostile client's process: its own work must not delay those that watch.

import { setMaxListeners } from "node:events";
import { randomInteger, seededRandom } from "../../test/support/random.ts";
import { ATTACKS, type Attack } from "./attacks.ts";
import type { Target } from "./hostile-http.ts";

/** Attacks to run, and for how long. */
export interface Order {
  readonly target: Target;
  /** Indices into `ATTACKS`. Several are mixed at random. */
  readonly attacks: readonly number[];
  readonly seconds: number;
  readonly seed: number;
}

/** Attacks that are mixed run so many at once. */
const MIXED_AT_ONCE = 3;

process.on("message", (order: Order) => {
  void attack(order).then(() => process.send?.("done"));
});

async function attack({ target, attacks, seconds, seed }: Order): Promise<void> {
  const signal = AbortSignal.timeout(seconds * 1000);
  setMaxListeners(Infinity, signal);
  const random = seededRandom(seed);
  const goOn = async (): Promise<void> => {
    while (!signal.aborted) {
      const { round } = ATTACKS[attacks[randomInteger(random, attacks.length)] as number] as Attack;
      await round(target, signal);
    }
  };
  await Promise.all(Array.from({ length: attacks.length > 1 ? MIXED_AT_ONCE : 1 }, goOn));
}
