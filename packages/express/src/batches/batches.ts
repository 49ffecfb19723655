// Files and batches of one server. Begins the lines of the batches while the engines have room.

import { randomUUID } from "node:crypto";
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { z } from "zod";
import { nowSeconds as systemSeconds } from "../api/generation.ts";
import type { Admission } from "../edge/admission.ts";
import { ClientLoads } from "../edge/admission/limits.ts";
import type { ServedModels } from "../edge/served-models.ts";
import { tooMuchOfClient } from "../http/errors.ts";
import { within } from "../http/request.ts";
import { LIMITS } from "../limits.ts";
import { createJson, FileStore, hasCode, readJson } from "./files.ts";
import {
  type BatchesOptions,
  type BatchQueue,
  resolveBatchesOptions,
  type ResolvedBatchesOptions,
  tooManyUploads,
  UPLOAD_RETRY_MS,
} from "./options.ts";
import { type BatchServices, type LineRunner, RunningBatch } from "./run-batch.ts";
import { type BatchRecord, BatchStore } from "./store.ts";

/** Times of a process that runs batches, in ms. */
export interface BatchTimes {
  /** Time between two looks at what others have done to the batches. */
  readonly scanMs: number;
  /** Time between two looks at the load while lines wait for room. */
  readonly pauseMs: number;
  /** Time between two removals of what is too old. */
  readonly sweepMs: number;
  /** Time without any open engine after which other processes may run the batches. */
  readonly closedMs: number;
  /** Wait after a batch could not go on. */
  readonly failedMs: number;
}

const DEFAULT_TIMES: BatchTimes = {
  scanMs: 1000,
  pauseMs: 100,
  sweepMs: 600_000,
  closedMs: 30_000,
  failedMs: 10_000,
};

/** Services that batches run over. */
export interface BatchesParts {
  readonly models: ServedModels;
  /** Admission of the requests that are not of batches. */
  readonly admission: Pick<Admission, "stats">;
  readonly runner: LineRunner;
  /** Most bytes of the body of a request. */
  readonly maxBodyBytes: number;
  /** Returns the seconds since 1970. @default the system's clock */
  readonly nowSeconds?: () => number;
  readonly times?: Partial<BatchTimes>;
}

/** A batch that this process is to run. */
interface Due {
  readonly record: BatchRecord;
  /** Time at which it may begin, in ms. */
  readonly fromMs: number;
  /** Aborts when another process has it. */
  readonly signal?: AbortSignal | undefined;
  /** Called when the batch has ended, or cannot go on now. */
  readonly settle: (isEnded: boolean) => void;
}

interface Running extends Due {
  readonly batch: RunningBatch;
}

/** Bytes of a line beside its body. */
const ENVELOPE_BYTES = 64 << 10;
/** Batches that this process runs at once, of all clients and of one. */
const [MAX_RUNNING, MAX_OF_CLIENT] = [64, 4] as const;
/** Longest wait for the numbers of an engine, in ms. One that does not answer has no room. */
const STATS_MS = 2000;

/** Keeps files and batches, and runs the batches until the models are drained. */
export class Batches {
  readonly files: FileStore;
  readonly store: BatchStore;
  readonly maxFileBytes: number;
  readonly maxUploadMs: number;
  readonly nowSeconds: () => number;
  /** Resolves when the models are drained and the batches have stopped. */
  readonly stopped: Promise<void>;
  readonly #folder: string;
  readonly #parts: BatchesParts;
  readonly #options: ResolvedBatchesOptions;
  readonly #times: BatchTimes;
  readonly #services: BatchServices;
  /** Files that are arriving. */
  readonly #uploads: ClientLoads;
  /** Batches that have not begun, by id, in the order in which they came. */
  readonly #due = new Map<string, Due>();
  readonly #running = new Map<string, Running>();
  /** Whether an input is checked. One is at a time. */
  #isChecking = false;
  #isStarted = false;
  #scannedMs = performance.now();
  #sweptMs = -Infinity;
  /** Time at which an engine was open last, in ms. */
  #openedMs = performance.now();
  #isAwake = false;
  #endPause: (() => void) | undefined;

