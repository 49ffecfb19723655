// The engine as callers see it. This side only passes messages, so the event loop stays free.

import { randomInt } from "node:crypto";
import { resolve } from "node:path";
import {
  type AnswerFormat,
  checkAnswerFormat,
  describeValue,
  type Engine,
  type EngineInfo,
  type EngineVocabulary,
  errorChain,
  expertIndex,
  type FilledMasks,
  type FillMasksRequest,
  type GenerateRequest,
  type Generation,
  integerOption,
  type LoadProgress,
  onceAborted,
  type ProcessLogits,
  type Prompt,
  ReadMeEmitter,
  ReadMeError,
  rejectUnknownKeys,
} from "@readme-moe/core";
import { type Asker, Grammars } from "@readme-moe/grammar";
import {
  type ResolvedEngineOptions,
  resolveEngineOptions,
  resolveSchedulingOptions,
  type SchedulingOptions,
} from "../engine-options.ts";
import type { CallName, Calls, FromWorker } from "../protocol.ts";
import { type CallingEngine, checkTask, TextCalls, wireRequest } from "./request.ts";
import { type KeepPromptOptions, type KeptPrompt, PromptKeeper } from "./kept-prompts.ts";
import { type OpenedFiles, openFiles, type OpenOptions } from "./model-files.ts";
import { classifyTexts, embedTexts, fillMasks, rerankDocuments } from "./pooling.ts";
import { RunningRequests } from "./running-requests.ts";
import { WorkerLink } from "./worker-link.ts";

