// Shares an engine's memory and time among clients. Nothing changes where sequences name no client.

import { predictStepMs, type CostModel } from "./cost-model.ts";
import { byPriorityThenArrival, type SchedulableSequence } from "./scheduler.ts";

/** The owner of a sequence. Sequences without one count as one client's. */
export interface Owned {
  readonly client?: string | undefined;
}

/** Milliseconds of steps that each client has had, of those that had sequences at the last look. */
export type ClientTimes = ReadonlyMap<string | undefined, number>;

/** The part of an engine's places that one client may hold, where others may come. */
const PLACE_SHARE = 7 / 8;

/** Sequences of one client that may hold memory at once; sequences of nobody in particular may hold all. */
function placesOf(client: string | undefined, maxNumSeqs: number): number {
  return client === undefined ? maxNumSeqs : Math.ceil(maxNumSeqs * PLACE_SHARE);
}

/**
 * Chooses who is admitted next: the first in order whose client has fewer places than it may have. Of equal priority, clients with
 * fewer places go first.
 *
 * @param waiting - in order of priority, then of arrival
 * @param running - sequences that hold places
 * @returns an index of `waiting`, or -1 when everybody's client has its places
 */
export function nextAdmitted(
  waiting: readonly (Owned & Pick<SchedulableSequence, "priority">)[],
  running: Iterable<Owned>,
  maxNumSeqs: number,
): number {
  const places = countBy(running, () => 1);
  let best = -1;
  for (const [index, { client, priority }] of waiting.entries()) {
    const chosen = waiting[best];
    if (chosen && priority < chosen.priority) break;
    const own = places.get(client) ?? 0;
    if (own >= placesOf(client, maxNumSeqs)) continue;
    if (!chosen || own < (places.get(chosen.client) ?? 0)) best = index;
  }
  return best;
}

/**
 * Chooses who gives way when memory is full: of the least priority, the last that came of the client with most tokens.
 *
 * @param running - at least one
 */
export function nextPreempted<Sequence extends Owned & SchedulableSequence>(running: Iterable<Sequence>): Sequence {
  const all = Array.from(running);
  const least = Math.min(...all.map(({ priority }) => priority));
  const tokens = countBy(all, ({ numTokens }) => numTokens);
  const most = (one: Sequence): number => tokens.get(one.client) ?? 0;
  const candidates = all.filter(({ priority }) => priority === least);
  candidates.sort((a, b) => most(b) - most(a) || byPriorityThenArrival(b, a));
  return candidates[0] as Sequence;
}

/**
 * Sequences that may be in the next step: those of clients that have had about as little time as any other that could run. So a
 * client with few sequences is slowed by the number of clients, and not by how many sequences the others have.
 *
 * @param cost - a client may be ahead by what a step of one token takes, so that clients with equal needs share their steps
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
 * Charges each client of a step what its part would have taken alone.
 *
 * @param present - everybody that could run; clients that were not there before begin with the least time of the others
 * @param batch - who ran
 */
export function chargeClients(
  times: ClientTimes,
  present: readonly Owned[],
  batch: readonly { readonly sequence: Owned & SchedulableSequence; readonly numTokens: number }[],
  cost: CostModel,
): ClientTimes {
  const clients = new Set(present.map(({ client }) => client));
  if (clients.size < 2) return NO_TIMES;
  const least = leastOf(clients, times);
  return new Map(
    Array.from(clients, (client) => {
      const own = batch.filter(({ sequence }) => sequence.client === client);
      // Differences are what counts, so that sums stay small for ever.
      const before = (times.get(client) ?? least) - least;
      return [client, own.length === 0 ? before : before + aloneMs(own, cost)] as const;
    }),
  );
}

/** Nobody has had any time. */
export const NO_TIMES: ClientTimes = new Map();

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

function firstOf(experts: ArrayLike<number>, count: number): readonly number[] {
  return Array.from({ length: Math.min(count, experts.length) }, (_, index) => experts[index] as number);
}

/** The least time of clients that have one; 0 where none has. */
function leastOf(clients: Iterable<string | undefined>, times: ClientTimes): number {
  const known = Array.from(clients, (client) => times.get(client)).filter((time) => time !== undefined);
  return known.length === 0 ? 0 : Math.min(...known);
}

function countBy<One extends Owned>(all: Iterable<One>, amount: (one: One) => number): Map<string | undefined, number> {
  const counts = new Map<string | undefined, number>();
  for (const one of all) counts.set(one.client, (counts.get(one.client) ?? 0) + amount(one));
  return counts;
}
