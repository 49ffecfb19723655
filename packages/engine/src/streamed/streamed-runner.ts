// Steps of a model whose experts come and go: attention, embeddings and head stay in memory, and of experts what fits.

import { integerOption, type Residency } from "@readme-moe/core";
import {
  exactInt8Kernels,
  type Feeds,
  type GraphSession,
  type GraphTensor,
  type KvPool,
  type KvShape,
  type Model,
  openGraph,
  resolveCacheFolder,
} from "@readme-moe/model";
import { calibrationOf } from "../calibration-sequences.ts";
import type { RunnerOptions } from "../model-runner.ts";
import { runSteps, type RunOutputs } from "../run-steps.ts";
import type { RunPlan, StepSequence } from "../step-feeds.ts";
import type { StepLogits } from "../step-logits.ts";
import type { StepRunner } from "../step-runner.ts";
import { attentionSegment, headSegment } from "./segment-graphs.ts";
import { openUnitSessions } from "./unit-sessions.ts";
import { UnitFile } from "./unit-file.ts";
import { UnitMemory, type UnitMemoryOptions } from "./unit-memory.ts";

export interface StreamedOptions extends RunnerOptions, Omit<UnitMemoryOptions, "budgetBytes"> {
  /** Experts' weights in memory at most, reads under way included. */
  readonly expertCacheBytes: number;
}

interface Sessions {
  /** Of each layer. */
  readonly attention: readonly GraphSession[];
  readonly head: GraphSession;
  /** Of each size of units. */
  readonly units: readonly GraphSession[];
}

/** The same numbers as a `ModelRunner` of the same precision, bit for bit. */
export class StreamedRunner implements StepRunner {
  readonly model: Model;
  readonly memory: UnitMemory;
  readonly #sessions: Sessions;
  readonly #file: UnitFile;

  private constructor(model: Model, sessions: Sessions, file: UnitFile, memory: UnitMemory) {
    this.model = model;
    this.memory = memory;
    this.#sessions = sessions;
    this.#file = file;
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
    const int8Kernels = await exactInt8Kernels();
    const fingerprint = `${await model.fingerprint(cacheFolder)} ${fitted.fingerprint}`;
    const arithmetic = { precision, calibration: fitted.calibration } as const;
    const file = await UnitFile.open(model, arithmetic, fingerprint, cacheFolder, (doneBytes, ofBytes) =>
      onProgress({ stage: "building", doneBytes, ofBytes }),
    );
    const opened: GraphSession[] = [];
    try {
      const memory = new UnitMemory(file, { ...options, budgetBytes: expertCacheBytes });
      const session = async (graph: Parameters<typeof openGraph>[0]): Promise<GraphSession> => {
        const one = await openGraph(graph, fingerprint, {
          ...options,
          cacheFolder,
          threads,
          int8Kernels,
          spins: false,
          onProgress: undefined,
        });
        opened.push(one);
        return one;
      };
      const attention: GraphSession[] = [];
      for (let layer = 0; layer < model.config.numLayers; layer++) {
        onProgress({ stage: "loading", doneBytes: layer, ofBytes: model.config.numLayers });
        attention.push(await session(attentionSegment(model, layer, fitted.calibration)));
      }
      const head = await session(headSegment(model));
      const units = await openUnitSessions(file.graphs, { threads, int8Kernels, spins: false });
      return new StreamedRunner(model, { attention, head, units }, file, memory);
    } catch (error) {
      for (const one of opened) await one.dispose();
      await file.close();
      throw error;
    }
  }

  /** For the scheduler: what is missing; and, once a step is planned, its first reads begin. */
  get residency(): Residency {
    const { memory } = this;
    return {
      get missingBytes() {
        return memory.cache.missingBytes();
      },
      prepare: async (experts) =>
        void memory.readAhead(
          0,
          [...experts].toSorted((a, b) => a - b),
        ),
    };
  }

  get kvShape(): KvShape {
    return this.model.config;
  }

