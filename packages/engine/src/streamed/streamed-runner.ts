// Steps of a model whose experts come and go: attention, embeddings and head stay in memory, and of experts what fits. A step is
// cut into segments of a few layers, one graph each; a unit is one segment of one expert.

import { integerOption, type Residency } from "@readme-moe/core";
import {
  exactInt8Kernels,
  type Constant,
  type Feeds,
  type GraphSession,
  type GraphTensor,
  type KvMemory,
  type KvMemoryOptions,
  KvPool,
  type Model,
  openGraph,
  readConstant,
  resolveCacheFolder,
} from "@readme-moe/model";
import { arenasOf, placedIn } from "../arenas-of.ts";
import { calibrationOf } from "../calibration-sequences.ts";
import type { LayerRange } from "../decoder-graph.ts";
import { FullLogits } from "../full-logits.ts";
import type { RunnerOptions } from "../model-runner.ts";
import { runSteps, type Run } from "../run-steps.ts";
import type { StepSequence } from "../step-feeds.ts";
import type { StepLogits } from "../step-logits.ts";
import type { StepRunner } from "../step-runner.ts";
import { ExpertFeeds } from "./expert-feeds.ts";
import { ExpertFile } from "./expert-file.ts";
import { expertsByRun } from "./experts-by-run.ts";
import { streamedSegment } from "./segment-graph.ts";
import { segmentsOf } from "./segments.ts";
import { dealSegmentFeeds, streamOf } from "./segment-feeds.ts";
import { UnitMemory, type UnitMemoryOptions, type UnitReader } from "./unit-memory.ts";

export interface StreamedOptions extends RunnerOptions, Pick<UnitMemoryOptions, "policy" | "lookaheadLayers" | "now"> {
  /** Experts' weights in memory at most, reads under way included. */
  readonly expertCacheBytes: number;
  readonly onLoaded?: ((unit: ExpertLayers, bytes: number, durationMs: number) => void) | undefined;
  /** @param nextUse - in steps, sure or estimated; `Infinity` where nobody is known to need it */
  readonly onEvicted?: ((unit: ExpertLayers, nextUse: number) => void) | undefined;
}

/** A unit: layers `[layer, layer + numLayers)` of one expert. */
interface ExpertLayers {
  readonly layer: number;
  readonly numLayers: number;
  readonly expert: number;
}

/** Layers that run as one graph. */
interface Segment {
  readonly range: LayerRange;
  readonly session: GraphSession;
}

/** The same numbers as a `ModelRunner` of the same precision, bit for bit. */
export class StreamedRunner implements StepRunner {
  readonly model: Model;
  readonly memory: UnitMemory;
  readonly #segments: readonly Segment[];
  /** Constants that all segments share. */
  readonly #tables: Feeds;
  readonly #file: ExpertFile;
  readonly #feeds: ExpertFeeds;
  readonly #fullLogits: FullLogits;

  private constructor(model: Model, segments: readonly Segment[], tables: Feeds, file: ExpertFile, memory: UnitMemory) {
    this.model = model;
    this.memory = memory;
    this.#segments = segments;
    this.#tables = tables;
    this.#file = file;
    this.#feeds = new ExpertFeeds(file.layers, file.numExperts);
    this.#fullLogits = new FullLogits(model.config.vocabSize);
  }

  /**
   * Never has more of the experts in memory than `expertCacheBytes`, also while it opens, but for one unit that is being quantised.
   *
   * @throws {RangeError} when the budget is too small; {TypeError} for dense models and other precisions than int8
   * @throws {ReadMeError}
   */
  static async open(model: Model, options: StreamedOptions): Promise<StreamedRunner> {
    const { precision = "int8", expertCacheBytes, onProgress = () => undefined } = options;
    if (precision !== "int8") {
      throw new TypeError(`Expected the precision int8 with \`expertCacheBytes\`, got \`${precision}\``);
    }
    if (model.experts.names.length < 2) {
      throw new TypeError(`Expected a model with several experts for \`expertCacheBytes\`, got a dense one`);
    }
    const threads = options.threads === undefined ? undefined : integerOption("threads", options.threads, 1, 1024);
    const cacheFolder = resolveCacheFolder(options.cacheFolder);
    const fitted = await calibrationOf(model, precision, { threads, cacheFolder });
    const arithmetic = { precision, calibration: fitted.calibration, int8Kernels: await exactInt8Kernels() };
    const fingerprint = `${await model.fingerprint(cacheFolder)} ${fitted.fingerprint}`;
    const file = await ExpertFile.open(model, arithmetic, fingerprint, cacheFolder, (doneBytes, ofBytes) =>
      onProgress({ stage: "building", doneBytes, ofBytes }),
    );
    const segments: Segment[] = [];
    const tables: Record<string, GraphTensor> = {};
    try {
      const ranges = segmentsOf(
        file.layers.map(({ bytes }) => bytes),
        file.numExperts,
        expertCacheBytes,
      );
      const memory = new UnitMemory(unitsOf(file, ranges), {
        ...options,
        budgetBytes: expertCacheBytes,
        onLoaded: ({ layer, expert }, ...rest) => options.onLoaded?.({ ...layersOf(ranges[layer]), expert }, ...rest),
        onEvicted: ({ layer, expert }, nextUse) => options.onEvicted?.({ ...layersOf(ranges[layer]), expert }, nextUse),
      });
      for (const range of ranges) {
        onProgress({ stage: "loading", doneBytes: range.from, ofBytes: model.config.numLayers });
        const { graph, shared } = streamedSegment(model, range, arithmetic);
        for (const constant of shared) tables[constant.name] ??= await readTable(constant);
        const session = await openGraph(graph, fingerprint, {
          cacheFolder,
          threads,
          onCacheFailure: options.onCacheFailure,
        });
        segments.push({ range, session });
      }
      return new StreamedRunner(model, segments, tables, file, memory);
    } catch (error) {
      for (const { session } of segments) await session.dispose();
      await file.close();
      throw error;
    }
  }

