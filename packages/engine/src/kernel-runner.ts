// Steps of a model in the kernel: one call, or one a layer where experts come and go.

import { everythingResident, integerOption, ReadMeError, type KernelInfo, type Residency } from "@readme-moe/core";
import {
  type DecoderDescription,
  describeModel,
  encodeStep,
  expertUnits,
  type ExpertUnits,
  GrowingAngles,
  KEPT_LOGITS_ROWS,
  type Kernel,
  type KernelChoice,
  KernelKv,
  kernelThreads,
  kvBytesPerToken,
  type KvMemory,
  type KvMemoryOptions,
  type KvPrecision,
  openCachedKernel,
  type StepRows,
} from "@readme-moe/kernel";
import { type Model, resolveCacheFolder } from "@readme-moe/model";
import { kernelCalibration } from "./kernel-calibration.ts";
import { KernelResults } from "./kernel-results.ts";
import { piecesOf, type StepPiece } from "./kernel-pieces.ts";
import type { RunnerOptions } from "./runner-options.ts";
import { ExpertStream } from "./streamed/expert-stream.ts";
import type { UnitMemory, UnitMemoryOptions } from "./streamed/unit-memory.ts";
import { checkSequence, type StepLogits } from "./step-logits.ts";
import type { StepRunner, StepSequence } from "./step-runner.ts";
import { kvPrecisionOf } from "./kv-precision.ts";

/** Options of `KernelRunner.open`. */
export interface KernelRunnerOptions
  extends
    RunnerOptions,
    KernelChoice,
    Pick<UnitMemoryOptions, "policy" | "lookaheadLayers" | "now" | "onLoaded" | "onEvicted"> {
  /** Experts' weights in memory at most, reads under way included. @default all are in memory */
  readonly expertCacheBytes?: number | undefined;
  /** How keys and values are kept. @default "fp32" where weights are, else "fp16" */
  readonly kvPrecision?: KvPrecision | undefined;
}

// Changes when other weights are packed of the same model.
const VERSION = 5;
/** Rows of one call: those of a step that has more are split, which changes no bit. */
const MAX_ROWS = 512;

/** Runs steps of a model in the kernel. */
export class KernelRunner implements StepRunner {
  readonly model: Model;
  readonly kvPrecision: KvPrecision;
  readonly #kernel: Kernel;
  readonly #results: KernelResults;
  readonly #numExperts: number;
  readonly #stream: ExpertStream | undefined;
  readonly #angles: GrowingAngles;
  #lastStep: Promise<unknown> = Promise.resolve();

  private constructor(model: Model, kernel: Kernel, kvPrecision: KvPrecision, stream: ExpertStream | undefined) {
    this.model = model;
    this.kvPrecision = kvPrecision;
    this.#kernel = kernel;
    this.#stream = stream;
    this.#numExperts = model.experts.names.length;
    this.#angles = new GrowingAngles(kernel, model.config);
    this.#results = new KernelResults(kernel, model.config.vocabSize);
  }

  /**
   * Opens a model: packs its weights, or maps the file that the cache has of them.
   *
   * @throws {ReadMeError} when a tensor cannot be read, or the kernel cannot be opened
   */
  static async open(model: Model, options: KernelRunnerOptions = {}): Promise<KernelRunner> {
    const { onProgress, onCacheFailure, kernel: kind, instructions, expertCacheBytes } = options;
    const { precision = expertCacheBytes === undefined ? "fp32" : "int8" } = options;
    const threads = kernelThreads(options.threads);
    const cacheFolder = resolveCacheFolder(options.cacheFolder);
    const choice = { kernel: kind, instructions };
    const calibration = await kernelCalibration(model, precision, { ...choice, threads, cacheFolder });
    const description = describeModel(model, precision, calibration?.statistics);
    const fingerprint = await model.fingerprint(cacheFolder);
    const key = [fingerprint, precision, VERSION, calibration?.fingerprint].join(" ");
    const units = expertCacheBytes === undefined ? undefined : unitsOf(model, description);
    const sizes = {
      threads,
      maxRows: MAX_ROWS,
      maxPositions: model.config.contextTokens,
      expertsFromByte: units?.fromByte,
    };
    const { kernel, weights } = await openCachedKernel(description, sizes, {
      ...choice,
      key,
      cacheFolder,
      onProgress,
      onCacheFailure,
    });
    try {
      const budgetBytes = expertCacheBytes ?? 0;
      const stream = units && (await streamOf(kernel, weights, units, { ...options, budgetBytes }));
      return new KernelRunner(model, kernel, kvPrecisionOf(precision, options.kvPrecision), stream);
    } catch (error) {
      await kernel.close();
      throw error;
    }
  }

  /** Build of the kernel, its instructions and its number of threads. */
  get info(): KernelInfo {
    return this.#kernel.info;
  }

  /** Tells which experts are in memory. */
  get residency(): Residency {
    return this.#stream?.residency ?? everythingResident;
  }

  /** Memory of experts that come and go; `undefined` where all are there. */
  get memory(): UnitMemory | undefined {
    return this.#stream?.memory;
  }