  /** @throws {TypeError | RangeError} on wrong options */
  constructor(options: BatchesOptions, parts: BatchesParts) {
    const { nowSeconds = systemSeconds, runner, maxBodyBytes, times } = parts;
    this.#options = resolveBatchesOptions(options);
    this.#parts = parts;
    this.#times = { ...DEFAULT_TIMES, ...times };
    const most = { requests: LIMITS.uploads.value, tokens: Infinity, bytes: Infinity };
    this.#uploads = new ClientLoads(most, this.#options.maxClientShare);
    this.nowSeconds = nowSeconds;
    const { folder, maxFileBytes, maxUploadMs, maxRequests } = this.#options;
    this.#folder = resolve(folder);
    this.maxFileBytes = maxFileBytes;
    this.maxUploadMs = maxUploadMs;
    const [files, batches] = ["files", "batches"].map((part) => join(this.#folder, part)) as [string, string];
    try {
      for (const part of [files, batches]) mkdirSync(part, { recursive: true });
    } catch (cause) {
      const message = `Expected \`batches.folder\` to be a folder that can be written, got \`${folder}\``;
      throw new RangeError(message, { cause });
    }
    this.files = new FileStore(files, this.#options, nowSeconds);
    this.store = new BatchStore(batches, this.#options, nowSeconds);
    const maxLineBytes = maxBodyBytes + ENVELOPE_BYTES;
    const wake = (): void => this.#wake();
    this.#services = { files: this.files, store: this.store, runner, maxLineBytes, maxRequests, nowSeconds, wake };
    this.stopped = this.#run();
  }

  /** Begins a batch that was added. */
  begin(record: BatchRecord): void {
    const { queue } = this.#options;
    if (queue) this.#announce(queue, record.id);
    else this.#offer(record);
  }

  /** Looks for cancelled batches at once. */
  look(): void {
    this.#scannedMs = -Infinity;
    this.#wake();
  }

  /** Whether a batch that has not ended reads a file. */
  async isInput(fileId: string): Promise<boolean> {
    return (await this.#unended()).some(({ inputFileId }) => inputFileId === fileId);
  }

  /** Runs a client's upload, if not too many run. @throws {ApiError} 503, 429 */
  async upload<Result>(client: string, receive: () => Promise<Result>): Promise<Result> {
    const load = { requests: 1, tokens: 0, bytes: 0 };
    if (this.#uploads.overflow(load)) throw tooManyUploads();
    // Not even several clients together can take all places.
    if (this.#uploads.overflowOfFree(client, load)) throw tooMuchOfClient("uploads", UPLOAD_RETRY_MS);
    const leave = this.#uploads.take(client, load);
    return receive().finally(leave);
  }

  async #unended(): Promise<readonly BatchRecord[]> {
    return (await this.store.list()).filter(({ end }) => !end).map(({ record }) => record);
  }

  #wake(): void {
    this.#isAwake = true;
    this.#endPause?.();
  }

  #report(error: unknown): void {
    this.#options.onError(error instanceof Error ? error : new Error(String(error)));
  }

  async #run(): Promise<void> {
    const { queue } = this.#options;
    const { pauseMs, scanMs } = this.#times;
    while (!this.#parts.models.isDraining) {
      this.#isAwake = false;
      try {
        await this.#turn(queue);
      } catch (error) {
        this.#report(error);
        await this.#pause(scanMs);
      }
      if (!this.#isAwake) await this.#pause(this.#running.size > 0 ? pauseMs : scanMs);
    }
    const closed = queue?.close();
    for (const { settle } of this.#due.values()) settle(false);
    await Promise.all([...this.#running.values()].map((running) => this.#stop(running)));
    await closed;
  }

  /** Waits without keeping the process from ending. */
  async #pause(ms: number): Promise<void> {
    await new Promise<void>((done) => {
      const timer = setTimeout(done, ms);
      timer.unref();
      this.#endPause = () => {
        clearTimeout(timer);
        done();
      };
    });
    this.#endPause = undefined;
  }

  async #turn(queue: BatchQueue | undefined): Promise<void> {
    const nowMs = performance.now();
    if (!this.#isStarted) await this.#start(queue);
    if (nowMs - this.#scannedMs >= this.#times.scanMs) {
      this.#scannedMs = nowMs;
      for (const running of this.#running.values()) {
        if (running.signal?.aborted === true || !(await running.batch.check())) await this.#stop(running, true);
      }
    }
    if (nowMs - this.#sweptMs >= this.#times.sweepMs) {
      await this.store.sweep();
      const unended = await this.#unended();
      await this.files.sweep(new Set(unended.map(({ inputFileId }) => inputFileId)));
      this.#sweptMs = nowMs;
      if (queue) for (const { id } of unended) this.#announce(queue, id);
    }
    for (const { batch } of this.#running.values()) batch.settle();
    for (const running of this.#running.values()) if (running.batch.isOver) await this.#drop(running);
    await this.#takeNext(nowMs);
    await this.#beginLines(nowMs);
  }

  /** Finds the batches that have not ended. */
  async #start(queue: BatchQueue | undefined): Promise<void> {
    if (!queue) for (const record of await this.#unended()) this.#offer(record);
    else queue.start(await folderName(this.#folder), MAX_RUNNING, (id, signal) => this.#runShared(id, signal));
    this.#isStarted = true;
  }

  #announce(queue: BatchQueue, id: string): void {
    queue.add(id).catch((error: unknown) => {
      this.#report(error);
      // The next sweep, which is soon, adds all batches again.
      this.#sweptMs = performance.now() - this.#times.sweepMs + this.#times.failedMs;
    });
  }

  /** Runs a batch of the queue. @returns whether it has ended */
  async #runShared(id: string, signal: AbortSignal): Promise<boolean> {
    const facts = await this.store.read(id);
    if (!facts || facts.end) return true;
    const { client } = facts.record;
    const running = [...this.#running.values()].filter(({ batch }) => !batch.isOver);
    const others = [...this.#due.values(), ...running].filter(
      ({ record }) => record.client === client && record.id !== id,
    );
    if (others.length >= MAX_OF_CLIENT || this.#parts.models.isDraining) return false;
    return new Promise((settle) => this.#offer(facts.record, { signal, settle }));
  }

  /** Adds a batch to those that this process is to run. */
  #offer(record: BatchRecord, more: Partial<Due> = {}): void {
    const settle = (isEnded: boolean): void => {
      // A batch that could not go on is tried again.
      if (!isEnded) this.#offer(record, { fromMs: performance.now() + this.#times.failedMs });
    };
    this.#due.set(record.id, { record, fromMs: 0, settle, ...more });
    this.#wake();
  }

  /** Begins the next batch with the check of its input: of the client with the fewest that run. */
  async #takeNext(nowMs: number): Promise<void> {
    if (this.#isChecking || this.#running.size >= MAX_RUNNING) return;
    const clients = [...this.#running.values()].map(({ batch }) => batch.client);
    const due = [...this.#due.values()].filter(
      ({ record, fromMs }) => fromMs <= nowMs && !this.#running.has(record.id),
    );
    const next = fewestOf(due, ({ record }) => clients.filter((client) => client === record.client).length);
    if (!next || clients.filter((client) => client === next.record.client).length >= MAX_OF_CLIENT) return;
    const { id } = next.record;
    this.#due.delete(id);
    const facts = await this.store.read(id);
    if (!facts || facts.end || next.signal?.aborted) return next.settle(true);
    const batch = new RunningBatch(this.#services, facts);
    this.#isChecking = true;
    this.#running.set(id, { ...next, batch });
    void this.#afterCheck(batch);
  }

  async #afterCheck(batch: RunningBatch): Promise<void> {
    await batch.opened;
    this.#isChecking = false;
    this.#wake();
  }

  /** Forgets a batch that has ended, or that could not go on and is tried again later. */
  async #drop(running: Running): Promise<void> {
    const { failure, record } = running.batch;
    if (failure === undefined) return this.#stop(running, true);
    // Another process may have ended it, and removed the answers.
    const facts = hasCode(failure, "ENOENT") ? await this.store.read(record.id) : undefined;
    if (facts?.end) return this.#stop(running, true);
    this.#report(failure);
    await this.#stop(running);
  }

  async #stop({ batch, settle }: Running, isEnded = false): Promise<void> {
    await batch.abandon();
    this.#running.delete(batch.record.id);
    settle(isEnded);
  }

  async #beginLines(nowMs: number): Promise<void> {
    const batches = [...this.#running.values()].map(({ batch }) => batch);
    if (!batches.some((batch) => batch.hasNext(nowMs))) {
      this.#openedMs = nowMs;
      return;
    }
    const load = await this.#load();
    if (load.places > 0) this.#openedMs = nowMs;
    else if (nowMs - this.#openedMs > this.#times.closedMs) {
      // Leaves the batches to processes whose engines are open.
      this.#openedMs = nowMs;
      for (const running of this.#running.values()) await this.#stop(running);
      return;
    }
    for (let room = roomFor(load, this.#options.maxLoad); room > 0; room--) {
      const ready = batches.filter((batch) => batch.hasNext(nowMs));
      fewestOf(ready, ({ client }) => inFlightOf(batches.filter((batch) => batch.client === client)))?.begin();
    }
  }

  async #load(): Promise<EngineLoad> {
    const { models, admission } = this.#parts;
    const engines = [...new Set(models.list().map(({ engine }) => engine))];
    const load = { places: 0, running: 0, waiting: 0 };
    await Promise.all(
      engines.map(async (engine) => {
        const stats = await within(STATS_MS, engine.stats()).catch(() => undefined);
        if (!stats) return;
        load.places += engine.info.maxNumSeqs;
        load.running += stats.numRunning;
        load.waiting += stats.numWaiting;
      }),
    );
    // A line of a batch opens a model, too.
    load.places += models.states().filter(({ state }) => state === "closed").length;
    const inFlight = inFlightOf([...this.#running.values()].map(({ batch }) => batch));
    return { ...load, admitted: admission.stats.requests, inFlight };
  }
}

interface EngineLoad {
  /** Sequences that may run at once. */
  readonly places: number;
  readonly running: number;
  readonly waiting: number;
  /** Other requests that admission has let in. */
  readonly admitted: number;
  /** Requests of batches under way. */
  readonly inFlight: number;
}

/** Requests that begin in one turn at most: the load is measured again before the next ones. */
const MAX_BEGINNING = 8;

/**
 * Decides how many requests of batches may begin.
 *
 * @param maxLoad - share of the places up to which they begin
 */
export function roomFor({ places, running, waiting, admitted, inFlight }: EngineLoad, maxLoad: number): number {
  // Requests that have just begun may be in neither count of the engine.
  const taken = Math.max(running + waiting, admitted + inFlight);
  const most = Math.max(1, Math.floor(places * maxLoad));
  return places === 0 ? 0 : Math.max(0, Math.min(MAX_BEGINNING, most - taken));
}

/** Selects the item with the lowest count, and of several the first. */
export function fewestOf<Item>(items: readonly Item[], countOf: (item: Item) => number): Item | undefined {
  let [best, least] = [undefined as Item | undefined, Infinity];
  for (const item of items) {
    const count = countOf(item);
    if (count < least) [best, least] = [item, count];
  }
  return best;
}

function inFlightOf(batches: readonly RunningBatch[]): number {
  return batches.reduce((sum, { inFlight }) => sum + inFlight, 0);
}

/** Names a folder by what it holds: processes may have it at different paths. */
async function folderName(folder: string): Promise<string> {
  const path = join(folder, "folder.json");
  await createJson(path, { name: randomUUID() });
  const known = await readJson(path, z.object({ name: z.uuid() }));
  if (!known) throw new Error(`Expected ${path} to name the folder`);
  return known.name;
}
