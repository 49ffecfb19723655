// Homes of affinity keys: few keys for each worker, equal loads, and few moves. Rendezvous hashing (Thaler and
// Ravishankar, 1998) with weights: every key orders all workers by a hash of both, so a worker that joins or leaves
// changes the order of no two others.

import { describeValue, numberOption } from "../options.ts";
import type { AffinityKey, Home, Homes } from "./fleet-state.ts";

// Loads are relative to a worker's fair share: its part of all demand by capacity.
/** Load that new homes fill a worker to. */
const TARGET_LOAD = 1.05;
/** Loads above which a worker gives homes away, and below which it is given homes of others. */
const [HIGH_LOAD, LOW_LOAD] = [1.25, 0.6];
/** Smallest part of a split key, as a share of a worker's fair share. */
const LEAST_PART = 0.1;

/** Input of `homesOf`. */
export interface HomesInput {
  /** Work of each key's jobs in any unit, at least 0: see `smoothDemand`. */
  readonly demand: Readonly<Record<AffinityKey, number>>;
  /** Workers that may be homes. */
  readonly members: readonly Member[];
  /** Homes so far, which are kept where loads allow. */
  readonly previous: Homes;
}

// A difference of loads below this share of all demand is rounding.
const ROUNDING = 1e-9;

/**
 * Assigns keys to workers.
 *
 * A key stays at its homes while their loads are between `LOW_LOAD` and `HIGH_LOAD`. If one is not, workers above
 * `TARGET_LOAD` give away what is above it, the smallest keys first, and other homes of the same key or the first
 * workers with room in the key's rendezvous order take it. A key whose demand exceeds a worker's room is split, so a
 * hot key has several homes; cold ones share a worker.
 *
 * @returns homes of every key of `demand`; no homes if there are no members. Loads are at most `HIGH_LOAD`, except by
 *   parts of at most `LEAST_PART`
 * @throws {TypeError | RangeError} naming what is wrong
 */
export function homesOf({ demand, members, previous }: HomesInput): Homes {
  checkInput(demand, members);
  if (members.length === 0) return { byKey: {} };
  const keys = Object.keys(demand).toSorted((a, b) => (demand[b] ?? 0) - (demand[a] ?? 0) || (a < b ? -1 : 1));
  // Workers that compute homes of the same state have to agree to the last bit.
  const parts = new Parts(keys, { demand, members: members.toSorted((a, b) => (a.id < b.id ? -1 : 1)) });
  for (const key of keys) parts.keep(key, previous.byKey[key] ?? []);
  const loads = members.map(({ id }) => parts.loadOf(id));
  const isEven = Math.max(...loads) <= HIGH_LOAD && Math.min(...loads) >= LOW_LOAD;
  if (!isEven) for (const key of keys.toReversed()) parts.shed(key);
  for (const key of keys) parts.place(key);
  return { byKey: Object.fromEntries(keys.map((key) => [key, parts.homesOf(key)])) };
}

/** Counts pairs of a key and a worker that are in `after` and not in `before`. */
export function movedHomes(before: Homes, after: Homes): number {
  let moved = 0;
  for (const [key, homes] of Object.entries(after.byKey)) {
    const known = new Set((before.byKey[key] ?? []).map(({ workerId }) => workerId));
    moved += homes.filter(({ workerId }) => !known.has(workerId)).length;
  }
  return moved;
}

/**
 * Adds the work of new jobs to smoothed demand: a mean over time whose weights halve every `halfLifeMs`.
 *
 * @param previous - demand of each key, in work per ms; empty at first
 * @param work - work of each key's jobs that arrived within `elapsedMs`
 */
export function smoothDemand(
  previous: Readonly<Record<AffinityKey, number>>,
  work: Readonly<Record<AffinityKey, number>>,
  { elapsedMs, halfLifeMs }: { readonly elapsedMs: number; readonly halfLifeMs: number },
): Readonly<Record<AffinityKey, number>> {
  if (!(elapsedMs > 0)) return previous;
  const kept = 2 ** (-elapsedMs / halfLifeMs);
  const keys = new Set([...Object.keys(previous), ...Object.keys(work)]);
  return Object.fromEntries(
    Array.from(keys, (key) => [key, kept * (previous[key] ?? 0) + (1 - kept) * ((work[key] ?? 0) / elapsedMs)]),
  );
}

/** Demand by key and worker while homes are computed. */
class Parts {
  readonly #demand: Readonly<Record<AffinityKey, number>>;
  readonly #members: readonly Member[];
  readonly #total: number;
  readonly #capacity: number;
  readonly #loads = new Map<string, number>();
  readonly #byKey = new Map<AffinityKey, Map<string, number>>();

  constructor(keys: readonly AffinityKey[], { demand, members }: Pick<HomesInput, "demand" | "members">) {
    this.#demand = demand;
    this.#members = members;
    this.#total = keys.reduce((sum, key) => sum + (demand[key] ?? 0), 0);
    this.#capacity = members.reduce((sum, { capacity }) => sum + capacity, 0);
  }

