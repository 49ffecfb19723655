// View of the fleet from a front: published states of workers, and lengths of queues, read twice a second.

import {
  type Admission,
  admitJob,
  type EngineInfo,
  type EngineStats,
  type PromptInfo,
  type PromptReader,
  ReadMeError,
} from "@readme-moe/core";
import { affinitiesOf } from "../affinity.ts";
import { type PeekedQueues, peekQueues, waitingKeysOf } from "../job-queues.ts";
import type { ScriptedRedis } from "../log/scripts.ts";
import { type PublishedWorker, readWorkers } from "../worker/state.ts";

interface FleetSnapshot extends PeekedQueues {
  /** Workers of the version that new requests go to. */
  readonly workers: readonly PublishedWorker[];
  /** Model version that new requests go to; nothing while no worker takes jobs. */
  readonly modelVersion: string | undefined;
  /** Versions of the prompts of all workers that take jobs. */
  readonly promptVersions: readonly string[];
}

const REFRESH_MS = 500;
const NOTHING: FleetSnapshot = { nowMs: 0, queues: [], workers: [], modelVersion: undefined, promptVersions: [] };

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

  get numWaiting(): number {
    return this.#snapshot.queues.reduce((sum, { waiting }) => sum + waiting, 0);
  }

  /** Age of the snapshot, in ms; `Infinity` before the first. */
  get ageMs(): number {
    return performance.now() - this.#readMs;
  }

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

// The numbers of an engine, summed over a fleet.

/** Describes a model by a front's part of it, and by the workers that run it. */
export function fleetInfo(info: PromptReader["info"], { workers, modelVersion }: FleetSnapshot): EngineInfo {
  const places = workers.reduce((sum, { maxNumSeqs }) => sum + maxNumSeqs, 0);
  return {
    ...info,
    modelVersion,
    precision: workers[0]?.precision ?? "unknown",
    maxNumSeqs: Math.max(1, places),
    kvCapacityTokens: workers.reduce((sum, worker) => sum + worker.kvCapacityTokens, 0),
  };
}

/** Sums what workers have published. What they do not publish is 0. */
export function fleetStats({ workers, queues }: FleetSnapshot, residentBytes: number): EngineStats {
  return {
    numWaiting: queues.reduce((sum, { waiting }) => sum + waiting, 0),
    numRunning: workers.reduce((sum, { runningSeqs }) => sum + runningSeqs, 0),
    kvUsedTokens: 0,
    kvCapacityTokens: workers.reduce((sum, { kvCapacityTokens }) => sum + kvCapacityTokens, 0),
    steps: 0,
    promptTokens: 0,
    cachedTokens: 0,
    completionTokens: workers.reduce((sum, { counters }) => sum + counters.tokens, 0),
    draftedTokens: 0,
    acceptedDraftTokens: 0,
    preemptions: 0,
    residentBytes,
  };
}

// Choice of the model version that new requests go to, while workers change from one to another.

/**
 * Chooses the model version of new requests: of those with the front's prompts, the one with the most places. The
 * current one stays until another has more. A request stays with its version.
 *
 * @returns nothing while no worker takes jobs
 */
export function chooseVersion(
  workers: readonly Pick<PublishedWorker, "promptVersion" | "modelVersion" | "maxNumSeqs" | "isDraining">[],
  promptVersion: string,
  current: string | undefined,
): string | undefined {
  const places = new Map<string, number>();
  for (const worker of workers) {
    if (worker.isDraining || worker.promptVersion !== promptVersion) continue;
    places.set(worker.modelVersion, (places.get(worker.modelVersion) ?? 0) + worker.maxNumSeqs);
  }
  const rank = ([version, count]: readonly [string, number]): number => count + (version === current ? 0.5 : 0);
  const [best] = [...places].toSorted((a, b) => rank(b) - rank(a) || (a[0] < b[0] ? -1 : 1));
  return best?.[0];
}
