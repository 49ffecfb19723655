// Steps of a model in the kernel: one call per step, or one per layer if experts are streamed.

import { everythingResident, integerOption, type KernelInfo, type Residency } from "@readme-moe/core";
import {
  changeFactors,
  type ChangePrecision,
  describeModel,
  expertUnits,
  GrowingAngles,
  KEPT_LOGITS_ROWS,
  type Kernel,
  type KernelChoice,
  KernelKv,
  kernelThreads,
  type KvMemory,
  type KvMemoryOptions,
  type KvPrecision,
  openCachedKernel,
  StoredUnits,
} from "@readme-moe/kernel";
import { type Model, numOutputsOf, type Precision, resolveCacheFolder } from "@readme-moe/model";
import { calibrationOf } from "./calibration.ts";
import { callsOf, type CallSizes, checkSequence, KernelResults, type KernelCall } from "./kernel-calls.ts";
import { LowRankExperts, type StreamedChanges } from "./low-rank/low-rank-experts.ts";
import type { LoadProgress } from "./protocol.ts";
import type { StepLogits, StepRunner, StepSequence } from "./step-runner.ts";
import { ExpertStream, UnitFile } from "./streamed/expert-stream.ts";
import { kvPrecisionOf } from "./memory-sizes.ts";
import { MixtureSequences, MixtureStream, type MixtureStreamOptions } from "./streamed/mixture-stream.ts";
import type { UnitMemoryOptions, UnitStore } from "./streamed/unit-store.ts";

/** Options of `KernelRunner.open`. */
export interface KernelRunnerOptions
  extends
    KernelChoice,
    Pick<UnitMemoryOptions, "policy" | "lookaheadLayers" | "now" | "onLoaded" | "onEvicted">,
    Pick<MixtureStreamOptions, "readAhead"> {
  /** Folder of packed weights. @default `README_MOE_CACHE`, else the platform's cache folder */
  readonly cacheFolder?: string | undefined;
  /** @default all cores */
  readonly threads?: number | undefined;
  /** An engine's default is int8; a runner alone compares models. @default "fp32", or "int8" with `expertCacheBytes` */
  readonly precision?: Precision | undefined;
  /** Largest number of bytes of experts' weights in memory, reads in progress included. @default all experts */
  readonly expertCacheBytes?: number | undefined;
  /** Number type of low-rank experts. @default "fp32" with fp32 weights, else "int8" */
  readonly loraPrecision?: ChangePrecision | undefined;
  /** Number type of keys and values. @default "fp32" with fp32 weights, else "fp16" */
  readonly kvPrecision?: KvPrecision | undefined;
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Called once, with the reason, if weights cannot be cached and stay in memory. */
  readonly onCacheFailure?: ((reason: string) => void) | undefined;
}

// Changes when other weights are packed for the same model.
const VERSION = 6;
/** Largest number of tokens in one call of the kernel. Steps with more are split, which changes no bit. */
const MAX_ROWS = 512;

/** Numbers that a runner computes with, and experts that are not packed with the model, or not in memory. */
interface RunnerParts {
  readonly kvPrecision: KvPrecision;
  readonly weightsVersion: string;
  readonly stream?: ExpertStream | undefined;
  readonly mixture?: MixtureStream | undefined;
  readonly lowRank: LowRankExperts | undefined;
}

/** A step of the runner. */
interface RunnerStep {
  readonly kv: KernelKv;
  readonly sequences: readonly StepSequence[];
  readonly numCandidates: number;
  readonly calls: readonly KernelCall[];
}

/** Runs steps of a model in the kernel. */
export class KernelRunner implements StepRunner {
  readonly model: Model;
  readonly kvPrecision: KvPrecision;
  /** Names what packed weights are made from and how: equal ones give the same logits. */
  readonly weightsVersion: string;
  readonly #kernel: Kernel;
  readonly #results: KernelResults;
  readonly #limits: CallSizes;
  readonly #stream: ExpertStream | undefined;
  /** Streamed experts of a mixture with a router in every layer. */
  readonly #mixture: MixtureStream | undefined;
  readonly #mixtureSequences = new MixtureSequences();
  /** Low-rank experts; `undefined` for models with experts in their FFNs. */
  readonly #lowRank: LowRankExperts | undefined;
  readonly #angles: GrowingAngles;
  #lastStep: Promise<unknown> = Promise.resolve();

  private constructor(model: Model, kernel: Kernel, parts: RunnerParts) {
    const { vocabSize, contextTokens: maxPositions } = model.config;
    this.model = model;
    this.kvPrecision = parts.kvPrecision;
    this.weightsVersion = parts.weightsVersion;
    this.#kernel = kernel;
    this.#stream = parts.stream;
    this.#mixture = parts.mixture;
    this.#lowRank = parts.lowRank;
    const numLogits = numOutputsOf(model.config);
    const numExperts = model.experts.names.length;
    this.#limits = { vocabSize, numLogits, maxRows: MAX_ROWS, maxPositions, numExperts };
    this.#angles = new GrowingAngles(kernel, model.config);
    this.#results = new KernelResults(kernel, numLogits);
  }

