// Runs a dense model with experts of low rank: losses of every token, and gradients of one expert.

import { setImmediate as nextTurn } from "node:timers/promises";
import { seededRandom } from "@readme-moe/core";
import { type ModelConfig, decodeFloats, encodeF16 } from "@readme-moe/model";
import { gradientName } from "../autodiff/tape.ts";
import { floatOutput, type Feeds, type GraphTensor } from "../graphs/session.ts";
import { type Frozen, SessionPool, type StagedSession } from "../graphs/staged-session.ts";
import { pickRows } from "../linear-algebra/matrix.ts";
import { normals } from "../random.ts";
import type { Labels } from "../tuning/decoder.ts";
import type { DecoderWeights, Weight } from "../tuning/weights.ts";
import { ComposedWeight, LEFT, RIGHT } from "../tuning/parameters.ts";
import { batchOf, labelsOf, type TextSequence } from "../tuning/tuning-data.ts";
import { graphName, halvesOf, weightOf, type Product } from "./model-graph.ts";
import * as graph from "./model-graph.ts";

interface AdaptedModelSettings {
  /** Number and length of the sequences that run together. */
  readonly sequences: number;
  readonly sequenceTokens: number;
  /** Factor of the experts' changes. */
  readonly scale: number;
  /** Weight of the divergence from the dense model in the loss that gradients are of. */
  readonly teacherShare: number;
  readonly threads: number | undefined;
}

/** Experts and the choice among them for each row: 0 is none, `k` the expert at place `k - 1`. */
interface Routed {
  readonly adapters: readonly Adapter[];
  readonly routes: Uint16Array;
}

export class AdaptedModel {
  readonly settings: AdaptedModelSettings;
  readonly #config: ModelConfig;
  readonly #weights: DecoderWeights;
  readonly #frozen: Feeds;
  readonly #products: Readonly<Record<string, Frozen>>;
  readonly #shapes: Pick<graph.ModelGraphOptions, "frozen" | "products">;
  readonly #pool: SessionPool;
  #stacked: { readonly adapters: readonly Adapter[]; readonly feeds: Feeds } | undefined;

