// Process of the hostile client, so that its work does not delay the witnesses.

import { setMaxListeners } from "node:events";
import { randomInteger, seededRandom } from "../../test/support/random.ts";
import { ATTACKS, type Attack } from "./attacks.ts";
import type { Target } from "./hostile-http.ts";

/** Attacks to run, and their duration. */
export interface Order {
  readonly target: Target;
  /** Indices into `ATTACKS`; several are mixed at random. */
  readonly attacks: readonly number[];
  readonly seconds: number;
  readonly seed: number;
}

/** Number of mixed attacks that run concurrently. */
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
  for (const index of attacks) await ATTACKS[index]?.after?.(target);
}
