// An engine whose steps run on the machines of a fleet. It holds a tokenizer and a router, and no model.

import { randomInt, randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import {
  checkRequest,
  describeValue,
  type Engine,
  type EngineInfo,
  type EngineStats,
  type FollowRequest,
  type GenerateRequest,
  type Generation,
  GenerationStream,
  onceAborted,
  type PromptReader,
  ReadMeEmitter,
  ReadMeError,
  resolveSamplingParams,
} from "@readme-moe/core";
import { formatSource } from "@readme-moe/grammar";
import { affinityOf, countExperts } from "../affinity.ts";
import {
  addressOf,
  type Connection,
  describeAddress,
  type FleetAddress,
  openConnection,
  unreachable,
  type FleetMemberOptions,
} from "../connect.ts";
import { JobAdder, type QueuePlace } from "../job-queues.ts";
import { type FleetJob, isRequestId, type JobRequest, requireGenerating, writeJob } from "../job.ts";
import { frontName, readerName } from "../keys.ts";
import { takeOver } from "../log/log-writer.ts";
import { type ScriptedRedis, withScripts } from "../log/scripts.ts";
import { cancelRequest } from "../log/token-log.ts";
import { type FleetStatus, statusOf } from "../status.ts";
import { fleetInfo, fleetStats, FleetView } from "./fleet-view.ts";
import { FollowedRequests, Follower, SequenceEvents } from "./followed-requests.ts";

/** A request whose entries come. */
interface Opened {
  readonly follower: Follower;
  /** Name of this reader of the request. */
  readonly reader: string;
}

interface Opening extends Pick<GenerateRequest, "signal"> {
  readonly id: string;
  readonly numChoices: number;
  /** Events of a request that this front adds; another front has emitted those of one that it follows. */
  readonly sequences?: SequenceEvents;
}

const [MAX_WAIT_MS, UNREACHABLE_MS, SUBMIT_MS, RETRY_MS] = [30_000, 15_000, 5000, 50] as const;

/** The part of an engine that needs a tokenizer and a router only. */
class PromptFront {
  protected readonly reader: PromptReader;
  readonly tokenize: Engine["tokenize"] = (prompt, how) => this.reader.tokenize(prompt, how);
  readonly detokenize: Engine["detokenize"] = (tokenIds) => this.reader.detokenize(tokenIds);
  readonly applyTemplate: Engine["applyTemplate"] = (messages, template) =>
    this.reader.applyTemplate(messages, template);
  readonly vocabulary: Engine["vocabulary"] = () => this.reader.vocabulary();
  readonly route: Engine["route"] = (prompt, expert) => this.reader.route(prompt, expert);
  readonly embed: Engine["embed"] = () => refuse("Expected an engine without a fleet, which continues prompts");
  readonly rerank: Engine["rerank"] = () => refuse("Expected an engine without a fleet, which continues prompts");
  readonly classify: Engine["classify"] = () => refuse("Expected an engine without a fleet, which continues prompts");
  readonly addExpert: Engine["addExpert"] = () => refuse("Expected an engine without a fleet");
  readonly removeExpert: Engine["removeExpert"] = () => refuse("Expected an engine without a fleet");
  // Workers and Valkey come back; requests meanwhile fail one by one.
  readonly whenFailed: Engine["whenFailed"] = () => new Promise(() => undefined);

  constructor(reader: PromptReader) {
    this.reader = reader;
  }
}

/** Serves a model that runs on the workers of a fleet. */
export class FleetEngine extends PromptFront implements Engine {
  readonly events: ReadMeEmitter = new ReadMeEmitter();
  readonly #address: FleetAddress;
  readonly #id: string = frontName(this.reader.info.promptVersion, randomUUID());
  readonly #connections: readonly Connection[];
  readonly #redis: ScriptedRedis;
  readonly #adder: JobAdder;
  readonly #view: FleetView;
  readonly #followed: FollowedRequests;
  readonly #maxWaitMs: number;
  #numDifferent = 0;
  #isDisposed = false;

  private constructor(options: FleetEngineOptions) {
    const { fleet, reader, limits, onError, maxWaitMs = MAX_WAIT_MS, unreachableMs = UNREACHABLE_MS } = options;
    super(reader);
    this.#address = addressOf(fleet);
    this.#maxWaitMs = maxWaitMs;
    const open = (): Connection => openConnection(this.#address, onError, limits);
    const [main, listening] = [open(), open()];
    this.#connections = [main, listening];
    this.#redis = withScripts(main.redis);
    this.#adder = new JobAdder(this.#redis, reader.info);
    this.#view = new FleetView(this.#redis, reader.info, (error) => onError?.(error));
    this.#followed = new FollowedRequests({
      redis: this.#redis,
      frontId: this.#id,
      listening,
      adder: this.#adder,
      unreachableMs,
      unreachable: (cause) => unreachable(this.#address, "request under way", cause),
    });
  }

  /**
   * Opens a front.
   *
   * @throws {TypeError | RangeError} on a wrong URL, or a model that does not generate
   * @throws {ReadMeError} `ERR_FLEET_UNREACHABLE` when the fleet's Valkey does not answer
   */
  static async open(options: FleetEngineOptions): Promise<FleetEngine> {
    requireGenerating(options.reader.info);
    const engine = new FleetEngine(options);
    try {
      await engine.#view.refresh();
    } catch (error) {
      await engine.#close();
      throw unreachable(engine.#address, "at the start", error);
    }
    return engine;
  }

  get info(): EngineInfo {
    return fleetInfo(this.reader.info, this.#view.snapshot);
  }

  get unavailable(): ReadMeError | undefined {
    return findLack(this.#view, this.#address);
  }

  /** Address of the fleet's Valkey, without secrets. */
  get address(): string {
    return describeAddress(this.#address);
  }

  /** Answers whose log had another token than before; always 0 unless workers compute different bits. */
  get numDifferent(): number {
    return this.#numDifferent;
  }

  /** Reads what the fleet does now. @throws {ReadMeError} `ERR_FLEET_UNREACHABLE` */
  async status(): Promise<FleetStatus> {
    return statusOf(this.#redis, this.#address).catch((error: unknown) => {
      throw unreachable(this.#address, "status", error);
    });
  }

  generate(request: GenerateRequest): Generation {
    const checked = checkedRequest(request, this.info, {
      newId: () => `fleet-${randomUUID()}`,
      drawSeed: () => randomInt(2 ** 47),
    });
    const { id } = checked;
    if (this.#followed.has(id)) throw new TypeError(`Expected \`id\` to be new, got \`${id}\``);
    const { signal } = request;
    if (signal?.aborted || this.#isDisposed) {
      const stream = new GenerationStream(() => undefined);
      stream.fail(signal?.aborted ? signal.reason : disposed());
      return stream;
    }
    const { n: numChoices = 1 } = checked.params;
    const sequences = new SequenceEvents(this.events, id, numChoices, performance.now());
    const opened = this.#open({ id, numChoices, signal, sequences });
    void this.#begin(request.prompt, checked, { ...opened, sequences });
    return opened.follower.stream;
  }

  async follow({ id, client = "", signal }: FollowRequest): Promise<Generation | undefined> {
    signal?.throwIfAborted();
    if (this.#isDisposed) throw disposed();
    if (!isRequestId(id)) return undefined;
    const reader = readerName(this.#id, randomUUID());
    const found = await takeOver(this.#redis, id, { client, reader }).catch((error: unknown) => {
      throw unreachable(this.#address, "stream to go on with", error);
    });
    if (!found) return undefined;
    if (this.#followed.has(id)) this.#followed.giveUp(id);
    if (this.#isDisposed) throw disposed();
    const { jobId, numChoices, promptTokens, place } = found;
    const { stream } = this.#open({ id, numChoices, signal }, reader).follower;
    stream.accept({ promptTokens, experts: new Uint16Array(0) });
    // Entries that have come before are asked for.
    this.#followed.listen(id, { jobId, place });
    void this.#followed.catchUp(id).catch(() => undefined);
    if (signal?.aborted) await stream.return();
    return stream;
  }

  async stats(): Promise<EngineStats> {
    await this.#view.refresh();
    return fleetStats(this.#view.snapshot, process.memoryUsage.rss());
  }

  async dispose(): Promise<void> {
    if (this.#isDisposed) return;
    this.#isDisposed = true;
    // Any other front takes a request. What Valkey does not hear of ends by its time limits.
    const drained = new ReadMeError("ERR_DRAINED", "This front ends; send the request again, to any other");
    await Promise.allSettled(this.#followed.ids().map((id) => this.#end(id, drained)));
    await this.#close();
    await this.reader.dispose();
    this.events.removeAllListeners();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #close(): Promise<void> {
    this.#view.close();
    this.#followed.close();
    await this.#adder.close();
    for (const { close } of this.#connections) close();
  }

  /** Opens the stream of a request, and ends the work when its reader leaves. */
  #open({ id, numChoices, signal, sequences }: Opening, reader: string = readerName(this.#id, randomUUID())): Opened {
    const stream = new GenerationStream(() => {
      sequences?.ended("abort", performance.now());
      follower.leave();
      this.#cancel(id);
    });
    const follower = new Follower({
      numChoices,
      stream,
      nowMs: performance.now(),
      onChunk: (chunk) => sequences?.chunk(chunk, performance.now()),
      onDifferent: () => this.#numDifferent++,
      onFailed: () => sequences?.ended("error", performance.now()),
    });
    const abort = (): void => {
      sequences?.ended("abort", performance.now());
      follower.fail(signal?.reason);
      this.#cancel(id);
    };
    this.#followed.add(id, { follower, reader, detach: onceAborted(signal, abort) });
    return { follower, reader };
  }

  async #begin(
    prompt: GenerateRequest["prompt"],
    checked: CheckedRequest,
    { follower, reader, sequences }: Opened & { readonly sequences: SequenceEvents },
  ): Promise<void> {
    const { id, expert, priority = 0 } = checked;
    try {
      // Workers may have come since.
      if (this.#view.snapshot.modelVersion === undefined) await this.#view.refresh().catch(() => undefined);
      const asked = { priority, maxWaitMs: this.#maxWaitMs, numOpen: this.#followed.ids().length - 1 };
      const modelVersion = admitRequest(this.#view, this.#address, asked);
      const routed = await this.reader.route(prompt, expert);
      const expertTokens = countExperts(routed.experts, this.reader.info);
      const affinity = affinityOf({ ...routed, cacheSalt: checked.cacheSalt }, this.reader.info);
      // The log of an answer stays for a while, and a later request may have the same id.
      const jobId = `${id}.${randomUUID().slice(0, 12)}`;
      const job = writeJob({ ...checked, id: jobId, promptIds: routed.tokenIds, expertTokens });
      if (follower.isOver) return;
      await this.#submit(id, job, { place: { modelVersion, affinity }, reader });
      if (follower.isOver) return;
      sequences.queued(routed.tokenIds.length, this.#view.numWaiting);
      follower.stream.accept({ promptTokens: routed.tokenIds.length, experts: routed.experts });
    } catch (error) {
      if (!follower.isOver) follower.fail(error);
      this.#followed.forget(id);
    }
  }

  /** Adds a job, again and again for 5 s. */
  async #submit(
    id: string,
    job: FleetJob,
    { place, reader }: { readonly place: QueuePlace; readonly reader: string },
  ): Promise<void> {
    const untilMs = performance.now() + SUBMIT_MS;
    for (;;) {
      try {
        this.#followed.listen(id, { jobId: job.id, place, job });
        await this.#adder.add(job, place, { reader, maxWaitMs: this.#maxWaitMs });
        this.#view.added();
        return;
      } catch (error) {
        if (performance.now() < untilMs && !this.#isDisposed) {
          await sleep(RETRY_MS, undefined, { ref: false });
          continue;
        }
        // It may have been added although no answer came.
        await cancelRequest(this.#redis, job.id, reader).catch(() => undefined);
        throw unreachable(this.#address, "new request", error);
      }
    }
  }

  #cancel(id: string): void {
    void this.#end(id).catch(() => undefined);
  }

  async #end(id: string, error?: unknown): Promise<void> {
    const reading = this.#followed.readingOf(id);
    if (error !== undefined) this.#followed.fail(id, error);
    this.#followed.forget(id);
    if (!reading) return;
    const { jobId, reader, place } = reading;
    if (await cancelRequest(this.#redis, jobId, reader)) await this.#adder.remove(jobId, place);
  }
}

function disposed(): ReadMeError {
  return new ReadMeError("ERR_DISPOSED", "The engine was disposed");
}

// Admission of a front: a request that would wait for too long is refused before any work is done for it.

/** Age of the view of the workers beyond which nothing is admitted, in ms. */
const MAX_AGE_MS = 5000;

interface AskedRoom {
  readonly priority: number;
  readonly maxWaitMs: number;
  /** Other requests of this front that have not ended. */
  readonly numOpen: number;
}

/** Finds the error that every request gets at this time, since Valkey or the workers are away. */
function findLack(view: Pick<FleetView, "ageMs" | "noWorker">, address: FleetAddress): ReadMeError | undefined {
  return view.ageMs > MAX_AGE_MS ? unreachable(address, "state of the workers") : view.noWorker;
}

/**
 * Refuses a request that would wait for too long.
 *
 * @returns the model version that it goes to
 * @throws {ReadMeError} `ERR_QUEUE_FULL`, with the time to wait; `ERR_NO_WORKER`; `ERR_FLEET_UNREACHABLE`
 */
function admitRequest(
  view: Pick<FleetView, "ageMs" | "admit" | "noWorker" | "snapshot">,
  address: FleetAddress,
  { priority, maxWaitMs, numOpen }: AskedRoom,
): string {
  const lack = findLack(view, address);
  if (lack) throw lack;
  const { isAdmitted, retryAfterMs } = view.admit(priority, maxWaitMs, numOpen);
  const { modelVersion } = view.snapshot;
  if (isAdmitted && modelVersion !== undefined) return modelVersion;
  const retry = Number.isFinite(retryAfterMs) ? { retryAfterMs: Math.max(1000, retryAfterMs) } : {};
  throw new ReadMeError("ERR_QUEUE_FULL", "All workers of the fleet are busy; try again later", retry);
}

// Checks that a front makes of a request at once, before anything is sent.

type CheckedRequest = Omit<JobRequest, "promptIds" | "expertTokens">;

interface RequestDefaults {
  readonly newId: () => string;
  /** Draws the seed of a request that names none. */
  readonly drawSeed: () => number;
}

/**
 * Checks a request, and fills in its id and seed.
 *
 * @throws {TypeError | RangeError} naming the option, the expectation and the value
 */
function checkedRequest(request: GenerateRequest, info: EngineInfo, defaults: RequestDefaults): CheckedRequest {
  const params = checkRequest(request, info);
  const { processLogits, format, prediction, priority = 0, expert, resume, traceparent } = request;
  const { client, cacheSalt } = request;
  resolveSamplingParams(params, info);
  if (resume !== undefined) throw new TypeError("Expected no `resume`: a fleet resumes requests itself");
  if (processLogits !== undefined && typeof processLogits !== "function") {
    throw new TypeError(`Expected \`processLogits\` to be a function, got ${describeValue(processLogits)}`);
  }
  if (format !== undefined && processLogits !== undefined) {
    throw new TypeError("Expected `format` or `processLogits`, got both");
  }
  const constraint = format === undefined ? processLogits?.source : formatSource(format);
  if (processLogits && !constraint) {
    throw new TypeError(
      "Expected `processLogits` to be a constraint of @readme-moe/grammar: a function stays in its process",
    );
  }
  const id = request.id ?? defaults.newId();
  if (typeof id !== "string" || !isRequestId(id)) {
    throw new TypeError(`Expected \`id\` to be 1 to 128 of a-z A-Z 0-9 _ . -, got ${describeValue(id)}`);
  }
  const seed = params.seed ?? defaults.drawSeed();
  const owner = { id, priority, client, cacheSalt };
  return { ...owner, params: { ...params, seed }, expert, traceparent, prediction, constraint };
}

// Work of a front without the fleet: it reads prompts, and refuses calls that need weights.

function refuse(message: string): Promise<never> {
  return Promise.reject(new TypeError(message));
}

/** Options of `FleetEngine.open`. */
export interface FleetEngineOptions extends FleetMemberOptions {
  /** Reads prompts, as `openPromptReader` of @readme-moe/engine opens it. Disposed with this engine. */
  readonly reader: PromptReader;
  /** Longest predicted wait with which a request is admitted, in ms. @default 30000 */
  readonly maxWaitMs?: number | undefined;
  /** Time without Valkey after which requests fail, in ms. @default 15000 */
  readonly unreachableMs?: number | undefined;
}
