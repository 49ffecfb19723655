// Steps of a model in the kernel: one call per step, or one per layer if experts are streamed.

import {
  everythingResident,
  integerOption,
  type KernelInfo,
  type LoadProgress,
  type Residency,
} from "@readme-moe/core";
import {
  loraFactors,
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
import { type DraftHead, type Model, numOutputsOf, type Precision, resolveCacheFolder } from "@readme-moe/model";
import { calibrationOf } from "./calibration.ts";
import type { EngineOptions } from "./engine-options.ts";
import { callsOf, checkSequence, type ExpertCounts, KernelResults } from "./kernel-calls.ts";
import type { ExpertStore, ExpertStoreOptions } from "./experts/expert-store.ts";
import { Loras } from "./experts/loras.ts";
import { NamedExperts } from "./experts/named-experts.ts";
import { MixtureSequences, RoutedExperts, type RoutedExpertsOptions } from "./experts/routed-experts.ts";
import { UnitFile } from "./experts/unit-file.ts";
import type { StepLogits, StepRunner, StepSequence } from "./step-runner.ts";
import { kvPrecisionOf } from "./memory-sizes.ts";
import { HeadRunner, type HeadRunnerOptions } from "./speculation/head-runner.ts";

/** Options of `KernelRunner.open`. */
export interface KernelRunnerOptions
  extends
    KernelChoice,
    Pick<ExpertStoreOptions, "policy" | "lookaheadLayers" | "now" | "onLoaded" | "onEvicted">,
    Pick<RoutedExpertsOptions, "readAhead">,
    Pick<EngineOptions, "cacheFolder" | "threads" | "expertCacheBytes" | "loraPrecision" | "kvPrecision"> {
  /** An engine's default is int8; a runner alone compares models. @default "fp32", or "int8" with `expertCacheBytes` */
  readonly precision?: Precision | undefined;
  /** Most tokens of a call of a mixture whose experts are streamed, if that is more than the runner's own. */
  readonly maxRows?: number | undefined;
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Called once, with the reason, if weights cannot be cached and stay in memory. */
  readonly onCacheFailure?: ((reason: string) => void) | undefined;
}

// Changes when other weights are packed for the same model.
const VERSION = 7;
/**
 * Largest number of tokens in one call of the kernel, unless the options or texts of encoders need more. Steps with
 * more are split, which changes no bit.
 */
const MAX_ROWS = 512;

/** Numbers that a runner computes with, and experts that are not packed with the model, or not in memory. */
interface RunnerParts {
  readonly kvPrecision: KvPrecision;
  readonly weightsVersion: string;
  readonly maxRows: number;
  /** File of streamed experts. */
  readonly file: UnitFile | undefined;
  readonly streamed: NamedExperts | RoutedExperts | undefined;
  readonly loras: Loras | undefined;
  /** The model's channel at each place of the kernel's states. */
  readonly channels: Uint32Array | undefined;
}

/** Runs steps of a model in the kernel. */
export class KernelRunner implements StepRunner {
  readonly model: Model;
  readonly kvPrecision: KvPrecision;
  /** Names what packed weights are made from and how: equal ones give the same logits. */
  readonly weightsVersion: string;
  readonly #kernel: Kernel;
  readonly #maxRows: number;
  readonly #numOutputs: number;
  readonly #results: KernelResults;
  readonly #file: UnitFile | undefined;
  readonly #streamed: NamedExperts | RoutedExperts | undefined;
  readonly #mixtureSequences = new MixtureSequences();
  /** Loras; `undefined` for models with experts in their FFNs. */
  readonly loras: Loras | undefined;
  readonly #angles: GrowingAngles;
  #lastStep: Promise<unknown> = Promise.resolve();

  private constructor(model: Model, kernel: Kernel, parts: RunnerParts) {
    this.model = model;
    this.kvPrecision = parts.kvPrecision;
    this.weightsVersion = parts.weightsVersion;
    this.#kernel = kernel;
    this.#maxRows = parts.maxRows;
    this.#file = parts.file;
    this.#streamed = parts.streamed;
    this.loras = parts.loras;
    this.#angles = new GrowingAngles(kernel, model.config);
    this.#numOutputs = numOutputsOf(model.config);
    this.#results = new KernelResults(kernel, this.#numOutputs, parts.channels);
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
    const { channels: channelOrder } = description.encoder ?? {};
    const versions = [precision, VERSION, calibration?.fingerprint, ...(head ?? [])];
    const naming = model.fingerprint(cacheFolder).then((fingerprint) => [fingerprint, ...versions].join(" "));
    // Its failure matters to those who wait for it, after the weights are packed.
    naming.catch(() => undefined);
    const units = isStreamed ? expertUnits(description) : undefined;
    const { contextTokens: maxPositions, encoder } = model.config;
    const together = isStreamed && mixtureConfig ? (options.maxRows ?? 0) : 0;
    const maxRows = Math.max(MAX_ROWS, together, encoder ? maxPositions : 0);
    const sizes = { threads, maxRows, maxPositions, expertsFromByte: units?.fromByte };
    const stored = units && precision === "file" ? StoredUnits.of(description, choice) : undefined;
    // The blocks of a file are only put into another order, which takes less time than reading a second file.
    // But a table of layers' inputs, half of a small model, needs no memory in a mapped file.
    const inMemory = precision === "file" && (!isStreamed || stored !== undefined) && !model.config.layerInputSize;
    const cache = { key: naming, cacheFolder, modelPath: model.path, inMemory, onProgress, onCacheFailure };
    const { kernel, path } = await openCachedKernel(description, sizes, { ...choice, ...cache });
    let file: UnitFile | undefined;
    try {
      let streamed: RunnerParts["streamed"];
      if (units && isStreamed) {
        file = await UnitFile.open(kernel, units, stored ?? path);
        const own = { ...options, budgetBytes, expertsPerToken: mixtureConfig?.expertsPerToken ?? 0 };
        streamed = mixtureConfig ? new RoutedExperts(kernel, file, own) : new NamedExperts(kernel, file, own);
      }
      const key = await naming;
      const packing = {
        precision: options.loraPrecision ?? (precision === "fp32" ? "fp32" : "int8"),
        factors: loraFactors(model.weights, precision, calibration?.statistics),
        key,
        cacheFolder,
      };
      // The budget of a mixture is for its own experts.
      const streaming = streamed || budgetBytes === undefined ? undefined : { ...options, budgetBytes };
      const loras = isDense ? new Loras(kernel, model, packing, streaming) : undefined;
      const numbers = { kvPrecision: kvPrecisionOf(precision, options.kvPrecision), weightsVersion: key, maxRows };
      const experts = { file, streamed: streamed ?? loras?.streamed, loras };
      return new KernelRunner(model, kernel, { ...numbers, ...experts, channels: await channelOrder?.() });
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
    return this.#streamed?.residency ?? everythingResident;
  }

  /** Memory of streamed experts; `undefined` if all experts are in memory. */
  get memory(): ExpertStore | undefined {
    return this.#streamed?.store;
  }

  /** Names of the experts by index; empty where one was removed. */
  get expertNames(): readonly string[] {
    const names = this.loras?.names;
    return names && names.size > 1 ? names.list : this.model.experts.names;
  }

  openKv(options: KvMemoryOptions): KernelKv {
    return new KernelKv(this.#kernel, { ...options, shape: this.model.config, precision: this.kvPrecision });
  }

  /** Opens the kernel of a draft head. From now on steps give the states that it takes. */
  async openHead(head: DraftHead, options: HeadRunnerOptions): Promise<HeadRunner> {
    const runner = await HeadRunner.open(head, this.#kernel, this.weightsVersion, options);
    this.#kernel.tapLayers(head.layers);
    this.#results.followStates(head.layers.length * head.config.hiddenSize);
    return runner;
  }

  async forward(kv: KvMemory, sequences: readonly StepSequence[], numCandidates = 1): Promise<readonly StepLogits[]> {
    integerOption("numCandidates", numCandidates, 1, this.#numOutputs);
    if (!(kv instanceof KernelKv) || !kv.isOf(this.#kernel)) {
      throw new TypeError("Expected `kv` to be memory that this runner opened");
    }
    if (sequences.length === 0) return [];
    for (const sequence of sequences) checkSequence(sequence, this.model.config);
    for (const { slot } of sequences) kv.states.begin(slot);
    this.#angles.reach(Math.max(...sequences.map(({ slot, tokenIds }) => slot.numTokens + tokenIds.length)));
    if (this.#streamed instanceof RoutedExperts) {
      return this.#forwardRouted(this.#streamed, kv, sequences, numCandidates);
    }
    if (this.#streamed) return this.#forwardNamed(this.#streamed, kv, sequences, numCandidates);
    return this.#forwardResident(kv, sequences, numCandidates);
  }

  /** See `StepRunner.keepsLogits`. The kernel keeps the logits of the last rows of its last call. */
  keepsLogits(numTokens: number, numRows: number): boolean {
    const maxRows = this.#streamed instanceof RoutedExperts ? this.#streamed.maxRows : this.#maxRows;
    return numTokens <= Math.min(this.#maxRows, maxRows) && numRows <= KEPT_LOGITS_ROWS;
  }

  async dispose(): Promise<void> {
    await this.#file?.close();
    await this.#kernel.close();
  }

  /** Runs a step with all experts in memory. It awaits nothing, so that steps of several callers do not mix. */
  #forwardResident(kv: KernelKv, sequences: readonly StepSequence[], numCandidates: number): readonly StepLogits[] {
    const areWhole = this.model.config.encoder !== undefined;
    this.#results.begin(sequences, numCandidates);
    for (const call of callsOf(sequences, { maxRows: this.#maxRows, areWhole })) {
      const { request, room } = this.#results.request(call, kv, this.#counts);
      this.#kernel.step(kv.pages, request, room);
      this.#results.take(call, kv);
    }
    return this.#results.end();
  }

  get #counts(): ExpertCounts {
    const numLoras = this.loras ? this.loras.names.size - 1 : 0;
    return { numExperts: this.model.experts.names.length, numLoras };
  }

  /** Runs a step with streamed experts that its rows name, after the steps that were begun before it. */
  #forwardNamed(experts: NamedExperts, kv: KernelKv, sequences: readonly StepSequence[], numCandidates: number) {
    const calls = callsOf(sequences, { maxRows: this.#maxRows }, experts.fit);
    return this.#afterOthers(async () => {
      this.#results.begin(sequences, numCandidates);
      experts.expectCalls(calls.map((call) => call.experts));
      for (const call of calls) {
        const { request, room } = this.#results.request(call, kv, this.#counts);
        await experts.step(kv.pages, request, room, call.experts);
        this.#results.take(call, kv);
      }
      return this.#results.end();
    });
  }

  /** Runs a step with streamed experts that layers choose, after the steps that were begun before it. */
  #forwardRouted(experts: RoutedExperts, kv: KernelKv, sequences: readonly StepSequence[], numCandidates: number) {
    return this.#afterOthers(() => {
      // The budget may have changed since the step was asked for.
      const calls = callsOf(sequences, { maxRows: Math.min(this.#maxRows, experts.maxRows) });
      const rows = calls.map((call) => this.#mixtureSequences.rowsOf(call));
      this.#results.begin(sequences, numCandidates);
      return experts.runStep(Math.max(...rows.map((own) => own.sequences.length)), async () => {
        for (const [index, call] of calls.entries()) {
          const { request, room } = this.#results.request(call, kv, this.#counts);
          await experts.step(kv.pages, request, room, rows[index] ?? { sequences: [], wanted: [] });
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
