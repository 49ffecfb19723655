import { integerOption } from "@readme-moe/core";
import {
  exactInt8Kernels,
  type GraphSession,
  type KvMemory,
  type KvMemoryOptions,
  KvPool,
  type Model,
  openGraph,
  type Precision,
  resolveCacheFolder,
} from "@readme-moe/model";
import { calibrationOf } from "./calibration-sequences.ts";
import { decoderGraph } from "./decoder-graph.ts";
import { FullLogits } from "./full-logits.ts";
import type { LoadProgress } from "./protocol.ts";
import { runSteps, type Run } from "./run-steps.ts";
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

  openKv({ capacityTokens }: KvMemoryOptions): KvPool {
    return new KvPool({ shape: this.model.config, capacityTokens });
  }

  /** See `StepRunner.forward`. */
  async forward(kv: KvMemory, sequences: readonly StepSequence[], numCandidates = 1): Promise<readonly StepLogits[]> {
    const { model } = this;
    return runSteps({ model, fullLogits: this.#fullLogits, run: this.#run }, kv, sequences, numCandidates);
  }

  async dispose(): Promise<void> {
    await this.session.dispose();
  }

  readonly #run: Run = async ({ feeds }, memory) => {
    const outputs = await this.session.runInto(memory, feeds);
    return { outputs, newKeysValues: outputs["new_keys_values"]?.data as Float32Array };
  };
}
