// Runs a whole model forwards and backwards, layer by layer. Only the layers' inputs are kept; the inside of a layer is
// computed again on the way back.

import { floatOutput, type Feeds } from "../../graphs/session.ts";
import { gradientName } from "../../autodiff/tape.ts";
import { HIDDEN, OUTPUT_GRADIENT, type WeightShapes } from "../graphs/half-graphs.ts";
import { dealRows, putRows, takeRows, type Share } from "./deal.ts";
import { weightFeeds, type DecoderWeights, type LayerWeights, type WeightGroup } from "./decoder-weights.ts";
import type { GraphPool } from "./graph-pool.ts";

/** Sequences that run through a decoder together, laid end to end. */
export interface Batch {
  readonly tokenIds: Int32Array;
  /** Expert of each token. */
  readonly experts: Uint16Array;
}

/** Inputs of a layer's halves, which the way back needs. */
interface LayerInputs {
  readonly hidden: Float32Array;
  /** Inputs of the FFN half, by expert. */
  readonly shares: readonly { readonly share: Share; readonly rows: Float32Array }[];
}

export interface Pass {
  /** Residual stream behind the last layer, in front of the last norm; `[tokens, hiddenSize]`. */
  readonly hidden: Float32Array;
  /** Inputs of all layers; empty unless `forward` keeps them. */
  readonly layers: readonly LayerInputs[];
}

/** Receives a gradient of the weight `key`; the array is not used afterwards. */
export type OnGradient = (key: string, gradient: Float32Array) => void;

export class Decoder {
  readonly weights: DecoderWeights;
  readonly #pool: GraphPool;
  readonly #hiddenSize: number;
  /** Keys of trained weights. */
  readonly #trained: ReadonlySet<string>;

  constructor(weights: DecoderWeights, pool: GraphPool, trained: ReadonlySet<string> = new Set()) {
    this.weights = weights;
    this.#pool = pool;
    this.#hiddenSize = weights.finalNorm.values.length;
    this.#trained = trained;
  }

  /** Runs all layers. @param keeps - whether `backward` follows */
  async forward({ tokenIds, experts }: Batch, keeps: boolean): Promise<Pass> {
    const shares = dealRows(experts);
    const layers: LayerInputs[] = [];
    let hidden = this.#embed(tokenIds);
    for (const [index, layer] of this.weights.layers.entries()) {
      const attended = await this.#attend(index, layer, hidden);
      const inputs = shares.map((share) => ({ share, rows: takeRows(attended, share, this.#hiddenSize) }));
      if (keeps) layers.push({ hidden, shares: inputs });
      let next = shares.length > 1 ? attended : hidden;
      for (const { share, rows } of inputs) {
        next = putRows(next, await this.#feedForward(layer, share.expert, rows), share, this.#hiddenSize);
      }
      hidden = next;
      await breathe();
    }
    return { hidden, layers };
  }

  /** Computes the gradients of trained weights. @param gradient - of `pass.hidden` */
  async backward({ layers }: Pass, gradient: Float32Array, onGradient: OnGradient): Promise<void> {
    let slope = gradient;
    for (const [index, inputs] of [...layers.entries()].toReversed()) {
      const layer = this.weights.layers[index]!;
      let before = inputs.shares.length > 1 ? new Float32Array(slope.length) : slope;
      for (const { share, rows } of inputs.shares) {
        const groups = [layer.common, layer.experts[share.expert]!];
        const session = await this.#pool.feedForward(this.#shapes(groups), true);
        const own = takeRows(slope, share, this.#hiddenSize);
        const outputs = await session.run({
          ...this.#rows(HIDDEN, rows),
          ...this.#rows(OUTPUT_GRADIENT, own),
          ...weightFeeds(groups),
        });
        this.#passOn(groups, outputs, onGradient);
        before = putRows(before, floatOutput(outputs, gradientName(HIDDEN)), share, this.#hiddenSize);
      }
      const groups = [layer.attention];
      const session = await this.#pool.attention(index, this.#shapes(groups), true);
      const outputs = await session.run({
        ...this.#rows(HIDDEN, inputs.hidden),
        ...this.#rows(OUTPUT_GRADIENT, before),
        ...weightFeeds(groups),
      });
      this.#passOn(groups, outputs, onGradient);
      slope = floatOutput(outputs, gradientName(HIDDEN));
      await breathe();
    }
  }

  async #attend(index: number, { attention }: LayerWeights, hidden: Float32Array): Promise<Float32Array> {
    const session = await this.#pool.attention(index, this.#shapes([attention]), false);
    const outputs = await session.run({ ...this.#rows(HIDDEN, hidden), ...weightFeeds([attention]) });
    return floatOutput(outputs, "next");
  }

  async #feedForward({ common, experts }: LayerWeights, expert: number, rows: Float32Array): Promise<Float32Array> {
    const groups = [common, experts[expert]!];
    const session = await this.#pool.feedForward(this.#shapes(groups), false);
    const outputs = await session.run({ ...this.#rows(HIDDEN, rows), ...weightFeeds(groups) });
    return floatOutput(outputs, "next");
  }

  #embed(tokenIds: Int32Array): Float32Array {
    const { embedding } = this.weights;
    const size = this.#hiddenSize;
    const hidden = new Float32Array(tokenIds.length * size);
    tokenIds.forEach((id, row) => hidden.set(embedding.subarray(id * size, (id + 1) * size), row * size));
    const { embeddingScale } = this.#pool.config;
    return embeddingScale === 1 ? hidden : hidden.map((value) => value * embeddingScale);
  }

  #rows(name: string, data: Float32Array): Record<string, { data: Float32Array; dims: readonly number[] }> {
    return { [name]: { data, dims: [data.length / this.#hiddenSize, this.#hiddenSize] } };
  }

  #shapes(groups: readonly WeightGroup[]): WeightShapes {
    const entries = groups.flatMap((group) => [...group]);
    return {
      shapes: new Map(entries.map(([name, { shape }]) => [name, shape])),
      trained: new Set(entries.flatMap(([name, { key }]) => (this.#trained.has(key) ? [name] : []))),
    };
  }

  #passOn(groups: readonly WeightGroup[], outputs: Feeds, onGradient: OnGradient): void {
    for (const group of groups) {
      for (const [name, { key }] of group) {
        const gradient = gradientName(name);
        if (outputs[gradient]) onGradient(key, floatOutput(outputs, gradient));
      }
    }
  }
}

/** Makes a break: runs block their thread, and neither signals nor timers would be handled. */
function breathe(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