  constructor(config: ModelConfig, weights: DecoderWeights, settings: AdaptedModelSettings) {
    this.settings = settings;
    this.#pool = new SessionPool({ threads: settings.threads });
    this.#config = config;
    this.#weights = weights;
    const [feeds, products]: [Record<string, GraphTensor>, Record<string, Frozen>] = [{}, {}];
    const shapes = { frozen: new Map<string, readonly number[]>(), products: new Map<string, readonly number[]>() };
    weights.layers.forEach((layer, index) => {
      for (const [half, group] of halvesOf(layer)) {
        for (const [name, { values, shape, frozen }] of group) {
          const key = graphName(index, half, name);
          shapes[frozen ? "products" : "frozen"].set(key, shape);
          if (frozen) products[key] = frozen;
          else feeds[key] = { data: values, dims: shape };
        }
      }
    });
    if (weights.headProduct) {
      products[graph.HEAD] = weights.headProduct;
      shapes.products.set(graph.HEAD, []);
    }
    [this.#frozen, this.#products, this.#shapes] = [feeds, products, shapes];
  }

  /** Returns each row's loss, and the gradients of the weighted loss by the factors' keys. */
  async gradients(
    adapter: Adapter,
    tokenIds: Int32Array,
    labels: Labels,
  ): Promise<{ readonly losses: Float32Array; readonly gradients: ReadonlyMap<string, Float32Array> }> {
    const { teacherShare } = this.settings;
    const taught = teacherShare > 0 ? { [graph.TAUGHT]: await this.#states(tokenIds) } : {};
    const session = await this.#session("gradients", adapter);
    const feeds = {
      ...this.#feeds(tokenIds),
      ...this.#labelFeeds(labels.ids),
      ...factorFeeds(adapter),
      ...taught,
      [graph.WEIGHTS]: { data: labels.weights, dims: [labels.weights.length, 1] },
    };
    const outputs = await session.run(feeds, this.#products);
    const gradients = new Map(adapter.map(({ key }) => [key, floatOutput(outputs, gradientName(key))]));
    return { losses: floatOutput(outputs, graph.LOSSES), gradients };
  }

  /** Returns each row's loss with one expert for all rows, or with none. @param ids - tokens that follow */
  async losses(tokenIds: Int32Array, ids: Int32Array, adapter: Adapter = []): Promise<Float32Array> {
    const session = await this.#session("losses", adapter);
    const feeds = { ...this.#feeds(tokenIds), ...this.#labelFeeds(ids), ...factorFeeds(adapter) };
    return floatOutput(await session.run(feeds, this.#products), graph.LOSSES);
  }

  /** Returns each row's loss when each row has its own expert. @param ids - tokens that follow */
  async routedLosses(tokenIds: Int32Array, ids: Int32Array, { adapters, routes }: Routed): Promise<Float32Array> {
    const rank = rankOf(adapters[0] ?? []);
    if (this.#stacked?.adapters !== adapters) {
      this.#stacked = { adapters, feeds: factorFeeds(stackAdapters(adapters)) };
    }
    const width = rank * adapters.length;
    const session = await this.#session("losses", adapters[0] ?? [], adapters.length);
    const feeds = {
      ...this.#feeds(tokenIds),
      ...this.#labelFeeds(ids),
      ...this.#stacked.feeds,
      [graph.MASK]: { data: routeMask(routes, adapters.length, rank), dims: [tokenIds.length, width] },
    };
    return floatOutput(await session.run(feeds, this.#products), graph.LOSSES);
  }

  dispose = (): Promise<void> => this.#pool.dispose();

  async #states(tokenIds: Int32Array): Promise<GraphTensor> {
    const session = await this.#session("states", []);
    const { [graph.HEAD]: _, ...feeds } = this.#feeds(tokenIds);
    return {
      data: floatOutput(await session.run(feeds, this.#products), graph.STATES),
      dims: [tokenIds.length, this.#config.hiddenSize],
    };
  }

  /** @param times - number of experts of which each row has one; `undefined` for one expert of all rows */
  #session(result: "losses" | "gradients" | "states", adapter: Adapter, times?: number): Promise<StagedSession> {
    const factors = adapter.map(({ key, shape }): readonly [string, readonly number[]] => {
      const axis = key.endsWith(LEFT) ? 0 : 1;
      return [key, shape.map((size, at) => (at === axis ? size * (times ?? 1) : size))];
    });
    const key = JSON.stringify([result, factors, times]);
    return this.#pool.get(key, () =>
      graph.modelGraph({
        ...this.settings,
        config: this.#config,
        ...this.#shapes,
        factors: new Map(factors),
        maskedRank: times === undefined ? undefined : rankOf(adapter) * times,
        result,
        teacherShare: result === "gradients" ? this.settings.teacherShare : 0,
      }),
    );
  }

  #feeds(tokenIds: Int32Array): Feeds {
    const { embedding, finalNorm, head, headProduct } = this.#weights;
    const { hiddenSize: size, embeddingScale } = this.#config;
    const rows = pickRows(embedding, tokenIds, size);
    if (embeddingScale !== 1) for (let i = 0; i < rows.length; i++) rows[i]! *= embeddingScale;
    return {
      ...this.#frozen,
      [graph.EMBEDDED]: { data: rows, dims: [tokenIds.length, size] },
      [graph.FINAL_NORM]: { data: finalNorm.values, dims: [size] },
      ...(headProduct ? {} : { [graph.HEAD]: { data: head, dims: [head.length / size, size] } }),
    };
  }

  #labelFeeds(ids: Int32Array): Feeds {
    return { [graph.IDS]: { data: BigInt64Array.from(ids, BigInt), dims: [ids.length] } };
  }
}

function factorFeeds(adapter: Adapter): Feeds {
  return Object.fromEntries(adapter.map(({ key, shape, values }) => [key, { data: values, dims: shape }]));
}

// Factors of an expert of low rank: parameters that are named like the inputs of the model's graph.

/** One expert's factors, product by product: left `[rank, in]`, then right `[out, rank]`. */
export type Adapter = readonly Weight[];

/** Makes an expert that changes nothing yet: left factors are random, right factors are zero. */
export function newAdapter(
  { layers }: Pick<DecoderWeights, "layers">,
  { products, rank, seed }: { readonly products: readonly Product[]; readonly rank: number; readonly seed: number },
): Adapter {
  const random = seededRandom(seed);
  return layers.flatMap((weights, layer) =>
    products.flatMap((product): Weight[] => {
      const [out = 0, size = 0] = weightOf(weights, product).shape;
      const key = graphName(layer, product.half, product.name);
      const values = normals(rank * size, 1 / Math.sqrt(size), random);
      return [
        { key: key + LEFT, shape: [rank, size], values },
        { key: key + RIGHT, shape: [out, rank], values: new Float32Array(out * rank) },
      ];
    }),
  );
}

export function copyAdapter(adapter: Adapter): Adapter {
  return adapter.map(({ key, shape, values }) => ({ key, shape, values: values.slice() }));
}

/** Rounds factors to half precision in place: the files hold what was measured. */
export function roundAdapter(adapter: Adapter): void {
  for (const { values } of adapter) values.set(decodeFloats(encodeF16(values), "F16"));
}

/** Joins changes of the same products to one, whose ranks are those of all, one after another. */
export function stackAdapters(adapters: readonly Adapter[]): readonly ComposedWeight[] {
  const [first = []] = adapters;
  const ranks = adapters.map(rankOf);
  const rank = ranks.reduce((sum, one) => sum + one, 0);
  return first.map(({ key, shape: [rows = 0, columns = 0] }, place) => {
    const isLeft = key.endsWith(LEFT);
    const parts = adapters.map((adapter, index) => {
      const before = ranks.slice(0, index).reduce((sum, one) => sum + one, 0);
      const weight = adapter[place]!;
      return isLeft ? { weight, row: before } : { weight, column: before };
    });
    return new ComposedWeight(key, isLeft ? [rank, columns] : [rows, rank], parts);
  });
}

/** Returns the rank of a change; 0 for one of no products. */
function rankOf(adapter: Adapter): number {
  return adapter[0]?.shape[0] ?? 0;
}

/**
 * Makes the factors of each row and rank of stacked experts: 1 for the ranks of the row's expert.
 *
 * @param routes - expert of each row; 0 is none, `k` is the expert at place `k - 1`
 */
function routeMask(routes: Uint16Array, numAdapters: number, rank: number): Float32Array {
  const width = numAdapters * rank;
  const mask = new Float32Array(routes.length * width);
  routes.forEach((expert, row) => {
    if (expert > 0) mask.fill(1, row * width + (expert - 1) * rank, row * width + expert * rank);
  });
  return mask;
}

// Losses of the tokens of sequences, with given experts.

/** Experts of a run over sequences. */
export interface LossOptions {
  /** None for the dense model, one for all tokens, or several with a choice for each token. */
  readonly adapters: readonly Adapter[];
  /** Chooses the expert of each token of a sequence, 0 for none; for several adapters. */
  readonly route?: ((sequence: TextSequence) => Uint16Array) | undefined;
  readonly signal: AbortSignal | undefined;
}

/** Returns the loss of each token's next one for each sequence; the last token's is of no token, and 0. */
export async function lossesOfTokens(
  model: AdaptedModel,
  sequences: readonly TextSequence[],
  { adapters, route, signal }: LossOptions,
): Promise<readonly Float32Array[]> {
  const { sequences: together, sequenceTokens } = model.settings;
  const result: Float32Array[] = [];
  for (let from = 0; from < sequences.length; from += together) {
    signal?.throwIfAborted();
    const some = sequences.slice(from, from + together);
    const routed = some.map((sequence) => ({
      ...sequence,
      experts: route?.(sequence) ?? new Uint16Array(sequence.tokenIds.length),
    }));
    const { tokenIds, experts } = batchOf(routed, together);
    const { ids } = labelsOf({ tokenIds }, sequenceTokens, 1);
    const rows = route
      ? await model.routedLosses(tokenIds, ids, { adapters, routes: experts })
      : await model.losses(tokenIds, ids, adapters[0]);
    some.forEach((_, place) => {
      const own = rows.slice(place * sequenceTokens, (place + 1) * sequenceTokens);
      own[sequenceTokens - 1] = 0;
      result.push(own);
    });
    await nextTurn();
  }
  return result;
}

/** Averages the losses of a sequence's tokens except the last one. */
export function meanLoss(rows: Float32Array): number {
  return rows.reduce((sum, loss) => sum + loss, 0) / (rows.length - 1);
}
