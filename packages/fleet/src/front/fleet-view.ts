// View of the fleet from a front: published states of workers, and lengths of queues, read twice a second.

import { admitJob, type Admission } from "@readme-moe/core";
import type { ScriptedRedis } from "../log/scripts.ts";
import { waitingKeysOf } from "../queue/job-queues.ts";
import { peekQueues, type PeekedQueues } from "../queue/peek.ts";
import { readWorkers, type PublishedWorker } from "../worker/state.ts";
import { chooseVersion } from "./choose-version.ts";

/** Fleet at a time. */
export interface FleetSnapshot extends PeekedQueues {
  /** Workers of the version that new requests go to. */
  readonly workers: readonly PublishedWorker[];
  /** Model version that new requests go to; nothing while no worker takes jobs. */
  readonly modelVersion: string | undefined;
}

const REFRESH_MS = 500;
const NOTHING: FleetSnapshot = { nowMs: 0, queues: [], workers: [], modelVersion: undefined };

/** Keeps a snapshot of the fleet. */
export class FleetView {
  readonly #redis: ScriptedRedis;
  readonly #promptVersion: string;
  readonly #affinities: readonly string[];
  readonly #timer: NodeJS.Timeout;
  #snapshot: FleetSnapshot = NOTHING;
  #readMs = -Infinity;
  /** Jobs that this front has added since the snapshot. */
  #numAdded = 0;
  #reading: Promise<void> | undefined;

  constructor(redis: ScriptedRedis, promptVersion: string, affinities: readonly string[]) {
    this.#redis = redis;
    this.#promptVersion = promptVersion;
    this.#affinities = affinities;
    this.#timer = setInterval(() => void this.refresh().catch(() => undefined), REFRESH_MS);
    this.#timer.unref();
  }

  get snapshot(): FleetSnapshot {
    return this.#snapshot;
  }

  /** Jobs that wait in the queues. */
  get numWaiting(): number {
    return this.#snapshot.queues.reduce((sum, { waiting }) => sum + waiting, 0);
  }

  /** Age of the snapshot, in ms; `Infinity` before the first. */
  get ageMs(): number {
    return performance.now() - this.#readMs;
  }

  /** Reads the fleet now. */
  refresh(): Promise<void> {
    return (this.#reading ??= this.#read().finally(() => (this.#reading = undefined)));
  }

  /** Notes a job that the snapshot does not have. */
  added(): void {
    this.#numAdded++;
  }

  /** Decides whether a job is admitted, if it may wait for `maxWaitMs`. @param numOpen - other jobs of this front */
  admit(priority: number, maxWaitMs: number, numOpen: number): Admission {
    const { nowMs, queues, workers, modelVersion = "" } = this.#snapshot;
    // Short answers end before the next snapshot.
    const waiting = Math.min(this.#numAdded, numOpen);
    const head = { queuedMs: nowMs, promptTokens: 0, maxNewTokens: 0 };
    const own = { id: "", modelVersion, key: "", priority, waiting, head };
    // Queues show no priorities: all their jobs count as before this one.
    const before = [...queues.map((queue) => ({ ...queue, priority })), ...(waiting > 0 ? [own] : [])];
    return admitJob({ modelVersion, priority, deadlineMs: nowMs + maxWaitMs }, before, { nowMs, workers });
  }

  close(): void {
    clearInterval(this.#timer);
  }

  async #read(): Promise<void> {
    const numBefore = this.#numAdded;
    const all = await readWorkers(this.#redis);
    const modelVersion = chooseVersion(all, this.#promptVersion, this.#snapshot.modelVersion);
    const waitingKeys = modelVersion === undefined ? [] : waitingKeysOf(modelVersion, this.#affinities);
    const keys = { modelVersion: modelVersion ?? "", affinities: this.#affinities, waitingKeys };
    const peeked = await peekQueues(this.#redis, keys);
    const workers = all.filter((worker) => worker.modelVersion === modelVersion);
    this.#snapshot = { ...peeked, workers, modelVersion };
    this.#readMs = performance.now();
    this.#numAdded -= numBefore;
  }
}
