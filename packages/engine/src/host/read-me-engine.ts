// The engine as callers see it. This side only passes messages, so the event loop stays free.

import { randomInt } from "node:crypto";
import {
  errorChain,
  integerOption,
  onceAborted,
  rejectUnknownKeys,
  ReadMeEmitter,
  ReadMeError,
  type Engine,
  type EngineInfo,
  type GenerateRequest,
  type Generation,
  type Prompt,
} from "@readme-moe/core";
import { resolveEngineOptions, type ResolvedEngineOptions } from "../engine-options.ts";
import type { CallName, Calls, FromWorker, LoadProgress } from "../protocol.ts";
import { resolveSchedulingOptions, type SchedulingOptions } from "../scheduling-options.ts";
import { AnswerFormats } from "./answer-formats.ts";
import type { CallingEngine } from "./calling-engine.ts";
import { ExpertChanges } from "./expert-changes.ts";
import { type KeepPromptOptions, type KeptPrompt, KeptPrompts } from "./kept-prompts.ts";
import { type OpenedFiles, openFiles, type OpenOptions } from "./model-files.ts";
import { checkTask, embedTexts, rerankDocuments } from "./pooling.ts";
import { wireRequest } from "./request.ts";
import { RunningRequests } from "./running-requests.ts";
import { TextCalls } from "./text-calls.ts";
import { WorkerLink } from "./worker-link.ts";

/** Serves one model from a thread or a process of its own. */
export class ReadMeEngine implements Engine {
  readonly events: ReadMeEmitter = new ReadMeEmitter();
  readonly #files: OpenedFiles;
  #options: ResolvedEngineOptions;
  readonly #requests: RunningRequests;
  #link: WorkerLink | undefined;
  #info: EngineInfo | undefined;
  readonly #self: CallingEngine = {
    getInfo: () => this.info,
    call: (name, args, signal) => this.#call(name, args, signal),
  };
  readonly #experts = new ExpertChanges(this.#self, (experts) => (this.#info = { ...this.info, experts }));
  readonly #kept = new KeptPrompts({
    ...this.#self,
    compute: (prompt, keptId, options) =>
      this.#generate({ ...options, prompt, params: { maxTokens: 1, temperature: 0 } }, keptId),
    emit: (event) => this.events.emit("prompt:kept", event),
  });
  readonly #texts = new TextCalls(this.#self);
  readonly #formats = new AnswerFormats(() => this.vocabulary());
  #cacheFailure: string | undefined;
  /** Refusal of new requests after `drain`. */
  #drained: ReadMeError | undefined;
  #numRequests = 0;
  /** Set while the engine does not work: it failed, or was disposed. */
  #failure: ReadMeError | undefined;

  private constructor(files: OpenedFiles, options: ResolvedEngineOptions) {
    this.#files = files;
    this.#options = { ...options, draft: files.draft };
    const [getLink, getInfo] = [() => this.#link, () => this.info];
    this.#requests = new RunningRequests({
      get link() {
        return getLink();
      },
      get vocabSize() {
        return getInfo().vocabSize;
      },
      refusal: (numRequests) => this.#refusal(numRequests),
    });
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

  readonly tokenize: Engine["tokenize"] = this.#texts.tokenize;
  readonly detokenize: Engine["detokenize"] = this.#texts.detokenize;
  readonly applyTemplate: Engine["applyTemplate"] = this.#texts.applyTemplate;
  readonly vocabulary: Engine["vocabulary"] = this.#texts.vocabulary;
  readonly route: Engine["route"] = this.#texts.route;

  generate(request: GenerateRequest): Generation {
    return this.#generate(request);
  }

  embed: Engine["embed"] = async (request) => embedTexts(request, this.#pooling);
  rerank: Engine["rerank"] = async (request) => rerankDocuments(request, this.#pooling);

  /**
   * Computes the keys and values of a prompt now, and keeps them in memory: later prompts that begin with it, such as
   * chats with the same system message, start behind it. A chat without a user's message at its end stands for the
   * beginning of all chats with these messages and template variables. With `savedPromptsFolder` they are saved, and
   * read instead of computed by the next engine of the same model; tokens and log-probabilities are the same bits.
   *
   * @throws {TypeError | RangeError} on a wrong prompt, or when `prefixCacheBytes` has no room for it
   * @throws {ReadMeError} `ERR_CONTEXT_LENGTH`, `ERR_CHAT_TEMPLATE`, `ERR_ENGINE_FAILED`, `ERR_DISPOSED` …
   */
  keepPrompt(prompt: Prompt, options?: KeepPromptOptions): Promise<KeptPrompt> {
    return this.#kept.keep(prompt, options);
  }

  /** @param keptId - id of the prompt, which is kept when it is computed */
  #generate(request: GenerateRequest, keptId?: number): Generation {
    checkTask("generate", this.info);
    const leave = new AbortController();
    const { wire, functions } = wireRequest(request, request?.id ?? this.#newId(), {
      info: this.info,
      drawSeed: () => randomInt(2 ** 47),
      processorOf: (format, beside) =>
        this.#formats.processorOf(format, beside, { signal: leave.signal, client: request.client }),
    });
    return this.#requests.begin({ ...wire, keptId }, request.signal, { functions, leave });
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
    await Promise.all([this.#link?.close(), this.#formats.dispose()]);
    await this.#files.release();
    this.events.removeAllListeners();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #start(onProgress?: (progress: LoadProgress) => void, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    const link = new WorkerLink(this.#options, {
      onStep: (step) => this.#receive(step),
      onFunctionCall: (call) => void this.#requests.answer(call),
      onFailed: (error) => this.#fail(error),
    });
    const stopListening = onceAborted(signal, () => link.kill());
    try {
      const { info, cacheFailure } = await link.open(this.#files.path, this.#options, onProgress);
      [this.#link, this.#cacheFailure] = [link, cacheFailure];
      this.#info = { ...info, name: this.#files.name };
      [this.#failure, this.#drained] = [undefined, undefined];
      link.watchInterest(this.events);
      await this.#experts.repeat();
      await this.#kept.repeat();
    } catch (error) {
      await link.close();
      signal?.throwIfAborted();
      throw error;
    } finally {
      stopListening();
    }
  }

  get #pooling(): Parameters<typeof embedTexts>[1] {
    const { info } = this;
    return { info, begin: (...request) => this.#requests.begin(...request), newId: () => this.#newId() };
  }

  #newId(): string {
    return `request-${++this.#numRequests}`;
  }

  #receive(step: FromWorker & { type: "step" }): void {
    // oxlint-disable-next-line typescript/no-unnecessary-type-assertion -- tsc does not see that name and payload match
    for (const { name, payload } of step.events) this.events.emit(name, payload as never);
    this.#requests.receive(step);
  }

  #fail(error: ReadMeError): void {
    this.#failure = error;
    this.#requests.failAll(error);
    this.events.emit("engine:failed", { code: error.code, message: error.message, causes: errorChain(error) });
  }

  /** Returns the reason why no request can start now. */
  #refusal(numRequests: number): ReadMeError | undefined {
    const failure = this.#failure ?? this.#drained;
    if (failure || numRequests < this.#options.maxNumRequests) return failure;
    return new ReadMeError("ERR_QUEUE_FULL", `${numRequests} requests are under way; try again later`);
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
