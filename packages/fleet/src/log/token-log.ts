// A request's log in Valkey, from the sides that write and read it.

import { requestIdOf } from "../job.ts";
import { CANCEL_CHANNEL, FRONT_PREFIX, jobOfKey, requestKeys } from "../keys.ts";
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

/** Entries to append to the log of one request. */
export interface Append {
  readonly requestId: string;
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

/** Appends entries to several logs in one command, each at its place. Entries that are there already are compared. */
export async function appendEntries(
  redis: ScriptedRedis,
  appends: readonly Append[],
): Promise<readonly AppendOutcome[]> {
  const keys: string[] = [];
  const args: (string | number)[] = [FRONT_PREFIX];
  for (const { requestId, owner, place, entries, isEnd } of appends) {
    const { log, meta } = requestKeys(requestId);
    keys.push(log, meta, jobOfKey(requestIdOf(requestId)));
    args.push(requestId, owner.epoch, owner.workerId, place, isEnd ? ENDED_TTL_MS : RUNNING_TTL_MS);
    args.push(isEnd ? 1 : 0, entries.length, ...entries);
  }
  const replies = await redis.fleetAppend(keys.length, ...keys, ...args);
  return (replies as readonly (readonly [number, number])[]).map(outcomeOf);
}

function outcomeOf([outcome, last]: readonly [number, number]): AppendOutcome {
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

/** Message for a front: a new entry of an answer that it follows, or the name of another reader of the answer. */
export type News = { readonly jobId: string } & (
  | { readonly place: number; readonly entry: string }
  | { readonly reader: string }
);

/** Splits a message for a front. Lines that nobody writes are left out. */
export function readNews(message: string): readonly News[] {
  return message.split("\n").flatMap((line): News | readonly [] => {
    const first = line.indexOf(" ");
    const second = line.indexOf(" ", first + 1);
    if (first < 0 || second < 0) return [];
    const [jobId, what, rest] = [line.slice(0, first), line.slice(first + 1, second), line.slice(second + 1)];
    if (what === "reader") return { jobId, reader: rest };
    const place = Number(what);
    return Number.isSafeInteger(place) && place > 0 ? { jobId, place, entry: rest } : [];
  });
}

/**
 * Cancels a request: its worker ends it within a step, and no other begins it.
 *
 * @param reader - reader of the request that leaves
 * @returns whether it is cancelled; not if another reader follows it
 */
export async function cancelRequest(redis: ScriptedRedis, requestId: string, reader: string): Promise<boolean> {
  const { meta } = requestKeys(requestId);
  const job = jobOfKey(requestIdOf(requestId));
  return (await redis.fleetCancel(meta, job, CANCEL_CHANNEL, requestId, ENDED_TTL_MS, reader)) === 1;
}