  /**
   * Opens a model: packs its weights, or maps the packed file of the cache.
   *
   * @throws {ReadMeError} if a tensor cannot be read, or the kernel cannot be opened
   */
  static async open(model: Model, options: KernelRunnerOptions = {}): Promise<KernelRunner> {
    const { onProgress, onCacheFailure, kernel: kind, instructions, expertCacheBytes: budgetBytes } = options;
    const isDense = model.experts.names.length === 1;
    const { mixture: mixtureConfig } = model.config;
    const isStreamed = budgetBytes !== undefined && (!isDense || mixtureConfig !== undefined);
    const { precision = budgetBytes === undefined ? "fp32" : "int8" } = options;
    const threads = kernelThreads(options.threads);
    const cacheFolder = resolveCacheFolder(options.cacheFolder);
    const choice = { kernel: kind, instructions };
    const calibration = await calibrationOf(model, precision, { ...choice, threads, cacheFolder });
    const description = describeModel(model, precision, calibration?.statistics);
    const { pooling } = model.config;
    const head = pooling && [pooling.kind === "score" ? JSON.stringify(pooling.head) : pooling.kind];
    const versions = [precision, VERSION, calibration?.fingerprint, ...(head ?? [])];
    const naming = model.fingerprint(cacheFolder).then((fingerprint) => [fingerprint, ...versions].join(" "));
    // Its failure matters to those who wait for it, after the weights are packed.
    naming.catch(() => undefined);
    const units = isStreamed ? expertUnits(description) : undefined;
    const { contextTokens: maxPositions } = model.config;
    const sizes = { threads, maxRows: MAX_ROWS, maxPositions, expertsFromByte: units?.fromByte };
    const stored = units && precision === "file" ? StoredUnits.of(description, choice) : undefined;
    // The blocks of a file are only put into another order, which takes less time than reading a second file.
    const inMemory = precision === "file" && (!isStreamed || stored !== undefined);
    const cache = { key: naming, cacheFolder, modelPath: model.path, inMemory, onProgress, onCacheFailure };
    const { kernel, path } = await openCachedKernel(description, sizes, { ...choice, ...cache });
    let file: UnitFile | undefined;
    try {
      const experts: { -readonly [Name in "stream" | "mixture"]?: RunnerParts[Name] } = {};
      if (units && isStreamed) {
        const opened = (file = await UnitFile.open(stored ?? path, units));
        const streamed = { ...options, budgetBytes, expertsPerToken: mixtureConfig?.expertsPerToken ?? 0 };
        if (mixtureConfig) experts.mixture = new MixtureStream(kernel, opened, streamed, () => opened.close());
        else experts.stream = new ExpertStream(kernel, opened, streamed);
      }
      const key = await naming;
      const packing = {
        precision: options.loraPrecision ?? (precision === "fp32" ? "fp32" : "int8"),
        factors: changeFactors(model.weights, precision, calibration?.statistics),
        key,
        cacheFolder,
      };
      // The budget of a mixture is for its own experts.
      const lowRankOptions = experts.mixture ? { ...options, expertCacheBytes: undefined } : options;
      const lowRank = isDense ? LowRankExperts.open(kernel, model, packing, lowRankOptions) : undefined;
      const numbers = { kvPrecision: kvPrecisionOf(precision, options.kvPrecision), weightsVersion: key };
      return new KernelRunner(model, kernel, { ...numbers, ...experts, lowRank });
    } catch (error) {
      await file?.close();
      await kernel.close();
      throw error;
    }
  }

  /** Build of the kernel, its instructions and its number of threads. */
  get info(): KernelInfo {
    return this.#kernel.info;
  }

  /** Experts that are in memory. */
  get residency(): Residency {
    return (
      this.#stream?.residency ?? this.#mixture?.residency ?? this.#lowRank?.streamed?.residency ?? everythingResident
    );
  }

  /** Memory of streamed experts; `undefined` if all experts are in memory. */
  get memory(): UnitStore | undefined {
    return this.#stream?.memory ?? this.#mixture?.memory ?? this.#lowRank?.streamed?.units;
  }

  /** Low-rank experts; `undefined` for models with experts in their FFNs. */
  get lowRank(): LowRankExperts | undefined {
    return this.#lowRank;
  }

  /** Names of the experts by index; empty where one was removed. */
  get expertNames(): readonly string[] {
    const names = this.#lowRank?.names;
    return names && names.size > 1 ? names.list : this.model.experts.names;
  }