  get residency(): Residency {
    const { memory, model } = this;
    return {
      get missingBytes() {
        return memory.cache.missingBytes();
      },
      streamed: {
        numExperts: model.experts.names.length,
        get stats() {
          return memory.stats;
        },
        get awaitedExperts() {
          return memory.cache.awaitedExperts();
        },
        prepare: (upcoming) => memory.prepare(upcoming),
        rehearse: (work) => memory.rehearse(work),
        takeRuns: () => memory.takeRuns(),
        setBudget: (bytes) => memory.setBudget(bytes),
      },
    };
  }

  openKv({ capacityTokens }: KvMemoryOptions): KvPool {
    return new KvPool({ shape: this.model.config, capacityTokens });
  }

  async forward(kv: KvMemory, sequences: readonly StepSequence[], numCandidates = 1): Promise<readonly StepLogits[]> {
    const { model } = this;
    this.memory.expectRuns(expertsByRun(placedIn(arenasOf(kv, model.config), sequences)));
    return runSteps({ model, fullLogits: this.#fullLogits, run: this.#run }, kv, sequences, numCandidates);
  }

  async dispose(): Promise<void> {
    for (const { session } of this.#segments) await session.dispose();
    await this.#file.close();
  }

  /** One step through all layers, segment by segment. */
  readonly #run: Run = async ({ feeds }, memory) => {
    const { numLayers, numKvHeads, headSize } = this.model.config;
    const numTokens = feeds["token_ids"]?.data.length ?? 0;
    const perLayer = 2 * numKvHeads * headSize;
    const newKeysValues = new Float32Array(numTokens * numLayers * perLayer);
    const dealt = dealSegmentFeeds(
      feeds,
      this.#segments.map(({ range }) => range),
    );
    const active = activeExperts(feeds, this.#file.numExperts);
    let outputs: Feeds = {};
    for (const [index, { range, session }] of this.#segments.entries()) {
      this.memory.enterLayer(index, active);
      const stream = streamOf(outputs);
      await this.memory.runLayer(async (units) => {
        const isLast = range.to === numLayers;
        const weights = this.#feeds.of(range, units);
        outputs = await session.runInto(isLast ? memory : {}, dealt[index] as Feeds, stream, this.#tables, weights);
      });
      const own = outputs["new_keys_values"]?.data as Float32Array;
      interleave(newKeysValues, own, range.from * perLayer, numLayers * perLayer, (range.to - range.from) * perLayer);
    }
    return { outputs, newKeysValues };
  };
}

/** A table of floats as an input. */
async function readTable(constant: Constant): Promise<GraphTensor> {
  const bytes = await readConstant(constant);
  const data = new Float32Array(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength / 4);
  return { data, dims: constant.shape, isLasting: true };
}

/** Units as their memory knows them: its layers are segments. */
function unitsOf(file: ExpertFile, ranges: readonly LayerRange[]): UnitReader {
  const rangeOf = (segment: number): LayerRange => ranges[segment] as LayerRange;
  return {
    numExperts: file.numExperts,
    numLayers: ranges.length,
    unitBytes: (segment) => file.bytesOf(rangeOf(segment)),
    read: (segment, expert, into) => file.read(rangeOf(segment), expert, into),
  };
}

function layersOf({ from, to }: LayerRange = { from: 0, to: 0 }): Omit<ExpertLayers, "expert"> {
  return { layer: from, numLayers: to - from };
}

function activeExperts(feeds: Feeds, numExperts: number): readonly number[] {
  const all = Array.from({ length: numExperts }, (_, expert) => expert);
  return all.filter((expert) => (feeds[`expert_tokens.${expert}`]?.data.length ?? 0) > 0);
}

/** Puts rows `[tokens, width]` into rows of `stride`, `offset` from each one's beginning. */
function interleave(into: Float32Array, rows: Float32Array, offset: number, stride: number, width: number): void {
  for (let token = 0; token * width < rows.length; token++) {
    into.set(rows.subarray(token * width, (token + 1) * width), token * stride + offset);
  }
}
