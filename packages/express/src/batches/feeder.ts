// Runs the batches of a folder: takes those that no process runs, and begins their lines while the engines have room.

import type { Admission } from "../edge/admission.ts";
import type { ServedModels } from "../edge/served-models.ts";
import { statsWithin } from "../edge/heartbeat.ts";
import type { OwnedFacts } from "./batch-store.ts";
import { ClientTurns } from "./client-turns.ts";
import { look, mayClaim, nextBatch, roomFor, withoutAbsence, type Seen } from "./decide.ts";
import { hasCode } from "./folder.ts";
import { OwnedBatch, type BatchServices } from "./owned-batch.ts";

/** Times of a process that runs batches, in ms. */
export interface FeederTimes {
  /** Time between two signs of life of an owner, and two looks for batches. */
  readonly scanMs: number;
  /** Silence after which an owner counts as dead. */
  readonly leaseMs: number;
  /** Time between two looks at the load while lines wait for room. */
  readonly pauseMs: number;
  /** Time between two removals of what is too old. */
  readonly sweepMs: number;
  /** Time without any open engine after which other processes may run the batches. */
  readonly closedMs: number;
  /** Wait after a batch could not go on. */
  readonly failedMs: number;
}

const DEFAULT_TIMES: FeederTimes = {
  scanMs: 1000,
  leaseMs: 5000,
  pauseMs: 100,
  sweepMs: 600_000,
  closedMs: 30_000,
  failedMs: 10_000,
};

/** Services of a process that runs batches. */
export interface FeederParts extends Omit<BatchServices, "wake" | "checks"> {
  readonly models: ServedModels;
  /** Admission of the requests that are not of batches. */
  readonly admission: Pick<Admission, "stats">;
  readonly maxLoad: number;
  readonly onError: (error: Error) => void;
  /** Removes what is too old. */
  readonly sweep: () => Promise<void>;
  readonly times?: Partial<FeederTimes> | undefined;
}

/** Batches that this process runs at once, of all clients and of one. */
const [MAX_OWNED, MAX_OWNED_OF_CLIENT] = [64, 4] as const;

/** Longest wait for the numbers of an engine, in ms. One that does not answer has no room. */
const STATS_MS = 2000;

/** Runs batches until the models are drained. */
export class Feeder {
  /** Resolves when the models are drained and the batches are handed on. */
  readonly stopped: Promise<void>;
  readonly #parts: FeederParts;
  readonly #services: BatchServices;
  readonly #times: FeederTimes;
  /** Batches that this process runs, by id, in the order of their creation. */
  readonly #owned = new Map<string, OwnedBatch>();
  readonly #seen = new Map<string, Seen>();
  /** Times at which batches that could not go on are tried again, by id, in ms. */
  readonly #failedUntilMs = new Map<string, number>();
  #scannedMs = -Infinity;
  /** Time of the latest look at what other processes do, in ms. */
  #lookedMs = performance.now();
  #sweptMs = -Infinity;
  /** Time at which an engine was open last, in ms. */
  #openedMs = performance.now();
  #isAwake = false;
  #endPause: (() => void) | undefined;

  constructor(parts: FeederParts) {
    this.#parts = parts;
    this.#services = { ...parts, checks: new ClientTurns(), wake: () => this.#wake() };
    this.#times = { ...DEFAULT_TIMES, ...parts.times };
    this.stopped = this.#run();
  }

  /** Looks for batches at once, since a client has added or cancelled one. */
  look(): void {
    this.#scannedMs = -Infinity;
    this.#wake();
  }

