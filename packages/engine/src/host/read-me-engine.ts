// The engine as callers see it: this side only passes messages, so the event loop stays free.

import { randomInt } from "node:crypto";
import {
  errorChain,
  integerOption,
  rejectUnknownKeys,
  ReadMeEmitter,
  ReadMeError,
  type ChatMessage,
  type ChatPrompt,
  type Engine,
  type EngineInfo,
  type EngineStats,
  type EngineVocabulary,
  type GenerateRequest,
  type Generation,
  type ProcessLogits,
  type Prompt,
  type RoutedPrompt,
  type TokenizeOptions,
} from "@readme-moe/core";
import { resolveSchedulingOptions, type SchedulingOptions } from "../scheduling-options.ts";
import { resolveEngineOptions, type EngineOptions, type ResolvedEngineOptions } from "../engine-options.ts";
import {
  fromWire,
  type CallName,
  type Calls,
  type FromWorker,
  type LoadProgress,
  type WireLogits,
} from "../protocol.ts";
import { onceAborted } from "./abort-listeners.ts";
import { ChunkStream } from "./chunk-stream.ts";
import { processRow } from "./process-row.ts";
import { tellInterest } from "./tell-interest.ts";
import { checkExpert, wireChat, wirePrompt, wireRequest, wireTokenize } from "./request.ts";
import { WorkerLink } from "./worker-link.ts";

/** Of `ReadMeEngine.open`: the engine's options, and what concerns opening alone. */
export interface OpenOptions extends EngineOptions {
  /** Called while the model is opened. */
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A request that is under way. */
interface Underway {
  readonly stream: ChunkStream;
  readonly processLogits: ProcessLogits | undefined;
  /** Stops listening to the caller's signal. */
  readonly detach: () => void;
}

/** Serves one model from a thread or a process of its own. */
export class ReadMeEngine implements Engine {
  readonly events: ReadMeEmitter = new ReadMeEmitter();
  readonly #path: string;
  #options: ResolvedEngineOptions;
  readonly #requests = new Map<string, Underway>();
  #link: WorkerLink | undefined;
  #info: EngineInfo | undefined;
  #cacheFailure: string | undefined;
  #vocabulary: Promise<EngineVocabulary> | undefined;
  #numRequests = 0;
  /** Why the engine does not work: it failed, or was disposed. */
  #failure: ReadMeError | undefined;
  #onFailed: ((error: ReadMeError) => void)[] = [];

  private constructor(path: string, options: ResolvedEngineOptions) {
    this.#path = path;
    this.#options = options;
  }

  /**
   * Opens a model: a folder or a GGUF file.
   * @throws {TypeError | RangeError} on wrong options
   * @throws {ReadMeError} when the model cannot be opened; names file and tensor, or what is not supported
   */
  static async open(path: string, { onProgress, signal, ...options }: OpenOptions = {}): Promise<ReadMeEngine> {
    if (typeof path !== "string" || path === "") throw new TypeError("Expected `path` to name a folder or a GGUF file");
    const engine = new ReadMeEngine(path, resolveEngineOptions(options));
    await engine.#start(onProgress, signal);
    return engine;
  }

