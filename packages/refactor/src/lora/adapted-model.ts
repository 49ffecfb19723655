// Runs a dense model with experts of low rank: losses of every token, and gradients of one expert.

import type { ModelConfig } from "@readme-moe/model";
import { floatOutput, GraphSession, type Feeds, type GraphTensor } from "../graphs/session.ts";
import { gradientName } from "../autodiff/tape.ts";
import type { DecoderWeights } from "../tuning/decoder/decoder-weights.ts";
import { LEFT } from "../tuning/parameters.ts";
import { rankOf, routeMask, stackAdapters, type Adapter } from "./adapter.ts";
import * as graph from "./model-graph.ts";
import { graphName, halvesOf } from "./products.ts";

export interface AdaptedModelSettings {
  /** Number and length of the sequences that run together. */
  readonly sequences: number;
  readonly sequenceTokens: number;
  /** Factor of the experts' changes. */
  readonly scale: number;
  /** Weight of the divergence from the dense model in the loss that gradients are of. */
  readonly teacherShare: number;
  readonly threads: number | undefined;
}

/** Tokens that follow each row, and the row's weight in the loss. */
export interface RowLabels {
  readonly ids: Int32Array;
  readonly weights: Float32Array;
}

/** Experts and the choice among them for each row: 0 is none, `k` the expert at place `k - 1`. */
export interface Routed {
  readonly adapters: readonly Adapter[];
  readonly routes: Uint16Array;
}

export class AdaptedModel {
  readonly settings: AdaptedModelSettings;
  readonly #config: ModelConfig;
  readonly #weights: DecoderWeights;
  readonly #frozen: Feeds;
  readonly #sessions = new Map<string, Promise<GraphSession>>();
  #stacked: { readonly adapters: readonly Adapter[]; readonly feeds: Feeds } | undefined;

  constructor(config: ModelConfig, weights: DecoderWeights, settings: AdaptedModelSettings) {
    this.settings = settings;
    this.#config = config;
    this.#weights = weights;
    const frozen: Record<string, GraphTensor> = {};
    weights.layers.forEach((layer, index) => {
      for (const [half, group] of halvesOf(layer)) {
        for (const [name, { values, shape }] of group) {
          frozen[graphName(index, half, name)] = { data: values, dims: shape };
        }
      }
    });
    this.#frozen = frozen;
  }

  /** Returns each row's loss, and the gradients of the weighted loss by the factors' keys. */
  async gradients(
    adapter: Adapter,
    tokenIds: Int32Array,
    labels: RowLabels,
  ): Promise<{ readonly losses: Float32Array; readonly gradients: ReadonlyMap<string, Float32Array> }> {
    const { teacherShare } = this.settings;
    const taught = teacherShare > 0 ? { [graph.TAUGHT]: await this.#states(tokenIds) } : {};
    const session = await this.#session("gradients", adapter);
    const outputs = await session.run({
      ...this.#feeds(tokenIds),
      ...this.#labelFeeds(labels.ids),
      ...factorFeeds(adapter),
      ...taught,
      [graph.WEIGHTS]: { data: labels.weights, dims: [labels.weights.length, 1] },
    });
    const gradients = new Map(adapter.map(({ key }) => [key, floatOutput(outputs, gradientName(key))]));
    return { losses: floatOutput(outputs, graph.LOSSES), gradients };
  }

  /** Returns each row's loss with one expert for all rows, or with none. @param ids - tokens that follow */
  async losses(tokenIds: Int32Array, ids: Int32Array, adapter: Adapter = []): Promise<Float32Array> {
    const session = await this.#session("losses", adapter);
    const feeds = { ...this.#feeds(tokenIds), ...this.#labelFeeds(ids), ...factorFeeds(adapter) };
    return floatOutput(await session.run(feeds), graph.LOSSES);
  }

  /** Returns each row's loss when each row has its own expert. @param ids - tokens that follow */
  async routedLosses(tokenIds: Int32Array, ids: Int32Array, { adapters, routes }: Routed): Promise<Float32Array> {
    const rank = rankOf(adapters[0] ?? []);
    if (this.#stacked?.adapters !== adapters) {
      this.#stacked = { adapters, feeds: factorFeeds(stackAdapters(adapters)) };
    }
    const width = rank * adapters.length;
    const session = await this.#session("losses", adapters[0] ?? [], adapters.length);
    const outputs = await session.run({
      ...this.#feeds(tokenIds),
      ...this.#labelFeeds(ids),
      ...this.#stacked.feeds,
      [graph.MASK]: { data: routeMask(routes, adapters.length, rank), dims: [tokenIds.length, width] },
    });
    return floatOutput(outputs, graph.LOSSES);
  }

  async dispose(): Promise<void> {
    for (const session of this.#sessions.values()) await (await session).dispose();
    this.#sessions.clear();
  }

  async #states(tokenIds: Int32Array): Promise<GraphTensor> {
    const session = await this.#session("states", []);
    const { [graph.HEAD]: _, ...feeds } = this.#feeds(tokenIds);
    return {
      data: floatOutput(await session.run(feeds), graph.STATES),
      dims: [tokenIds.length, this.#config.hiddenSize],
    };
  }

  /** @param times - number of experts of which each row has one; `undefined` for one expert of all rows */
  #session(result: "losses" | "gradients" | "states", adapter: Adapter, times?: number): Promise<GraphSession> {
    const factors = adapter.map(({ key, shape }): readonly [string, readonly number[]] => {
      const axis = key.endsWith(LEFT) ? 0 : 1;
      return [key, shape.map((size, at) => (at === axis ? size * (times ?? 1) : size))];
    });
    const key = JSON.stringify([result, factors, times]);
    const known = this.#sessions.get(key);
    if (known) return known;
    const rank = rankOf(adapter);
    const { threads, ...settings } = this.settings;
    const made = graph.modelGraph({
      ...settings,
      config: this.#config,
      frozen: new Map(Object.entries(this.#frozen).map(([name, { dims }]) => [name, dims])),
      factors: new Map(factors),
      maskedRank: times === undefined ? undefined : rank * times,
      result,
      teacherShare: result === "gradients" ? settings.teacherShare : 0,
    });
    const session = GraphSession.open(made, { threads });
    this.#sessions.set(key, session);
    return session;
  }

  #feeds(tokenIds: Int32Array): Feeds {
    const { embedding, finalNorm, head } = this.#weights;
    const { hiddenSize: size, embeddingScale } = this.#config;
    const rows = new Float32Array(tokenIds.length * size);
    tokenIds.forEach((id, row) => rows.set(embedding.subarray(id * size, (id + 1) * size), row * size));
    if (embeddingScale !== 1) for (let i = 0; i < rows.length; i++) rows[i]! *= embeddingScale;
    return {
      ...this.#frozen,
      [graph.EMBEDDED]: { data: rows, dims: [tokenIds.length, size] },
      [graph.FINAL_NORM]: { data: finalNorm.values, dims: [size] },
      [graph.HEAD]: { data: head, dims: [head.length / size, size] },
    };
  }

  #labelFeeds(ids: Int32Array): Feeds {
    return { [graph.IDS]: { data: BigInt64Array.from(ids, BigInt), dims: [ids.length] } };
  }
}

function factorFeeds(adapter: Adapter): Feeds {
  return Object.fromEntries(adapter.map(({ key, shape, values }) => [key, { data: values, dims: shape }]));
}
