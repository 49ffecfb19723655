// Fair shares of an engine's memory and time among clients. If no sequence names a client, nothing changes.

import { predictStepMs, type CostModel } from "./cost-model.ts";
import { byPriorityThenArrival, firstOf, type SchedulableSequence } from "./scheduler.ts";

/** The owner of a sequence. All sequences without a client count as one client's. */
export interface Owned {
  readonly client?: string | undefined;
}

/** Milliseconds of steps charged to each client that had ready sequences in the last step. */
export type ClientTimes = ReadonlyMap<string | undefined, number>;

/** Client times before any step. */
export const NO_TIMES: ClientTimes = new Map();

/** Share of the engine's places that one named client may hold. */
const PLACE_SHARE = 7 / 8;

/**
 * Chooses the sequence that is admitted next: of the highest waiting priority, the first sequence of the client that
 * holds the fewest places, without clients that hold as many as they may.
 *
 * @param waiting - in order of priority, then of arrival
 * @param running - sequences that hold places
 * @returns an index into `waiting`, or -1 if the client of each waiting sequence holds all its places
 */
export function nextAdmitted(
  waiting: readonly (Owned & Pick<SchedulableSequence, "priority">)[],
  running: Iterable<Owned>,
  maxNumSeqs: number,
): number {
  const places = sumByClient(running, () => 1);
  let best = -1;
  for (const [index, { client, priority }] of waiting.entries()) {
    const chosen = waiting[best];
    if (chosen && priority < chosen.priority) break;
    const own = places.get(client) ?? 0;
    if (own >= (client === undefined ? maxNumSeqs : Math.ceil(maxNumSeqs * PLACE_SHARE))) continue;
    if (!chosen || own < (places.get(chosen.client) ?? 0)) best = index;
  }
  return best;
}

/**
 * Chooses the sequence that is preempted when memory is full: of the lowest priority, the last arrival of the client
 * with the most tokens.
 *
 * @throws {RangeError} if nothing runs
 */
export function nextPreempted<Sequence extends Owned & SchedulableSequence>(running: Iterable<Sequence>): Sequence {
  const all = Array.from(running);
  const lowest = Math.min(...all.map(({ priority }) => priority));
  const tokens = sumByClient(all, ({ numTokens }) => numTokens);
  const tokensOf = ({ client }: Sequence): number => tokens.get(client) ?? 0;
  const [first] = all
    .filter(({ priority }) => priority === lowest)
    .toSorted((a, b) => tokensOf(b) - tokensOf(a) || byPriorityThenArrival(b, a));
  if (first) return first;
  throw new RangeError("Expected a running sequence to preempt, got none");
}

/**
 * Selects the sequences that may be in the next step: those of clients whose time is close to the least time of any
 * ready client. A client with few sequences is therefore slowed by the number of clients, not by how many sequences
 * the others have.
 *
 * @param cost - a client may be ahead by the time of a step of one token, so that clients with equal needs share steps
 */
export function fairlyRunnable<Sequence extends Owned>(
  sequences: readonly Sequence[],
  times: ClientTimes,
  cost: CostModel,
): readonly Sequence[] {
  const clients = new Set(sequences.map(({ client }) => client));
  if (clients.size < 2) return sequences;
  const least = leastOf(clients, times);
  const mostMs = least + predictStepMs(cost, { tokens: 1, distinctExperts: 1, cachedTokens: 0, missingBytes: 0 });
  return sequences.filter(({ client }) => (times.get(client) ?? least) <= mostMs);
}

/**
 * Charges each client in a step the time that its part would have taken alone.
 *
 * @param ready - all sequences that could have run; a new client begins with the least time of the others
 * @param batch - the sequences that run
 */
export function chargeClients(
  times: ClientTimes,
  ready: readonly Owned[],
  batch: readonly { readonly sequence: Owned & SchedulableSequence; readonly numTokens: number }[],
  cost: CostModel,
): ClientTimes {
  const clients = new Set(ready.map(({ client }) => client));
  if (clients.size < 2) return NO_TIMES;
  const least = leastOf(clients, times);
  return new Map(
    Array.from(clients, (client) => {
      const own = batch.filter(({ sequence }) => sequence.client === client);
      // Only differences matter, so subtracting the least keeps the sums small.
      const before = (times.get(client) ?? least) - least;
      return [client, own.length === 0 ? before : before + aloneMs(own, cost)] as const;
    }),
  );
}

function aloneMs(
  items: readonly { readonly sequence: SchedulableSequence; readonly numTokens: number }[],
  cost: CostModel,
): number {
  const experts = new Set(items.flatMap(({ sequence, numTokens }) => firstOf(sequence.nextExperts, numTokens)));
  return predictStepMs(cost, {
    tokens: items.reduce((sum, { numTokens }) => sum + numTokens, 0),
    distinctExperts: experts.size,
    cachedTokens: items.reduce((sum, { sequence }) => sum + sequence.numComputedTokens, 0),
    missingBytes: 0,
  });
}

/** Finds the least time of the clients that have one; 0 if none has. */
function leastOf(clients: Iterable<string | undefined>, times: ClientTimes): number {
  const known = Array.from(clients, (client) => times.get(client)).filter((time) => time !== undefined);
  return known.length === 0 ? 0 : Math.min(...known);
}

function sumByClient<One extends Owned>(
  all: Iterable<One>,
  amount: (one: One) => number,
): Map<string | undefined, number> {
  const sums = new Map<string | undefined, number>();
  for (const one of all) sums.set(one.client, (sums.get(one.client) ?? 0) + amount(one));
  return sums;
}
