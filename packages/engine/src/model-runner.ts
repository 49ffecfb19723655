import { integerOption } from "@readme-moe/core";
import {
  exactInt8Kernels,
  type GraphSession,
  type KvPool,
  type KvShape,
  type Model,
  openGraph,
  type Precision,
  resolveCacheFolder,
} from "@readme-moe/model";
import { calibrationOf } from "./calibration-sequences.ts";
import { decoderGraph } from "./decoder-graph.ts";
import { FullLogits } from "./full-logits.ts";
import type { LoadProgress } from "./protocol.ts";
import { runSteps } from "./run-steps.ts";
import type { StepLogits } from "./step-logits.ts";
import type { StepSequence } from "./step-feeds.ts";
import type { StepRunner } from "./step-runner.ts";

/** Of `ModelRunner.open`: threads, precision, and where its graph is kept. */
export interface RunnerOptions {
  /** Where built graphs are kept. @default `README_MOE_CACHE`, else the platform's cache folder */
  readonly cacheFolder?: string | undefined;
  /** @default all cores */
  readonly threads?: number | undefined;
  /** @default "fp32" */
  readonly precision?: Precision | undefined;
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Told once, with the reason, when the graph cannot be cached and stays in memory. */
  readonly onCacheFailure?: ((reason: string) => void) | undefined;
}

/** Runs steps of one model: tokens and caches in, logits out. Blocks its thread while a step runs. */
export class ModelRunner implements StepRunner {
  readonly model: Model;
  /** The graph itself, for measuring it alone. */
  readonly session: GraphSession;
  readonly #fullLogits: FullLogits;

  private constructor(model: Model, session: GraphSession) {
    this.model = model;
    this.session = session;
    this.#fullLogits = new FullLogits(model.config.vocabSize);
  }

  /** Builds the model's graph, or takes it from the cache. @throws {ReadMeError} */
  static async open(model: Model, options: RunnerOptions = {}): Promise<ModelRunner> {
    const { onProgress = () => undefined } = options;
    const threads = options.threads === undefined ? undefined : integerOption("threads", options.threads, 1, 1024);
    const cacheFolder = resolveCacheFolder(options.cacheFolder);
    const { precision = "fp32" } = options;
    const fitted = precision === "fp32" ? undefined : await calibrationOf(model, precision, { threads, cacheFolder });
    // In 4 bits, a head may have integer products, too; not for that alone is found out which of them are exact.
    const int8Kernels = precision === "int8" ? await exactInt8Kernels() : undefined;
    const graph = decoderGraph(model, { precision, calibration: fitted?.calibration, int8Kernels });
    const fingerprint = [await model.fingerprint(cacheFolder), fitted?.fingerprint].join(" ").trim();
    const session = await openGraph(graph, fingerprint, {
      cacheFolder,
      threads,
      onProgress: (progress) => onProgress({ stage: "building", ...progress }),
      onLoading: () => onProgress({ stage: "loading", doneBytes: 0, ofBytes: 0 }),
      onCacheFailure: options.onCacheFailure,
    });
    return new ModelRunner(model, session);
  }

  get kvShape(): KvShape {
    return this.model.config;
  }

  /**
   * One step: runs every sequence's `tokenIds` through all layers and appends them to its slot, which must have room
   * reserved for them.
   *
   * @param numCandidates - best tokens wanted per row of logits
   * @returns one per sequence, in their order; full logits are as they are until the next call
   * @throws {ReadMeError} `ERR_CONTEXT_LENGTH` when a sequence would outgrow the model's context; nothing has run then
   */
  async forward(pool: KvPool, sequences: readonly StepSequence[], numCandidates = 1): Promise<readonly StepLogits[]> {
    return runSteps(this.model, pool, sequences, numCandidates, this.#fullLogits, async ({ feeds }, memory) => {
      const outputs = await this.session.runInto(memory, feeds);
      return { outputs, newKeysValues: outputs["new_keys_values"]?.data as Float32Array };
    });
  }

  async dispose(): Promise<void> {
    await this.session.dispose();
  }
}