  openKv(options: KvMemoryOptions): KernelKv {
    return new KernelKv(this.#kernel, { ...options, shape: this.model.config, precision: this.kvPrecision });
  }

  /** Runs one step, see `StepRunner.forward`. */
  async forward(kv: KvMemory, sequences: readonly StepSequence[], numCandidates = 1): Promise<readonly StepLogits[]> {
    integerOption("numCandidates", numCandidates, 1, numOutputsOf(this.model.config));
    if (!(kv instanceof KernelKv) || !kv.isOf(this.#kernel)) {
      throw new TypeError("Expected `kv` to be memory that this runner opened");
    }
    if (sequences.length === 0) return [];
    const numExperts = this.#lowRank?.names.size ?? this.model.experts.names.length;
    for (const sequence of sequences) checkSequence(sequence, this.model.config, numExperts);
    this.#angles.reach(Math.max(...sequences.map(({ slot, tokenIds }) => slot.numTokens + tokenIds.length)));
    const streamed = this.#lowRank?.streamed;
    const fit = streamed && ((experts: ReadonlySet<number>) => streamed.fit(experts));
    const step = { kv, sequences, numCandidates, calls: callsOf(sequences, { maxRows: MAX_ROWS, fit }) };
    if (this.#stream) return this.#forwardStreamed(this.#stream, step);
    if (this.#mixture) return this.#forwardMixture(this.#mixture, step);
    return streamed ? this.#forwardChanged(streamed, step) : this.#forwardResident(step);
  }

  /** See `StepRunner.keepsLogits`. The kernel keeps the logits of the last rows of its last call. */
  keepsLogits(numTokens: number, numRows: number): boolean {
    return numTokens <= Math.min(MAX_ROWS, this.#mixture?.maxRows ?? MAX_ROWS) && numRows <= KEPT_LOGITS_ROWS;
  }

  async dispose(): Promise<void> {
    await this.#stream?.close();
    await this.#mixture?.close();
    await this.#kernel.close();
  }

  /** Runs a step with all experts in memory. It awaits nothing, so that steps of several callers do not mix. */
  #forwardResident({ kv, sequences, numCandidates, calls }: RunnerStep): readonly StepLogits[] {
    this.#results.begin(sequences, numCandidates);
    for (const call of calls) this.#call(call, kv);
    return this.#results.end();
  }

  #call(call: KernelCall, kv: KernelKv): void {
    const { request, room } = this.#results.request(call, kv, this.#sizes);
    this.#kernel.step(kv.pages, request, room);
    this.#results.take(call, kv);
  }

  get #sizes(): CallSizes {
    return { ...this.#limits, numChanges: this.#lowRank ? this.#lowRank.names.size - 1 : 0 };
  }

  /** Runs a step with streamed low-rank experts, after the steps that were begun before it. */
  #forwardChanged(changes: StreamedChanges, { kv, sequences, numCandidates, calls }: RunnerStep) {
    return this.#afterOthers(async () => {
      this.#results.begin(sequences, numCandidates);
      changes.expectRuns(calls.map(({ experts }) => experts));
      for (const call of calls) await changes.run(call.experts, () => this.#call(call, kv));
      return this.#results.end();
    });
  }

  /** Runs a step with streamed experts, after the steps that were begun before it. */
  #forwardStreamed(stream: ExpertStream, { kv, sequences, numCandidates, calls }: RunnerStep) {
    return this.#afterOthers(async () => {
      this.#results.begin(sequences, numCandidates);
      stream.memory.expectRuns(calls.map(({ experts }) => experts));
      for (const call of calls) {
        const { request, room } = this.#results.request(call, kv, this.#limits);
        await stream.step(kv.pages, request, room, call.experts);
        this.#results.take(call, kv);
      }
      return this.#results.end();
    });
  }

  /** Runs a step of a mixture with streamed experts, after the steps that were begun before it. */
  #forwardMixture(mixture: MixtureStream, { kv, sequences, numCandidates }: Omit<RunnerStep, "calls">) {
    return this.#afterOthers(() => {
      // The budget may have changed since the step was asked for.
      const calls = callsOf(sequences, { maxRows: Math.min(MAX_ROWS, mixture.maxRows) });
      const rows = calls.map((call) => this.#mixtureSequences.rowsOf(call));
      this.#results.begin(sequences, numCandidates);
      return mixture.runStep(Math.max(...rows.map((own) => own.sequences.length)), async () => {
        for (const [index, call] of calls.entries()) {
          const { request, room } = this.#results.request(call, kv, this.#limits);
          await mixture.step(kv.pages, request, room, rows[index] ?? { sequences: [], wanted: [] });
          this.#results.take(call, kv);
        }
        return this.#results.end();
      });
    });
  }

  #afterOthers<Result>(run: () => Promise<Result>): Promise<Result> {
    const result = this.#lastStep.then(run);
    this.#lastStep = result.catch(() => undefined);
    return result;
  }
}
