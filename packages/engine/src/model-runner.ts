import { integerOption, ReadMeError } from "@readme-moe/core";
import {
  attentionRuns,
  exactInt8Kernels,
  type GraphSession,
  type GraphTensor,
  type KvPool,
  type KvShape,
  type Model,
  openGraph,
  type Precision,
  resolveCacheFolder,
} from "@readme-moe/model";
import { calibrationOf } from "./calibration-sequences.ts";
import { decoderGraph } from "./decoder-graph.ts";
import type { LoadProgress } from "./protocol.ts";
import { planRun, type RunPlan, type StepSequence } from "./step-feeds.ts";

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

/** What one sequence gets back of a step; a row for each of its `logitsOf`. */
export interface StepLogits {
  /** The best tokens of each row, best first, `[rows, numCandidates]`. */
  readonly candidateIds: Int32Array;
  readonly candidateLogits: Float32Array;
  /** `[rows]`; a candidate's log-probability is its logit minus this. */
  readonly logSumExp: Float32Array;
  /** Log-probability of each row's target, `[rows]`. */
  readonly targetLogProbs: Float32Array;
  /** `[rows, vocabSize]` when asked for, else empty. */
  readonly fullLogits: Float32Array;
}

/** Runs steps of one model: tokens and caches in, logits out. Blocks its thread while a step runs. */
export class ModelRunner {
  readonly model: Model;
  /** The graph itself, for measuring it alone. */
  readonly session: GraphSession;

  private constructor(model: Model, session: GraphSession) {
    this.model = model;
    this.session = session;
  }

  /** Builds the model's graph, or takes it from the cache. @throws {ReadMeError} */
  static async open(model: Model, options: RunnerOptions = {}): Promise<ModelRunner> {
    const { onProgress = () => undefined } = options;
    const threads = options.threads === undefined ? undefined : integerOption("threads", options.threads, 1, 1024);
    const cacheFolder = resolveCacheFolder(options.cacheFolder);
    const { precision = "fp32" } = options;
    const fitted = precision === "fp32" ? undefined : await calibrationOf(model, precision, { threads, cacheFolder });
    const int8Kernels = precision === "int8" ? await exactInt8Kernels() : undefined;
    const graph = decoderGraph(model, precision, fitted?.calibration);
    const fingerprint = [await model.fingerprint(cacheFolder), fitted?.fingerprint].join(" ").trim();
    const session = await openGraph(graph, fingerprint, {
      cacheFolder,
      threads,
      int8Kernels,
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
   * @returns one per sequence, in their order
   * @throws {ReadMeError} `ERR_CONTEXT_LENGTH` when a sequence would outgrow the model's context; nothing has run then
   */
  async forward(pool: KvPool, sequences: readonly StepSequence[], numCandidates = 1): Promise<readonly StepLogits[]> {
    const { config, experts } = this.model;
    integerOption("numCandidates", numCandidates, 1, config.vocabSize);
    if (sequences.length === 0) return [];
    for (const sequence of sequences) this.#check(sequence);
    const results: StepLogits[] = [];
    for (const run of attentionRuns(sequences)) {
      const plan = planRun(run, sequences, pool, experts.names.length, numCandidates);
      const outputs = await this.session.run(plan.feeds);
      const newKeysValues = floats(outputs, "new_keys_values");
      plan.order.forEach((place, index) => {
        const sequence = sequences[place] as StepSequence;
        const first = plan.firstTokens[index] as number;
        pool.append(sequence.slot, newKeysValues, first, first + sequence.tokenIds.length);
        results[place] = stepLogits(outputs, plan, index, sequence, numCandidates, config.vocabSize);
      });
    }
    return results;
  }

  async dispose(): Promise<void> {
    await this.session.dispose();
  }

  #check({ tokenIds, experts, slot, logitsOf, targets }: StepSequence): void {
    const { vocabSize, contextTokens } = this.model.config;
    if (tokenIds.length === 0) throw new RangeError("Expected `tokenIds` to hold at least one token, got none");
    if (slot.numTokens + tokenIds.length > contextTokens) {
      const asked = slot.numTokens + tokenIds.length;
      throw new ReadMeError("ERR_CONTEXT_LENGTH", `${asked} tokens do not fit the model's context of ${contextTokens}`);
    }
    if (experts.length !== tokenIds.length) {
      throw new RangeError(`Expected \`experts\` to have one entry for each of ${tokenIds.length} tokens`);
    }
    if (targets && targets.length !== logitsOf.length) {
      throw new RangeError(`Expected \`targets\` to have one entry for each of ${logitsOf.length} rows of logits`);
    }
    const numExperts = this.model.experts.names.length;
    for (let index = 0; index < tokenIds.length; index++) {
      integerOption(`tokenIds[${index}]`, tokenIds[index], 0, vocabSize - 1);
      integerOption(`experts[${index}]`, experts[index], 0, numExperts - 1);
    }
    for (const row of logitsOf) integerOption("logitsOf", row, 0, tokenIds.length - 1);
    for (const target of Array.from(targets ?? [])) integerOption("targets", target, 0, vocabSize - 1);
  }
}

function stepLogits(
  outputs: Readonly<Record<string, GraphTensor>>,
  plan: RunPlan,
  index: number,
  { logitsOf, wantsFullLogits }: StepSequence,
  numCandidates: number,
  vocabSize: number,
): StepLogits {
  const first = plan.firstRows[index] as number;
  const end = first + logitsOf.length;
  const firstFull = (plan.firstFullRows[index] as number) * vocabSize;
  const ids = outputs["candidate_ids"]?.data as BigInt64Array;
  return {
    candidateIds: Int32Array.from(ids.subarray(first * numCandidates, end * numCandidates), Number),
    candidateLogits: floats(outputs, "candidate_logits").subarray(first * numCandidates, end * numCandidates),
    logSumExp: floats(outputs, "log_sum_exp").subarray(first, end),
    targetLogProbs: floats(outputs, "target_log_probs").subarray(first, end),
    fullLogits: floats(outputs, "full_logits").subarray(
      firstFull,
      firstFull + (wantsFullLogits ? logitsOf.length * vocabSize : 0),
    ),
  };
}

function floats(outputs: Readonly<Record<string, GraphTensor>>, name: string): Float32Array {
  return outputs[name]?.data as Float32Array;
}
