// View of the fleet from a front: published states of workers, and lengths of queues, read twice a second.

import { admitJob, ReadMeError, type Admission, type PromptInfo } from "@readme-moe/core";
import { affinitiesOf } from "../affinity.ts";
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
  /** Versions of the prompts of all workers that take jobs. */
  readonly promptVersions: readonly string[];
}

const REFRESH_MS = 500;
const NOTHING: FleetSnapshot = { nowMs: 0, queues: [], workers: [], modelVersion: undefined, promptVersions: [] };

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
  readonly #onNoWorker: (error: ReadMeError) => void;
  #toldNoWorker: string | undefined;

  /** @param onNoWorker - called when no worker has the model, and again when others than these have come */
  constructor(redis: ScriptedRedis, info: PromptInfo, onNoWorker: (error: ReadMeError) => void) {
    this.#redis = redis;
    this.#promptVersion = info.promptVersion;
    this.#affinities = affinitiesOf(info);
    this.#onNoWorker = onNoWorker;
    this.#timer = setInterval(() => void this.refresh().catch(() => undefined), REFRESH_MS);
    this.#timer.unref();
  }

  get snapshot(): FleetSnapshot {
    return this.#snapshot;
  }

  /** Error of all requests while no worker has the model; nothing while one has it. */
  get noWorker(): ReadMeError | undefined {
    const { modelVersion, promptVersions } = this.#snapshot;
    if (modelVersion !== undefined) return undefined;
    const theirs = promptVersions.map((version) => version.slice(0, 8)).join(", ");
    const others = theirs === "" ? "no worker takes requests" : `workers are there for ${theirs}`;
    const own = `the version of its prompts is ${this.#promptVersion.slice(0, 8)}`;
    return new ReadMeError("ERR_NO_WORKER", `No worker of the fleet has this model: ${own}, and ${others}`);
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
    const taking = all.filter(({ isDraining }) => !isDraining);
    const promptVersions = [...new Set(taking.map(({ promptVersion }) => promptVersion))].toSorted();
    this.#snapshot = { ...peeked, workers, modelVersion, promptVersions };
    this.#readMs = performance.now();
    this.#numAdded -= numBefore;
    const { noWorker } = this;
    if (noWorker && noWorker.message !== this.#toldNoWorker) this.#onNoWorker(noWorker);
    this.#toldNoWorker = noWorker?.message;
  }
}