  #wake(): void {
    this.#isAwake = true;
    this.#endPause?.();
  }

  async #run(): Promise<void> {
    while (!this.#parts.models.isDraining) {
      this.#isAwake = false;
      try {
        await this.#turn();
      } catch (error) {
        this.#report(error);
        await this.#pause(this.#times.scanMs);
      }
      const { pauseMs, scanMs } = this.#times;
      if (!this.#isAwake) await this.#pause(this.#owned.size > 0 ? pauseMs : scanMs);
    }
    // Another process goes on at once.
    await Promise.all([...this.#owned.values()].map((batch) => this.#release(batch)));
    this.#owned.clear();
  }

  /** Waits without keeping the process from ending. */
  async #pause(ms: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      timer.unref();
      this.#endPause = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#endPause = undefined;
  }

  async #turn(): Promise<void> {
    const nowMs = performance.now();
    const { scanMs, sweepMs } = this.#times;
    if (nowMs - this.#scannedMs >= scanMs) {
      this.#scannedMs = nowMs;
      await this.#scan(nowMs);
    }
    if (nowMs - this.#sweptMs >= sweepMs) {
      this.#sweptMs = nowMs;
      await this.#parts.sweep();
    }
    for (const batch of this.#owned.values()) batch.settle();
    for (const batch of this.#owned.values()) if (batch.isOver) await this.#drop(batch, nowMs);
    await this.#begin(nowMs);
  }

  /** Reads the batches, shows that this process lives, and takes those that no process runs. */
  async #scan(nowMs: number): Promise<void> {
    const facts = (await this.#parts.store.list()).filter(({ end }) => !end);
    const byId = new Map(facts.map((one) => [one.record.id, one]));
    for (const [id, batch] of this.#owned) {
      const known = byId.get(id);
      if (batch.isOver) continue;
      // Another process has taken it, or it was removed.
      if (known?.owner !== batch.owner) {
        this.#owned.delete(id);
        await batch.abandon();
        continue;
      }
      batch.isCancelled = known.cancellingAt !== undefined;
      await batch.beat();
    }
    for (const [id, seen] of this.#seen) {
      if (byId.has(id)) this.#seen.set(id, withoutAbsence(seen, nowMs - this.#lookedMs, this.#times.leaseMs));
      else this.#seen.delete(id);
    }
    this.#lookedMs = nowMs;
    for (const one of facts) if (!this.#owned.has(one.record.id)) await this.#consider(one, nowMs);
  }

  async #consider(facts: OwnedFacts, nowMs: number): Promise<void> {
    const { record, owner, beat } = facts;
    const { id, client } = record;
    const seen = look(this.#seen.get(id), owner, beat?.beat, nowMs);
    this.#seen.set(id, seen);
    const ofClient = [...this.#owned.values()].filter((batch) => batch.client === client);
    if (this.#owned.size >= MAX_OWNED || ofClient.length >= MAX_OWNED_OF_CLIENT) return;
    if ((this.#failedUntilMs.get(id) ?? 0) > nowMs) return;
    if (!mayClaim(seen, beat?.isReleased ?? false, nowMs, this.#times.leaseMs)) return;
    if (!(await this.#parts.store.claim(id, owner))) return;
    const batch = new OwnedBatch(this.#services, facts);
    this.#owned.set(id, batch);
    await batch.beat();
  }

  /** Forgets a batch that has ended, or that could not go on, which some process tries again later. */
  async #drop(batch: OwnedBatch, nowMs: number): Promise<void> {
    const { id } = batch.record;
    const { failure } = batch;
    this.#owned.delete(id);
    this.#failedUntilMs.delete(id);
    if (failure === undefined || (await this.#hasEndedElsewhere(batch))) return batch.abandon();
    this.#failedUntilMs.set(id, nowMs + this.#times.failedMs);
    this.#report(failure);
    await this.#release(batch);
  }

  /** Whether a batch could not go on since another owner has ended it, and has removed the files of all owners. */
  async #hasEndedElsewhere({ record, failure }: OwnedBatch): Promise<boolean> {
    if (!hasCode(failure, "ENOENT")) return false;
    const facts = await this.#parts.store.read(record.id);
    return facts === undefined || facts.end !== undefined;
  }

  async #release(batch: OwnedBatch): Promise<void> {
    await batch.abandon();
    await batch.beat(true).catch((error: unknown) => this.#report(error));
  }

  /** Leaves the batches to processes whose engines are open. */
  async #giveUp(nowMs: number): Promise<void> {
    this.#openedMs = nowMs;
    for (const [id, batch] of this.#owned) {
      this.#owned.delete(id);
      this.#failedUntilMs.set(id, nowMs + this.#times.failedMs);
      await this.#release(batch);
    }
  }

  #report(error: unknown): void {
    this.#parts.onError(error instanceof Error ? error : new Error(String(error)));
  }

  async #begin(nowMs: number): Promise<void> {
    if (![...this.#owned.values()].some((batch) => batch.hasNext(nowMs))) {
      this.#openedMs = nowMs;
      return;
    }
    const load = await this.#load();
    if (load.places > 0) this.#openedMs = nowMs;
    else if (nowMs - this.#openedMs > this.#times.closedMs) return this.#giveUp(nowMs);
    const room = roomFor(load, this.#parts.maxLoad);
    for (let count = 0; count < room; count++) {
      const batches = Array.from(this.#owned.values(), (batch) => ({
        batch,
        client: batch.client,
        inFlight: batch.inFlight,
        hasNext: batch.hasNext(nowMs),
      }));
      nextBatch(batches)?.batch.begin();
    }
  }

  async #load(): Promise<Parameters<typeof roomFor>[0]> {
    const { models, admission } = this.#parts;
    const engines = [...new Set(models.list().map(({ engine }) => engine))];
    const numbers = await Promise.all(
      engines.map(async (engine) => {
        const stats = await statsWithin(engine, STATS_MS).catch(() => undefined);
        return { places: engine.info.maxNumSeqs, stats };
      }),
    );
    const known = numbers.flatMap(({ places, stats }) => (stats ? [{ places, ...stats }] : []));
    const sum = (of: (one: (typeof known)[number]) => number): number =>
      known.reduce((total, one) => total + of(one), 0);
    return {
      places: sum(({ places }) => places),
      running: sum(({ numRunning }) => numRunning),
      waiting: sum(({ numWaiting }) => numWaiting),
      admitted: admission.stats.requests,
      inFlight: Array.from(this.#owned.values(), ({ inFlight }) => inFlight).reduce((a, b) => a + b, 0),
    };
  }
}