/** Serves one model from a thread or a process of its own. */
export class ReadMeEngine implements Engine {
  readonly events: ReadMeEmitter = new ReadMeEmitter();
  readonly #files: OpenedFiles;
  #options: ResolvedEngineOptions;
  readonly #requests: RunningRequests = new RunningRequests({
    getLink: () => this.#link,
    getInfo: () => this.info,
    refusal: (numRequests) => this.#refusal(numRequests),
  });
  #link: WorkerLink | undefined;
  #info: EngineInfo | undefined;
  readonly #self: CallingEngine = {
    getInfo: () => this.info,
    call: (name, args, signal) => this.#call(name, args, signal),
  };
  readonly #experts = new ExpertChanges(this.#self, (experts) => (this.#info = { ...this.info, experts }));
  readonly #kept = new PromptKeeper({
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
    this.#options = options;
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
  classify: Engine["classify"] = async (request) => classifyTexts(request, this.#pooling);

  /**
   * Computes logits of all tokens in the places of masks, with the head of an encoder (`info.mask`). The first call
   * reads the head, in float32.
   *
   * @throws {TypeError | RangeError} on wrong parameters, without a mask in an input, and if the model has no such head
   * @throws {ReadMeError} as `embed`
   */
  async fillMasks(request: FillMasksRequest): Promise<FilledMasks> {
    return fillMasks(request, { ...this.#pooling, call: this.#self.call });
  }

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
    return this.#requests.begin({ ...wire, keptId }, request.signal, {
      functions,
      onProgress: request.onProgress,
      leave,
    });
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
      onNews: (news) => this.#receive(news),
      onQuestion: (question) => void this.#requests.answer(question),
      onFailed: (error) => this.#fail(error),
    });
    const stopListening = onceAborted(signal, () => link.kill());
    try {
      const opening = { type: "open", path: this.#files.path, options: this.#options } as const;
      const { info, cacheFailure } = await link.open<"opened">(opening, onProgress);
      [this.#link, this.#cacheFailure] = [link, cacheFailure];
      const { memory = info.memory } = this.#info ?? {};
      this.#info = { ...info, name: this.#files.name, memory };
      this.#options = keepingSizes(this.#options, this.#info);
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

  #receive({ news }: FromWorker & { type: "news" }): void {
    for (const one of news) {
      // oxlint-disable-next-line typescript/no-unnecessary-type-assertion -- tsc does not see that both match
      if (one.type === "event") this.events.emit(one.name, one.payload as never);
      else this.#requests.receive(one);
    }
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

/** Fixes the planned sizes, so that an engine that is opened again has the same, whatever memory is free then. */
function keepingSizes(options: ResolvedEngineOptions, { contextTokens, memory }: EngineInfo): ResolvedEngineOptions {
  if (!memory) return options;
  const { kvCacheBytes, prefixCacheBytes } = memory;
  return { ...options, contextTokens, kvCacheBytes, prefixCacheBytes, memoryBytes: undefined };
}

/** Adds and removes loras, and remembers them for an engine that is opened again after a failure. */
export class ExpertChanges {
  readonly #engine: CallingEngine;
  readonly #setNames: (experts: readonly string[]) => void;
  readonly #added = new Map<string, string>();
  /** Experts of the model's folder and the options that were removed, also where another one has the name now. */
  readonly #removed = new Set<string>();

  /** @param setNames - sets the names in the engine's info */
  constructor(engine: CallingEngine, setNames: (experts: readonly string[]) => void) {
    this.#engine = engine;
    this.#setNames = setNames;
  }

  async add(name: string, path: string): Promise<void> {
    checkName(name);
    if (typeof path !== "string" || path === "") {
      throw new TypeError(`Expected \`path\` to name the folder of an adapter, got ${describeValue(path)}`);
    }
    const folder = resolve(path);
    this.#setNames(await this.#engine.call("addExpert", { name, path: folder }));
    this.#added.set(name, folder);
  }

  async remove(name: string): Promise<void> {
    checkName(name);
    const { experts, expertKind, path } = this.#engine.getInfo();
    const index = expertIndex(experts, name);
    if (expertKind !== "lora" || index === 0 || experts[index] !== name) {
      throw new RangeError(`Expected \`name\` to be a lora of ${path}, got \`${name}\``);
    }
    // New requests are refused at once.
    this.#setNames(experts.map((known) => (known === name ? "" : known)));
    if (!this.#added.delete(name)) this.#removed.add(name);
    this.#setNames(await this.#engine.call("removeExpert", { name }));
  }

  /**
   * Makes the changes again in an engine that was opened again. Experts that cannot be added any more are left out, so
   * that the model and the other experts work.
   *
   * @throws {ReadMeError} `ERR_ENGINE_FAILED`, `ERR_DISPOSED`
   */
  async repeat(): Promise<void> {
    const { experts } = this.#engine.getInfo();
    for (const name of this.#removed) {
      if (experts.includes(name)) this.#setNames(await this.#engine.call("removeExpert", { name }));
    }
    for (const [name, path] of this.#added) {
      try {
        this.#setNames(await this.#engine.call("addExpert", { name, path }));
      } catch (error) {
        const code = error instanceof ReadMeError ? error.code : undefined;
        if (code === "ERR_ENGINE_FAILED" || code === "ERR_DISPOSED") throw error;
        this.#added.delete(name);
      }
    }
  }
}

function checkName(name: unknown): void {
  if (typeof name === "string" && name !== "") return;
  throw new TypeError(`Expected \`name\` to be the name of an expert, got ${describeValue(name)}`);
}

class AnswerFormats {
  readonly #readVocabulary: () => Promise<EngineVocabulary>;
  #grammars: Promise<Grammars> | undefined;
  #isDisposed = false;

  /** @param readVocabulary - reads the vocabulary of the engine */
  constructor(readVocabulary: () => Promise<EngineVocabulary>) {
    this.#readVocabulary = readVocabulary;
  }

  /**
   * Makes the `processLogits` of a request. Its grammar is compiled while the prompt runs, so an error of the grammar
   * is thrown by the first call.
   *
   * @throws {TypeError} on a wrong shape, and on `processLogits` beside the format
   */
  processorOf(format: AnswerFormat, beside: ProcessLogits | undefined, asker: Asker): ProcessLogits {
    checkAnswerFormat(format);
    if (beside !== undefined) throw new TypeError("Expected `format` or `processLogits`, got both");
    let bound: Promise<ProcessLogits> | undefined;
    const processor = (): Promise<ProcessLogits> => (bound ??= this.#bind(format, asker));
    const process: ProcessLogits = async (logits, context) => (await processor())(logits, context);
    return Object.assign(process, {
      allowTokens: async (context) => {
        const { allowTokens } = await processor();
        if (allowTokens === undefined) throw new TypeError("Expected a constraint that names allowed tokens");
        return allowTokens(context);
      },
    } satisfies Pick<ProcessLogits, "allowTokens">);
  }

  async dispose(): Promise<void> {
    this.#isDisposed = true;
    await (await this.#grammars?.catch(() => undefined))?.dispose();
  }

  async #bind(format: AnswerFormat, asker: Asker): Promise<ProcessLogits> {
    const grammars = await (this.#grammars ??= this.#open());
    const constraint = await grammars.format(format, asker);
    return constraint.processor({ signal: asker.signal });
  }

  async #open(): Promise<Grammars> {
    try {
      const grammars = await Grammars.open(await this.#readVocabulary());
      if (this.#isDisposed) await grammars.dispose();
      return grammars;
    } catch (error) {
      // The next request tries again.
      this.#grammars = undefined;
      throw error;
    }
  }
}
