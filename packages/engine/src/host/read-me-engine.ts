// The engine as callers see it. This side only passes messages, so the event loop stays free.

import { randomInt } from "node:crypto";
import {
  errorChain,
  GenerationStream,
  integerOption,
  onceAborted,
  ReadMeEmitter,
  ReadMeError,
  rejectUnknownKeys,
  type ChatPrompt,
  type Engine,
  type EngineInfo,
  type EngineVocabulary,
  type GenerateRequest,
  type Generation,
  type Prompt,
  type RoutedPrompt,
  type TokenizeOptions,
} from "@readme-moe/core";
import { resolveEngineOptions, type EngineOptions, type ResolvedEngineOptions } from "../engine-options.ts";
import { type OpenedFiles, openFiles } from "./model-files.ts";
import type { CallName, Calls, FromWorker, LoadProgress } from "../protocol.ts";
import { resolveSchedulingOptions, type SchedulingOptions } from "../scheduling-options.ts";
import { callFunction, type FunctionCall } from "./caller-functions.ts";
import { ExpertChanges } from "./expert-changes.ts";
import { OpenRequests } from "./open-requests.ts";
import { checkExpert, wireChat, wirePrompt, wireRequest, wireTokenize } from "./request.ts";
import { WorkerLink } from "./worker-link.ts";

/** Options of `ReadMeEngine.open`: those of the engine, and those of opening it. */
export interface OpenOptions extends EngineOptions {
  /** Called while the model is opened. */
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Serves one model from a thread or a process of its own. */
export class ReadMeEngine implements Engine {
  readonly events: ReadMeEmitter = new ReadMeEmitter();
  readonly #files: OpenedFiles;
  #options: ResolvedEngineOptions;
  readonly #requests = new OpenRequests(() => this.#link?.release());
  #link: WorkerLink | undefined;
  #info: EngineInfo | undefined;
  readonly #experts = new ExpertChanges({
    getInfo: () => this.info,
    setNames: (experts) => (this.#info = { ...this.info, experts }),
    call: (name, args) => this.#call(name, args),
  });
  #cacheFailure: string | undefined;
  /** Refusal of new requests after `drain`. */
  #drained: ReadMeError | undefined;
  #vocabulary: Promise<EngineVocabulary> | undefined;
  #numRequests = 0;
  /** Set while the engine does not work: it failed, or was disposed. */
  #failure: ReadMeError | undefined;

  private constructor(files: OpenedFiles, options: ResolvedEngineOptions) {
    this.#files = files;
    this.#options = { ...options, draft: files.draft };
  }

  /**
   * Opens a model: a folder, a GGUF or ONNX file, a short name such as `qwen3:0.6b`, or a repository of the Hugging
   * Face hub such as `Qwen/Qwen3-0.6B`. A model that is not on this machine is downloaded first.
   *
   * @throws {TypeError | RangeError} on wrong options
   * @throws {ReadMeError} when the model cannot be opened, naming file and tensor, or the unsupported feature; when it
   *   cannot be downloaded, with advice
   */
  static async open(path: string, { onProgress, signal, ...options }: OpenOptions = {}): Promise<ReadMeEngine> {
    const resolved = resolveEngineOptions(options);
    const files = await openFiles(path, resolved, { onProgress, signal });
    const engine = new ReadMeEngine(files, resolved);
    await engine.#start(onProgress, signal).catch(files.giveUp);
    return engine;
  }