  openKv(options: KvMemoryOptions): KernelKv {
    const bytesPerToken = kvBytesPerToken(this.model.config, this.kvPrecision);
    return new KernelKv(this.#kernel, { ...options, bytesPerToken }, this.kvPrecision === "fp16");
  }

  /** See `StepRunner.forward`. */
  async forward(kv: KvMemory, sequences: readonly StepSequence[], numCandidates = 1): Promise<readonly StepLogits[]> {
    const { config } = this.model;
    integerOption("numCandidates", numCandidates, 1, config.vocabSize);
    if (!(kv instanceof KernelKv) || !kv.isOf(this.#kernel)) {
      throw new TypeError("Expected `kv` to be memory that this runner opened");
    }
    if (sequences.length === 0) return [];
    for (const sequence of sequences) checkSequence(sequence, this.model);
    this.#angles.reach(Math.max(...sequences.map(({ slot, tokenIds }) => slot.numTokens + tokenIds.length)));
    const calls = Array.from(piecesOf(sequences, MAX_ROWS));
    const stream = this.#stream;
    const step = { kv, calls, sequences, numCandidates };
    if (stream) return this.#forwardStreamed(stream, step);
    // Nothing is awaited in between, so that calls of several callers do not mix.
    this.#results.begin(sequences, numCandidates);
    for (const pieces of calls) {
      const { request, room } = this.#requestOf(step, pieces);
      this.#kernel.step(kv.pages, request, room);
      this.#took(step, pieces);
    }
    return this.#results.end();
  }

  /** The kernel keeps the logits of its last call's last rows. */
  keepsLogits(numTokens: number, numRows: number): boolean {
    return numTokens <= MAX_ROWS && numRows <= KEPT_LOGITS_ROWS;
  }

  async dispose(): Promise<void> {
    await this.#stream?.close();
    await this.#kernel.close();
  }

  /** Runs a step whose experts come and go; steps wait for each other. */
  #forwardStreamed(stream: ExpertStream, step: RunnerStep): Promise<readonly StepLogits[]> {
    const { kv, calls, sequences, numCandidates } = step;
    const work = async (): Promise<readonly StepLogits[]> => {
      this.#results.begin(sequences, numCandidates);
      const runs = calls.map((pieces) => expertsOf(pieces, sequences));
      stream.memory.expectRuns(runs);
      for (const [index, pieces] of calls.entries()) {
        const { request, room } = this.#requestOf(step, pieces);
        await stream.step(kv.pages, request, room, runs[index] as readonly number[]);
        this.#took(step, pieces);
      }
      return this.#results.end();
    };
    const result = this.#lastStep.then(work);
    this.#lastStep = result.catch(() => undefined);
    return result;
  }

  /** One call's pieces of sequences as the kernel takes them, and room for what it gives. */
  #requestOf({ kv, sequences, numCandidates }: RunnerStep, pieces: readonly StepPiece[]) {
    const rows = pieces.map((piece): StepRows => {
      const { slot, tokenIds, experts, wantsFullLogits } = sequences[piece.sequence] as StepSequence;
      const { numTokens: position, pages } = kv.pageSlot(slot);
      return {
        tokenIds: Array.prototype.slice.call(tokenIds, piece.from, piece.to) as number[],
        experts:
          this.#numExperts > 1 ? (Array.prototype.slice.call(experts, piece.from, piece.to) as number[]) : undefined,
        position,
        pages,
        logitsOf: piece.wanted.map(({ token }) => token - piece.from),
        targets: piece.wanted.map(({ target }) => target),
        fullPlaces: wantsFullLogits
          ? piece.wanted.map(({ place }) => this.#results.fullRow(piece.sequence, place))
          : undefined,
      };
    });
    const { vocabSize, contextTokens: maxPositions } = this.model.config;
    const { numFullRows } = this.#results;
    const sizes = { vocabSize, maxRows: MAX_ROWS, maxPositions, numExperts: this.#numExperts };
    const limits = { ...sizes, numPages: kv.numPages, numFullRows };
    const numWanted = pieces.reduce((sum, { wanted }) => sum + wanted.length, 0);
    return { request: encodeStep(rows, numCandidates, limits), room: this.#results.room(numWanted) };
  }

  /** Appends what a call has run to its slots, and takes its results. */
  #took({ kv, sequences }: RunnerStep, pieces: readonly StepPiece[]): void {
    for (const { sequence, from, to } of pieces) kv.advance((sequences[sequence] as StepSequence).slot, to - from);
    this.#results.take(pieces);
  }
}

/** A step of the runner: several calls of the kernel where it has more rows than one takes. */
interface RunnerStep {
  readonly kv: KernelKv;
  readonly calls: readonly (readonly StepPiece[])[];
  readonly sequences: readonly StepSequence[];
  readonly numCandidates: number;
}

/** Distinct experts of pieces, ascending. */
function expertsOf(pieces: readonly StepPiece[], sequences: readonly StepSequence[]): readonly number[] {
  const all = pieces.flatMap(
    ({ sequence, from, to }) => Array.prototype.slice.call(sequences[sequence]?.experts, from, to) as number[],
  );
  return Array.from(new Set(all)).sort((a, b) => a - b);
}

/** @throws {TypeError} for dense models */
function unitsOf({ experts }: Model, description: DecoderDescription): ExpertUnits {
  if (experts.names.length > 1) return expertUnits(description);
  throw new TypeError("Expected a model with several experts for `expertCacheBytes`, got a dense one");
}

async function streamOf(
  kernel: Kernel,
  weights: string | Uint8Array,
  units: ExpertUnits,
  options: UnitMemoryOptions,
): Promise<ExpertStream> {
  if (typeof weights === "string") return ExpertStream.open(kernel, weights, units, options);
  throw new ReadMeError(
    "ERR_WRITE_FAILED",
    "Experts that come and go are read from the cache folder, which cannot be written",
  );
}
