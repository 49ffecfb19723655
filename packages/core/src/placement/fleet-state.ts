// Knowledge of several machines when a waiting job is placed. Plain data: a worker knows its own state exactly, and
// that of the others as they published it last.

import type { CostModel } from "../scheduling/cost-model.ts";

/**
 * Key of jobs that are cheaper together: the main expert of the prompt, or a bucket of the hash of its beginning. Jobs
 * with an empty key have no affinity.
 */
export type AffinityKey = string;

/** Returns the key of prompts whose main expert is `expert`. */
export function expertKey(expert: number): AffinityKey {
  return `e${expert}`;
}

/** Returns the key of prompts of a dense model whose first tokens have a hash in bucket `bucket`. */
export function prefixKey(bucket: number): AffinityKey {
  return `p${bucket}`;
}

/** Returns the expert of a key; `undefined` if the key is not of an expert. */
export function expertOfKey(key: AffinityKey): number | undefined {
  return /^e\d+$/.test(key) ? Number(key.slice(1)) : undefined;
}

/** State of a worker: a machine with one engine. All times are of one clock of the fleet. */
export interface WorkerState {
  readonly id: string;
  readonly modelVersion: string;
  /** Time at which the state was true. */
  readonly publishedMs: number;
  /** Number of sequences that hold a place. */
  readonly runningSeqs: number;
  /** Running sequences by the affinity key of their job; keys without a sequence may be absent. */
  readonly runningByKey: Readonly<Record<AffinityKey, number>>;
  /**
   * Running sequences by expert, `[numExperts]`: the sum of the shares of experts in their prompts (`expertShares`).
   * @default `runningByKey` of the experts' keys
   */
  readonly runningByExpert?: ArrayLike<number> | undefined;
  /** Number of further sequences that may run. */
  readonly freeSeqs: number;
  /** Number of further tokens whose keys and values fit. */
  readonly freeKvTokens: number;
  /** Bytes of each expert that are not in memory, by expert; experts beyond the end are in memory. */
  readonly missingBytes: ArrayLike<number>;
  /** Number of experts that fit into memory, also a part of one; `Infinity` if all do. */
  readonly expertPlaces: number;
  /** Affinity keys of prompts whose beginning is in the prefix cache, with its tokens. */
  readonly prefixTokens: Readonly<Record<AffinityKey, number>>;
  /** Coefficients of the worker's steps, as it measured them. */
  readonly cost: CostModel;
  /** Mean time of recent steps; 0 before the first one. */
  readonly stepMs: number;
  /** Mean number of steps that a sequence holds its place; 0 before the first one has ended. */
  readonly stepsPerSeq: number;
  /** Number of jobs taken so far; `choosePull` gives every few of them to jobs that have waited too long. */
  readonly pulls: number;
}

/** The job of a queue that is taken next. */
export interface QueueHead {
  /** Time at which the job was added to the queue. */
  readonly queuedMs: number;
  /** Number of tokens to compute before the first new one: the prompt, and tokens of an answer that goes on. */
  readonly promptTokens: number;
  /** Shares of experts in the prompt's route, `[numExperts]`. @default all tokens have the key's expert */
  readonly expertShares?: ArrayLike<number> | undefined;
  /** Largest number of new tokens, which KV memory is reserved for. */
  readonly maxNewTokens: number;
  /** Time by which the job should have its first token; absent if it has no deadline. */
  readonly deadlineMs?: number | undefined;
}

/** A queue with at least one job. Its jobs have one model version, affinity key and priority, and leave in order. */
export interface QueueState {
  readonly id: string;
  readonly modelVersion: string;
  readonly key: AffinityKey;
  /** Higher priorities go first. */
  readonly priority: number;
  /** Number of jobs, at least 1. */
  readonly waiting: number;
  readonly head: QueueHead;
}

/** Homes of affinity keys: the workers that should run their jobs. */
export interface Homes {
  /** Workers of each key with the share of its jobs, the largest first; shares of a key add up to 1. */
  readonly byKey: Readonly<Record<AffinityKey, readonly Home[]>>;
}

/** A worker's part in the jobs of a key. */
export interface Home {
  readonly workerId: string;
  /** Share of the key's jobs, above 0 to 1. */
  readonly share: number;
}

/** Homes before any were computed. */
export const NO_HOMES: Homes = { byKey: {} };

/** State of the fleet that a decision is made from. */
export interface FleetState {
  readonly nowMs: number;
  /** Published states, at most one of each worker. */
  readonly workers: readonly WorkerState[];
  readonly homes: Homes;
}

/** Reason of a pull: the worker is the best or a home, the job has waited too long, or its homes are behind. */
export type PullReason = "home" | "overdue" | "stolen";

/** Result of `choosePull`. */
export interface PullDecision {
  /** Queue whose next job the worker takes; absent if it takes none now. */
  readonly queueId?: string | undefined;
  readonly reason?: PullReason | undefined;
  /** Time at which the worker should ask again, even if nothing changes; absent if there is no need. */
  readonly askAgainMs?: number | undefined;
}