  /** Returns a worker's load relative to its fair share. */
  loadOf(id: string): number {
    const fair = this.#fairOf(id);
    return fair > 0 ? (this.#loads.get(id) ?? 0) / fair : 1;
  }

  /** Assigns a key to those of its previous homes that are members, by their shares. */
  keep(key: AffinityKey, homes: readonly Home[]): void {
    const demand = this.#demand[key] ?? 0;
    const alive = homes.filter(({ workerId }) => this.#members.some(({ id }) => id === workerId));
    for (const { workerId, share } of alive) this.#add(key, workerId, demand * share);
  }

  /** Takes a key's demand from workers above `TARGET_LOAD`, but leaves no part smaller than `LEAST_PART`. */
  shed(key: AffinityKey): void {
    for (const [id, part] of this.#partsOf(key)) {
      const excess = (this.loadOf(id) - TARGET_LOAD) * this.#fairOf(id);
      if (excess <= ROUNDING * this.#total) continue;
      const isAll = part - excess < LEAST_PART * this.#fairOf(id);
      // A worker's only key stays, in part, whatever its load.
      if (isAll && part >= (this.#loads.get(id) ?? 0) * (1 - ROUNDING)) continue;
      // A small key is given away if what its worker keeps is nearer to the target than with it.
      if (isAll && part > 2 * excess) continue;
      this.#add(key, id, isAll ? -part : -excess);
      if (isAll) this.#partsOf(key).delete(id);
    }
  }

  /** Assigns what is left of a key: to its homes with room, then to the first workers in its rendezvous order. */
  place(key: AffinityKey): void {
    const parts = this.#partsOf(key);
    let left = (this.#demand[key] ?? 0) - Array.from(parts.values()).reduce((sum, part) => sum + part, 0);
    if (left <= ROUNDING * this.#total && parts.size > 0) return;
    const order = rendezvousOrder(key, this.#members).map(({ id }) => id);
    const [own, others] = [order.filter((id) => parts.has(id)), order.filter((id) => !parts.has(id))];
    for (const id of [...own, ...others]) {
      const room = (TARGET_LOAD - this.loadOf(id)) * this.#fairOf(id);
      const least = LEAST_PART * this.#fairOf(id);
      if (left > room && (room < least || (left - room < least && !parts.has(id)))) continue;
      const part = Math.min(left, room);
      this.#add(key, id, part);
      left -= part;
      if (left <= ROUNDING * this.#total) return;
    }
    // A job that no worker has enough room for goes in small parts to the workers with the lowest loads.
    while (left > ROUNDING * this.#total || parts.size === 0) {
      const [lowest = ""] = order.toSorted((a, b) => this.loadOf(a) - this.loadOf(b));
      const room = Math.max(LEAST_PART, TARGET_LOAD - this.loadOf(lowest)) * this.#fairOf(lowest);
      const part = room > 0 ? Math.min(left, room) : left;
      this.#add(key, lowest, part);
      left -= part;
    }
  }

  homesOf(key: AffinityKey): readonly Home[] {
    const parts = Array.from(this.#partsOf(key));
    const sum = parts.reduce((total, [, part]) => total + part, 0);
    const homes = parts.map(([workerId, part]) => ({ workerId, share: sum > 0 ? part / sum : 1 / parts.length }));
    return homes.toSorted((a, b) => b.share - a.share || (a.workerId < b.workerId ? -1 : 1));
  }

  #fairOf(id: string): number {
    const capacity = this.#members.find((member) => member.id === id)?.capacity ?? 0;
    return (this.#total * capacity) / this.#capacity;
  }

  #partsOf(key: AffinityKey): Map<string, number> {
    const known = this.#byKey.get(key);
    if (known) return known;
    const parts = new Map<string, number>();
    this.#byKey.set(key, parts);
    return parts;
  }

  #add(key: AffinityKey, id: string, part: number): void {
    const parts = this.#partsOf(key);
    parts.set(id, (parts.get(id) ?? 0) + part);
    this.#loads.set(id, (this.#loads.get(id) ?? 0) + part);
  }
}

function checkInput(demand: Readonly<Record<AffinityKey, number>>, members: readonly Member[]): void {
  for (const [key, value] of Object.entries(demand)) numberOption(`demand of ${key}`, value, 0, Number.MAX_VALUE);
  for (const { id, capacity } of members) {
    if (capacity > 0 && capacity < Infinity) continue;
    throw new RangeError(`Expected \`capacity\` of worker ${id} to be above 0, got ${describeValue(capacity)}`);
  }
}

/** A worker that keys can be assigned to. */
export interface Member {
  readonly id: string;
  /** Speed in any unit, above 0, the same for all members. */
  readonly capacity: number;
}

/** Orders members for a key. A member is first for a part of all keys that is proportional to its capacity. */
export function rendezvousOrder(key: string, members: readonly Member[]): readonly Member[] {
  const scored = members.map((member) => ({
    member,
    // The largest of these is the first event of Poisson processes whose rates are the capacities.
    score: -member.capacity / Math.log(uniformHash(`${key}\n${member.id}`)),
  }));
  return scored
    .toSorted((a, b) => b.score - a.score || (a.member.id < b.member.id ? -1 : 1))
    .map(({ member }) => member);
}

/** Hashes a text to a number between 0 and 1, both excluded (FNV-1a with the last mixing of MurmurHash3). */
function uniformHash(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (((hash ^ (hash >>> 16)) >>> 0) + 0.5) / 2 ** 32;
}