  async forward(pool: KvPool, sequences: readonly StepSequence[], numCandidates = 1): Promise<readonly StepLogits[]> {
    return runSteps(this.model, pool, sequences, numCandidates, (plan) => this.#run(plan));
  }

  async dispose(): Promise<void> {
    const { attention, head, units } = this.#sessions;
    for (const session of [...attention, head, ...units]) await session.dispose();
    await this.#file.close();
  }

  /** One step through all layers, segment by segment. */
  async #run({ feeds }: RunPlan): Promise<RunOutputs> {
    const { numLayers, hiddenSize, numKvHeads, headSize } = this.model.config;
    const numTokens = feeds["token_ids"]?.data.length ?? 0;
    const active = activeExperts(feeds, this.model.experts.names.length);
    const perLayer = 2 * numKvHeads * headSize;
    const newKeysValues = new Float32Array(numTokens * numLayers * perLayer);
    const attentionFeeds = feedsByLayer(feeds, numLayers);
    let stream: Feeds = { token_ids: feeds["token_ids"] as GraphTensor };
    for (let layer = 0; layer < numLayers; layer++) {
      const session = this.#sessions.attention[layer] as GraphSession;
      const attended = await session.run({ ...attentionFeeds[layer], ...stream });
      interleave(newKeysValues, attended["new_keys_values"]?.data as Float32Array, layer, numLayers, perLayer);
      const expertRows = new Float32Array(numTokens * hiddenSize);
      let row = 0;
      await this.memory.runLayer(layer, active, async (expert, memory) => {
        const tokens = feeds[`expert_tokens.${expert}`] as GraphTensor;
        const { rows, row_max: rowMax } = attended as { readonly rows: GraphTensor; readonly row_max: GraphTensor };
        const unit = this.#sessions.units[this.#file.graphOf[layer] as number] as GraphSession;
        const { out } = await unit.run({ rows, row_max: rowMax, tokens, ...this.#file.feeds(layer, memory) });
        expertRows.set(out?.data as Float32Array, row * hiddenSize);
        row += tokens.data.length;
      });
      stream = {
        residual: attended["next_residual"] as GraphTensor,
        expert_rows: { data: expertRows, dims: [numTokens, hiddenSize] },
        inverse: feeds["inverse"] as GraphTensor,
        ...(attended["next_shared"] ? { shared: attended["next_shared"] } : {}),
      };
    }
    const outputs = await this.#sessions.head.run({ ...logitFeeds(feeds), ...stream });
    return { outputs, newKeysValues };
  }
}

function activeExperts(feeds: Feeds, numExperts: number): readonly number[] {
  const all = Array.from({ length: numExperts }, (_, expert) => expert);
  return all.filter((expert) => (feeds[`expert_tokens.${expert}`]?.data.length ?? 0) > 0);
}

const ATTENTION_INPUTS = /^(?:positions|is_plain_decode|group_rows|(?:decode|decode_other|continued|fresh)\..*)$/;
const PAST_INPUTS = /^(.*\.past_(?:keys|values))\.(\d+)$/;

/** What each layer's attention takes, which is the only one to its own graph. */
function feedsByLayer(feeds: Feeds, numLayers: number): readonly Feeds[] {
  const shared: Record<string, GraphTensor> = {};
  const own = Array.from({ length: numLayers }, (): Record<string, GraphTensor> => ({}));
  for (const [name, tensor] of Object.entries(feeds)) {
    if (!ATTENTION_INPUTS.test(name)) continue;
    const [, past, layer] = PAST_INPUTS.exec(name) ?? [];
    if (past === undefined) shared[name] = tensor;
    else (own[Number(layer)] as Record<string, GraphTensor>)[`${past}.0`] = tensor;
  }
  return own.map((layer) => ({ ...shared, ...layer }));
}

function logitFeeds(feeds: Feeds): Feeds {
  const names = ["logit_rows", "targets", "full_rows", "num_candidates"];
  return Object.fromEntries(names.map((name) => [name, feeds[name] as GraphTensor]));
}

/** Puts a layer's `[tokens, perLayer]` into `[tokens, numLayers, perLayer]`. */
function interleave(into: Float32Array, own: Float32Array, layer: number, numLayers: number, perLayer: number): void {
  for (let token = 0; token * perLayer < own.length; token++) {
    into.set(own.subarray(token * perLayer, (token + 1) * perLayer), (token * numLayers + layer) * perLayer);
  }
}