  get info(): EngineInfo {
    if (!this.#info) throw new TypeError("Expected the engine to be open");
    return this.#info;
  }

  /** Why the model's packed weights are not cached on disk, where they are not. */
  get cacheFailure(): string | undefined {
    return this.#cacheFailure;
  }

  async tokenize(prompt: string | ChatPrompt, options: TokenizeOptions = {}): Promise<Int32Array> {
    return this.#call("tokenize", wireTokenize(prompt, options), options.signal);
  }

  async detokenize(tokenIds: ArrayLike<number>): Promise<string> {
    const ids = Int32Array.from(tokenIds, (id) => integerOption("tokenIds", id, 0, this.info.vocabSize - 1));
    return this.#call("detokenize", { tokenIds: ids });
  }

  async applyTemplate(
    messages: readonly ChatMessage[],
    template: Readonly<Record<string, unknown>> = {},
  ): Promise<string> {
    return this.#call("applyTemplate", wireChat(messages, template));
  }

  async vocabulary(): Promise<EngineVocabulary> {
    const asked = (this.#vocabulary ??= this.#call("vocabulary", {}));
    try {
      return await asked;
    } catch (error) {
      // One that failed may be asked again.
      if (this.#vocabulary === asked) this.#vocabulary = undefined;
      throw error;
    }
  }

  async route(prompt: Prompt, expert?: string | number): Promise<RoutedPrompt> {
    checkExpert(expert, this.info);
    return this.#call("route", { prompt: wirePrompt(prompt, this.info), expert });
  }

  generate(request: GenerateRequest): Generation {
    const requestId = request?.id ?? `request-${++this.#numRequests}`;
    const wire = wireRequest(request, requestId, this.info, () => randomInt(2 ** 47));
    if (this.#requests.has(requestId)) throw new TypeError(`Expected \`id\` to be new, got \`${requestId}\``);
    const { signal, processLogits } = request;
    const stream = new ChunkStream(() => this.#abandon(requestId));
    const refusal = this.#refusal(signal);
    if (refusal !== undefined) {
      stream.fail(refusal);
      return stream;
    }
    const onAbort = (): void => {
      stream.fail(signal?.reason);
      this.#abandon(requestId);
    };
    const detach = onceAborted(signal, onAbort);
    this.#requests.set(requestId, { stream, processLogits, detach });
    this.#link?.hold();
    this.#link?.post({ type: "generate", ...wire });
    return stream;
  }

  async stats(): Promise<EngineStats> {
    return this.#call("stats", {});
  }

  whenFailed(): Promise<ReadMeError> {
    const failure = this.#failure;
    if (failure?.code === "ERR_ENGINE_FAILED") return Promise.resolve(failure);
    return new Promise((resolve) => this.#onFailed.push(resolve));
  }

  /**
   * Changes who runs next, while the engine works: from the next step on. What is not given has its default.
   *
   * @throws {TypeError | RangeError} on wrong options
   * @throws {ReadMeError} `ERR_MODULE`; the scheduler of before goes on then
   */
  async setScheduling(options: SchedulingOptions): Promise<void> {
    rejectUnknownKeys("scheduling", options, ["scheduler", "prefillShare", "maxDelayMs", "maxStepMs"]);
    const resolved = resolveSchedulingOptions(options);
    await this.#call("setScheduling", resolved);
    this.#options = { ...this.#options, ...resolved };
  }

  /**
   * Changes how much memory experts may take, while the engine works: `expertCacheBytes`. What a smaller limit has no room for
   * leaves at once, and its memory goes back to the system; a larger one is filled as experts are needed.
   *
   * @throws {RangeError} when one layer of all experts does not fit; names the least
   * @throws {TypeError} when all experts are in memory
   */
  async setExpertCacheBytes(bytes: number): Promise<void> {
    integerOption("bytes", bytes, 1);
    await this.#call("setExpertCacheBytes", { bytes });
    this.#options = { ...this.#options, expertCacheBytes: bytes };
  }

  /**
   * Opens the model again after the engine failed. Requests of before are gone; their callers were told.
   * @throws {TypeError} when the engine works, or was disposed
   * @throws {ReadMeError} as `open`
   */
  async restart(onProgress?: (progress: LoadProgress) => void): Promise<void> {
    if (this.#failure?.code !== "ERR_ENGINE_FAILED") throw new TypeError("Expected an engine that has failed");
    await this.#start(onProgress);
  }

  /**
   * Ends the worker at once, whatever it does: for one that hangs. Those who wait get `ERR_ENGINE_FAILED`; `restart`
   * opens the model again.
   */
  kill(): void {
    this.#link?.kill();
  }

  async dispose(): Promise<void> {
    this.#failure = new ReadMeError("ERR_DISPOSED", "The engine was disposed");
    this.#endAll(this.#failure);
    await this.#link?.close();
    this.events.removeAllListeners();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #start(onProgress?: (progress: LoadProgress) => void, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    const link = new WorkerLink(this.#options.isolation, {
      onStep: (step) => this.#receive(step),
      onLogits: (row) => void this.#process(row),
      onFailed: (error) => this.#fail(error),
    });
    const stopListening = onceAborted(signal, () => link.kill());
    try {
      const { info, cacheFailure } = await link.open(this.#path, this.#options, onProgress);
      [this.#link, this.#info, this.#cacheFailure, this.#failure] = [link, info, cacheFailure, undefined];
      tellInterest(this.events, link);
    } catch (error) {
      await link.close();
      signal?.throwIfAborted();
      throw error;
    } finally {
      stopListening();
    }
  }

  #receive({ accepted, chunks, failures, events }: FromWorker & { type: "step" }): void {
    // oxlint-disable-next-line typescript/no-unnecessary-type-assertion -- tsc does not see that they belong together
    for (const { name, payload } of events) this.events.emit(name, payload as never);
    for (const { requestId, ...prompt } of accepted) this.#requests.get(requestId)?.stream.accept(prompt);
    for (const { requestId, chunk } of chunks) {
      const request = this.#requests.get(requestId);
      request?.stream.push(chunk);
      if (chunk.usage) this.#forget(requestId)?.stream.end();
    }
    for (const { requestId, error } of failures) this.#forget(requestId)?.stream.fail(fromWire(error));
  }

  /** Sends back what a request's function makes of a row; when it fails, the request does. */
  async #process({ requestId, rowId, logits, context }: WireLogits): Promise<void> {
    const request = this.#requests.get(requestId);
    if (!request?.processLogits) return;
    // It may have left while the function was at work.
    const isUnderway = (): boolean => this.#requests.get(requestId) === request;
    try {
      const processed = await processRow(request.processLogits, logits, context);
      if (isUnderway()) this.#link?.post({ type: "processed", rowId, logits: processed });
    } catch (error) {
      if (!isUnderway()) return;
      request.stream.fail(error);
      this.#abandon(requestId, "error");
    }
  }

  #fail(error: ReadMeError): void {
    this.#failure = error;
    for (const resolve of this.#onFailed.splice(0)) resolve(error);
    this.#endAll(error);
    this.events.emit("engine:failed", { code: error.code, message: error.message, causes: errorChain(error) });
  }

  #endAll(error: ReadMeError): void {
    for (const requestId of this.#requests.keys()) this.#forget(requestId)?.stream.fail(error);
  }

  #abandon(requestId: string, reason: "abort" | "error" = "abort"): void {
    if (this.#forget(requestId)) this.#link?.post({ type: "abort", requestId, reason });
  }

  #forget(requestId: string): Underway | undefined {
    const request = this.#requests.get(requestId);
    if (this.#requests.delete(requestId)) this.#link?.release();
    request?.detach();
    return request;
  }

  /** Why a request cannot be taken now. */
  #refusal(signal: AbortSignal | undefined): unknown {
    if (signal?.aborted) return signal.reason;
    if (this.#failure) return this.#failure;
    if (this.#requests.size < this.#options.maxNumRequests) return undefined;
    return new ReadMeError("ERR_QUEUE_FULL", `${this.#requests.size} requests are under way; try again later`);
  }

  async #call<Name extends CallName>(
    name: Name,
    args: Calls[Name]["args"],
    signal?: AbortSignal,
  ): Promise<Calls[Name]["result"]> {
    if (this.#failure || !this.#link) throw this.#failure ?? new ReadMeError("ERR_DISPOSED", "The engine is not open");
    return this.#link.call(name, args, signal);
  }
}
