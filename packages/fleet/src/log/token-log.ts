// A request's log in Valkey, from the sides that write and read it.

import { requestKeys, CANCEL_CHANNEL } from "../keys.ts";
import { ENDED_TTL_MS, RUNNING_TTL_MS, type ScriptedRedis } from "./scripts.ts";

/** Worker that owns a request. A later owner has a larger epoch. */
interface Owner {
  readonly workerId: string;
  readonly epoch: number;
}

/** A request that a worker has claimed. */
export interface Claim {
  readonly owner: Owner;
  readonly isCancelled: boolean;
  /** Entries that are there. */
  readonly entries: readonly string[];
  /** Time since the request was queued, in ms. */
  readonly sinceQueuedMs: number;
}

/** Makes a worker the owner of a request, and reads what its earlier owners have written. */
export async function claimRequest(redis: ScriptedRedis, requestId: string, workerId: string): Promise<Claim> {
  const { log, meta } = requestKeys(requestId);
  const reply = (await redis.fleetClaim(log, meta, workerId, RUNNING_TTL_MS)) as [number, number, string[], number];
  const [epoch, cancelled, entries, sinceQueuedMs] = reply;
  return { owner: { workerId, epoch }, isCancelled: cancelled === 1, entries, sinceQueuedMs };
}

/** Entries to append. */
export interface Append {
  readonly owner: Owner;
  /** Place of the first entry, from 1. */
  readonly place: number;
  readonly entries: readonly string[];
  /** Whether the last of them ends the answer. */
  readonly isEnd: boolean;
}

/**
 * Outcome of an append. "gap": the log has lost entries, and ends at `last`. "foreign": another worker owns the
 * request. "different": another entry is at the place of one of them.
 */
export type AppendOutcome =
  | { readonly kind: "appended" | "foreign" | "cancelled" | "different" }
  | { readonly kind: "gap"; readonly last: number };

/** Appends entries, each at its place. Entries that are there already are compared. */
export async function appendEntries(
  redis: ScriptedRedis,
  requestId: string,
  { owner, place, entries, isEnd }: Append,
): Promise<AppendOutcome> {
  const { log, meta, channel } = requestKeys(requestId);
  const ttlMs = isEnd ? ENDED_TTL_MS : RUNNING_TTL_MS;
  const args = [owner.epoch, owner.workerId, place, channel, ttlMs, ...entries];
  const [outcome, last] = (await redis.fleetAppend(log, meta, ...args)) as [number, number];
  switch (outcome) {
    case 1:
      return { kind: "appended" };
    case 0:
      return { kind: "gap", last };
    case -1:
      return { kind: "foreign" };
    case -2:
      return { kind: "cancelled" };
    default:
      return { kind: "different" };
  }
}

/** Reads the entries behind a place, at most 1,000, with their places. */
export async function readEntries(
  redis: ScriptedRedis,
  requestId: string,
  after: number,
): Promise<readonly (readonly [place: number, entry: string])[]> {
  const { log } = requestKeys(requestId);
  const found = await redis.xrange(log, `${after + 1}-0`, "+", "COUNT", 1000);
  return found.map(([id, fields]) => [Number.parseInt(id, 10), fields[1] ?? ""]);
}

/** Splits a published message into place and entry; nothing for what no worker publishes. */
export function readMessage(message: string): readonly [place: number, entry: string] | undefined {
  const space = message.indexOf(" ");
  const place = Number(message.slice(0, space));
  return space > 0 && Number.isSafeInteger(place) && place > 0 ? [place, message.slice(space + 1)] : undefined;
}

/**
 * Cancels a request: its worker ends it within a step, and no other begins it.
 *
 * @param reader - reader of the request that leaves
 * @returns whether it is cancelled; not if another reader follows it
 */
export async function cancelRequest(redis: ScriptedRedis, requestId: string, reader: string): Promise<boolean> {
  const { meta } = requestKeys(requestId);
  return (await redis.fleetCancel(meta, CANCEL_CHANNEL, requestId, ENDED_TTL_MS, reader)) === 1;
}