  get info(): EngineInfo {
    if (!this.#info) throw new TypeError("Expected the engine to be open");
    return this.#info;
  }

  /** Reason why packed weights could not be cached on disk. */
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

  applyTemplate: Engine["applyTemplate"] = async (messages, template = {}) =>
    this.#call("applyTemplate", wireChat(messages, template));

  vocabulary(): Promise<EngineVocabulary> {
    return (this.#vocabulary ??= this.#call("vocabulary", {}).catch((error: unknown) => {
      // The next call tries again.
      this.#vocabulary = undefined;
      throw error;
    }));
  }

  async route(prompt: Prompt, expert?: string | number): Promise<RoutedPrompt> {
    checkExpert(expert, this.info);
    return this.#call("route", { prompt: wirePrompt(prompt, this.info), expert });
  }

  generate(request: GenerateRequest): Generation {
    const requestId = request?.id ?? `request-${++this.#numRequests}`;
    const { wire, functions } = wireRequest(request, requestId, this.info, () => randomInt(2 ** 47));
    if (this.#requests.get(requestId)) throw new TypeError(`Expected \`id\` to be new, got \`${requestId}\``);
    const { signal } = request;
    const stream = new GenerationStream(() => this.#abandon(requestId));
    const refusal = this.#refusal(signal);
    if (refusal !== undefined) {
      stream.fail(refusal);
      return stream;
    }
    const detach = onceAborted(signal, () => {
      stream.fail(signal?.reason);
      this.#abandon(requestId);
    });
    this.#requests.add(requestId, { stream, functions, detach });
    this.#link?.hold();
    this.#link?.post({ type: "generate", ...wire });
    return stream;
  }

  addExpert: Engine["addExpert"] = (name, path) => this.#experts.add(name, path);

  removeExpert: Engine["removeExpert"] = (name) => this.#experts.remove(name);

  stats: Engine["stats"] = async () => this.#call("stats", {});

  whenFailed(): Promise<ReadMeError> {
    return this.#link?.failed ?? new Promise(() => undefined);
  }

  /**
   * Changes the scheduler from the next step on. Options that are left out take their defaults.
   * @throws {TypeError | RangeError} on wrong options
   * @throws {ReadMeError} `ERR_MODULE`; the previous scheduler stays then
   */
  async setScheduling(options: SchedulingOptions): Promise<void> {
    rejectUnknownKeys("scheduling", options, ["scheduler", "prefillShare", "maxDelayMs", "maxStepMs"]);
    const resolved = resolveSchedulingOptions(options);
    await this.#call("setScheduling", resolved);
    this.#options = { ...this.#options, ...resolved };
  }

  /**
   * Changes the memory budget of experts, `expertCacheBytes`. A smaller budget evicts experts at once and returns their
   * memory to the system; a larger one is filled as experts are needed.
   * @throws {RangeError} when one layer of all experts does not fit; names the least budget
   * @throws {TypeError} when all experts are in memory
   */
  async setExpertCacheBytes(bytes: number): Promise<void> {
    integerOption("bytes", bytes, 1);
    await this.#call("setExpertCacheBytes", { bytes });
    this.#options = { ...this.#options, expertCacheBytes: bytes };
  }

  /**
   * Opens the model again after the engine has failed, with the experts that were added. Earlier requests have ended
   * with the failure. An added expert whose folder is gone is left out of `info.experts`.
   * @throws {TypeError} when the engine works, or was disposed
   * @throws {ReadMeError} as `open`
   */
  async restart(onProgress?: (progress: LoadProgress) => void): Promise<void> {
    if (this.#failure?.code !== "ERR_ENGINE_FAILED") throw new TypeError("Expected an engine that has failed");
    await this.#start(onProgress);
  }

  /**
   * Ends the worker at once, for an engine that hangs. Requests and calls under way fail with `ERR_ENGINE_FAILED`;
   * `restart` opens the model again.
   */
  kill(): void {
    this.#link?.kill();
  }

  /**
   * Ends all requests at the next step, for a machine that is about to leave: each iteration gives the chunks of all
   * tokens that were generated, then throws `ERR_DRAINED`. Another engine can go on after them, see `resume`. New
   * requests are refused with the same error; other calls go on until `dispose`.
   */
  async drain(): Promise<void> {
    const drained = new ReadMeError("ERR_DRAINED", "The engine is drained; another one can go on after these tokens");
    this.#drained = drained;
    await this.#call("drain", {}).catch((error: unknown) => {
      // Requests of an engine that has failed have ended.
      if (!this.#failure) throw error;
    });
    this.#requests.interruptAll(drained);
  }

  async dispose(): Promise<void> {
    this.#failure = new ReadMeError("ERR_DISPOSED", "The engine was disposed");
    this.#requests.failAll(this.#failure);
    await this.#link?.close();
    await this.#files.release();
    this.events.removeAllListeners();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #start(onProgress?: (progress: LoadProgress) => void, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    const link = new WorkerLink(this.#options.isolation, {
      onStep: (step) => this.#receive(step),
      onFunctionCall: (call) => void this.#answer(call),
      onFailed: (error) => this.#fail(error),
    });
    const stopListening = onceAborted(signal, () => link.kill());
    try {
      const { info, cacheFailure } = await link.open(this.#files.path, this.#options, onProgress);
      [this.#link, this.#info, this.#cacheFailure] = [link, info, cacheFailure];
      [this.#failure, this.#drained] = [undefined, undefined];
      link.watchInterest(this.events);
      await this.#experts.repeat();
    } catch (error) {
      await link.close();
      signal?.throwIfAborted();
      throw error;
    } finally {
      stopListening();
    }
  }

  #receive({ events, ...results }: FromWorker & { type: "step" }): void {
    // oxlint-disable-next-line typescript/no-unnecessary-type-assertion -- tsc does not see that name and payload match
    for (const { name, payload } of events) this.events.emit(name, payload as never);
    this.#requests.publish(results);
  }

  /** Calls a request's function and sends its answer. The request fails if the function does. */
  async #answer(call: FunctionCall): Promise<void> {
    const { requestId } = call;
    const request = this.#requests.get(requestId);
    if (!request) return;
    try {
      const answer = await callFunction(request.functions, call, this.info.vocabSize);
      // The request may have ended during the call.
      if (answer && this.#requests.get(requestId) === request) this.#link?.post(answer);
    } catch (error) {
      if (this.#requests.get(requestId) !== request) return;
      request.stream.fail(error);
      this.#abandon(requestId, "error");
    }
  }

  #fail(error: ReadMeError): void {
    this.#failure = error;
    this.#requests.failAll(error);
    this.events.emit("engine:failed", { code: error.code, message: error.message, causes: errorChain(error) });
  }

  #abandon(requestId: string, reason: "abort" | "error" = "abort"): void {
    if (this.#requests.remove(requestId)) this.#link?.post({ type: "abort", requestId, reason });
  }

  /** Returns the reason why no request can start now. */
  #refusal(signal: AbortSignal | undefined): unknown {
    if (signal?.aborted) return signal.reason;
    if (this.#failure ?? this.#drained) return this.#failure ?? this.#drained;
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
