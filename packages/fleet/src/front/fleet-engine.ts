// An engine whose steps run on the machines of a fleet. It holds a tokenizer and a router, and no model.

import { randomInt, randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import {
  GenerationStream,
  onceAborted,
  ReadMeEmitter,
  ReadMeError,
  type Engine,
  type EngineInfo,
  type EngineStats,
  type GenerateRequest,
  type Generation,
  type PromptReader,
} from "@readme-moe/core";
import { affinitiesOf, affinityOf, countExperts } from "../affinity.ts";
import { describeAddress, parseFleetUrl, type FleetAddress } from "../connection/address.ts";
import { openConnection, type Connection, type ConnectionLimits } from "../connection/connect.ts";
import { unreachable } from "../connection/errors.ts";
import { writeJob, type FleetJob } from "../job.ts";
import { withScripts, type ScriptedRedis } from "../log/scripts.ts";
import { cancelRequest } from "../log/token-log.ts";
import { JobAdder, type QueuePlace } from "../queue/job-queues.ts";
import { checkRequest, needsEngine, type CheckedRequest } from "./check-request.ts";
import { fleetStats } from "./fleet-stats.ts";
import { FleetView } from "./fleet-view.ts";
import { FollowedRequests } from "./followed-requests.ts";
import { Follower } from "./follower.ts";
import { SequenceEvents } from "./sequence-events.ts";

/** Options of `FleetEngine.open`. */
export interface FleetEngineOptions {
  /** URL of the fleet's Valkey or Redis. */
  readonly fleet: string | FleetAddress;
  /** Reads prompts, as `openPromptReader` of @readme-moe/engine opens it. Disposed with this engine. */
  readonly reader: PromptReader;
  /** Longest predicted wait with which a request is admitted, in ms. @default 30000 */
  readonly maxWaitMs?: number | undefined;
  /** Time without Valkey after which requests fail, in ms. @default 15000 */
  readonly unreachableMs?: number | undefined;
  readonly limits?: ConnectionLimits | undefined;
  /** Called with each failure of the connection. Without secrets. */
  readonly onError?: ((error: Error) => void) | undefined;
}

/** A request that begins. */
interface Begun {
  readonly follower: Follower;
  readonly sequences: SequenceEvents;
}

const [MAX_WAIT_MS, UNREACHABLE_MS, SUBMIT_MS, RETRY_MS] = [30_000, 15_000, 5000, 50] as const;

/** Serves a model that runs on the workers of a fleet. */
export class FleetEngine implements Engine {
  readonly events: ReadMeEmitter = new ReadMeEmitter();
  readonly tokenize: Engine["tokenize"];
  readonly detokenize: Engine["detokenize"];
  readonly applyTemplate: Engine["applyTemplate"];
  readonly vocabulary: Engine["vocabulary"];
  readonly route: Engine["route"];
  readonly #reader: PromptReader;
  readonly #address: FleetAddress;
  readonly #connections: readonly Connection[];
  readonly #redis: ScriptedRedis;
  readonly #adder: JobAdder;
  readonly #view: FleetView;
  readonly #followed: FollowedRequests;
  readonly #maxWaitMs: number;
  #numDifferent = 0;
  #isDisposed = false;

  private constructor(options: FleetEngineOptions) {
    const { fleet, reader, limits, onError } = options;
    const { maxWaitMs = MAX_WAIT_MS, unreachableMs = UNREACHABLE_MS } = options;
    this.#reader = reader;
    this.tokenize = (prompt, how) => reader.tokenize(prompt, how);
    this.detokenize = (tokenIds) => reader.detokenize(tokenIds);
    this.applyTemplate = (messages, template) => reader.applyTemplate(messages, template);
    this.vocabulary = () => reader.vocabulary();
    this.route = (prompt, expert) => reader.route(prompt, expert);
    this.#address = typeof fleet === "string" ? parseFleetUrl(fleet) : fleet;
    this.#maxWaitMs = maxWaitMs;
    const open = (): Connection => openConnection(this.#address, onError, limits);
    const [main, listening] = [open(), open()];
    this.#connections = [main, listening];
    this.#redis = withScripts(main.redis);
    this.#adder = new JobAdder(this.#redis, reader.info);
    this.#view = new FleetView(this.#redis, reader.info.promptVersion, affinitiesOf(reader.info));
    this.#followed = new FollowedRequests({
      redis: this.#redis,
      listening: listening.redis,
      adder: this.#adder,
      unreachableMs,
      unreachable: (cause) => unreachable(this.#address, "request under way", cause),
    });
  }

  /**
   * Opens a front.
   *
   * @throws {TypeError | RangeError} on a wrong URL
   * @throws {ReadMeError} `ERR_FLEET_UNREACHABLE` when the fleet's Valkey does not answer
   */
  static async open(options: FleetEngineOptions): Promise<FleetEngine> {
    const { task, path } = options.reader.info;
    if (task !== "generate") {
      throw new TypeError(
        `Expected a model that continues prompts; ${path} is for \`${task}\`: serve it without a fleet`,
      );
    }
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
    const { workers, modelVersion } = this.#view.snapshot;
    return {
      ...this.#reader.info,
      modelVersion,
      precision: workers[0]?.precision ?? "unknown",
      maxNumSeqs: Math.max(
        1,
        workers.reduce((sum, { maxNumSeqs }) => sum + maxNumSeqs, 0),
      ),
      kvCapacityTokens: workers.reduce((sum, worker) => sum + worker.kvCapacityTokens, 0),
    };
  }

  /** Address of the fleet's Valkey, without secrets. */
  get address(): string {
    return describeAddress(this.#address);
  }

  /** Answers whose log had another token than before; always 0 unless workers compute different bits. */
  get numDifferent(): number {
    return this.#numDifferent;
  }

  generate(request: GenerateRequest): Generation {
    const checked = checkRequest(request, this.info, {
      newId: () => `fleet-${randomUUID()}`,
      drawSeed: () => randomInt(2 ** 47),
    });
    const { id } = checked;
    if (this.#followed.has(id)) throw new TypeError(`Expected \`id\` to be new, got \`${id}\``);
    const stream = new GenerationStream(() => {
      sequences.ended("abort", performance.now());
      follower.leave();
      this.#cancel(id);
    });
    const { signal } = request;
    if (signal?.aborted || this.#isDisposed) {
      stream.fail(signal?.aborted ? signal.reason : new ReadMeError("ERR_DISPOSED", "The engine was disposed"));
      return stream;
    }
    const queuedMs = performance.now();
    const numChoices = checked.params.n ?? 1;
    const sequences = new SequenceEvents(this.events, id, numChoices, queuedMs);
    const follower = new Follower({
      numChoices,
      stream,
      nowMs: queuedMs,
      onChunk: (chunk) => sequences.chunk(chunk, performance.now()),
      onDifferent: () => this.#numDifferent++,
      onFailed: () => sequences.ended("error", performance.now()),
    });
    const detach = onceAborted(signal, () => {
      sequences.ended("abort", performance.now());
      follower.fail(signal?.reason);
      this.#cancel(id);
    });
    this.#followed.add(id, { follower, detach });
    void this.#begin(request.prompt, checked, { follower, sequences });
    return stream;
  }

  readonly embed: Engine["embed"] = needsEngine;
  readonly rerank: Engine["rerank"] = needsEngine;
  readonly addExpert: Engine["addExpert"] = needsEngine;
  readonly removeExpert: Engine["removeExpert"] = needsEngine;

  async stats(): Promise<EngineStats> {
    await this.#view.refresh();
    return fleetStats(this.#view.snapshot, process.memoryUsage.rss());
  }

  whenFailed(): Promise<ReadMeError> {
    // Workers and Valkey come back; requests meanwhile fail one by one.
    return new Promise(() => undefined);
  }

  async dispose(): Promise<void> {
    if (this.#isDisposed) return;
    this.#isDisposed = true;
    const error = new ReadMeError("ERR_DISPOSED", "The engine was disposed");
    await Promise.all(this.#followed.ids().map((id) => this.#end(id, error)));
    await this.#close();
    await this.#reader.dispose();
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

  async #begin(
    prompt: GenerateRequest["prompt"],
    checked: CheckedRequest,
    { follower, sequences }: Begun,
  ): Promise<void> {
    const { id, expert, priority = 0 } = checked;
    try {
      // Workers may have come since.
      if (this.#view.snapshot.modelVersion === undefined) await this.#view.refresh().catch(() => undefined);
      const modelVersion = this.#admit(priority);
      const routed = await this.#reader.route(prompt, expert);
      const { info } = this.#reader;
      const expertTokens = countExperts(routed.experts, info);
      // The log of an answer stays for a while, and a later request may have the same id.
      const jobId = `${id}.${randomUUID().slice(0, 12)}`;
      const job = writeJob({ ...checked, id: jobId, promptIds: routed.tokenIds, expertTokens });
      if (follower.isOver) return;
      await this.#submit(id, job, { modelVersion, affinity: affinityOf(routed, info) });
      if (follower.isOver) return;
      sequences.queued(routed.tokenIds.length, this.#view.numWaiting);
      follower.stream.accept({ promptTokens: routed.tokenIds.length, experts: routed.experts });
    } catch (error) {
      if (!follower.isOver) follower.fail(error);
      await this.#followed.forget(id);
    }
  }

  /**
   * Refuses a request that would wait for too long.
   *
   * @returns the model version that it goes to
   * @throws {ReadMeError} `ERR_QUEUE_FULL`, with the time to wait; `ERR_FLEET_UNREACHABLE`
   */
  #admit(priority: number): string {
    if (this.#view.ageMs > SUBMIT_MS) throw unreachable(this.#address, "state of the workers");
    const { isAdmitted, waitMs, retryAfterMs } = this.#view.admit(priority, this.#maxWaitMs);
    const { modelVersion } = this.#view.snapshot;
    if (isAdmitted && modelVersion !== undefined) return modelVersion;
    const why = waitMs === Infinity ? "no worker of the fleet has this model" : "all workers of the fleet are busy";
    const retry = Number.isFinite(retryAfterMs) ? { retryAfterMs: Math.max(1000, retryAfterMs) } : {};
    throw new ReadMeError("ERR_QUEUE_FULL", `${why}; try again later`, retry);
  }

  /** Adds a job, again and again for 5 s. */
  async #submit(id: string, job: FleetJob, place: QueuePlace): Promise<void> {
    const untilMs = performance.now() + SUBMIT_MS;
    for (;;) {
      try {
        // An entry that comes before the front listens is asked for.
        await Promise.all([this.#followed.listen(id, { job, place }), this.#adder.add(job, place, this.#maxWaitMs)]);
        this.#view.added();
        return;
      } catch (error) {
        if (performance.now() < untilMs && !this.#isDisposed) {
          await sleep(RETRY_MS, undefined, { ref: false });
          continue;
        }
        // It may have been added although no answer came.
        await cancelRequest(this.#redis, job.id).catch(() => undefined);
        throw unreachable(this.#address, "new request", error);
      }
    }
  }

  #cancel(id: string): void {
    void this.#end(id).catch(() => undefined);
  }

  async #end(id: string, error?: unknown): Promise<void> {
    const submitted = this.#followed.submittedOf(id);
    if (error !== undefined) this.#followed.fail(id, error);
    await this.#followed.forget(id);
    if (!submitted) return;
    const { job, place } = submitted;
    await cancelRequest(this.#redis, job.id);
    await this.#adder.remove(job.id, place);
  }
}
