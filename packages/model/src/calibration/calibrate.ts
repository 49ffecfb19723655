// Typical text runs through a model layer by layer, in float32, so that memory holds one layer at a time.

import type { Model } from "../folder/model.ts";
import type { Feeds } from "../runtime/attention-feeds.ts";
import { dealToAllFeeds } from "../runtime/deal-feeds.ts";
import { freshFeeds } from "../runtime/fresh-feeds.ts";
import { memoryGraph } from "../runtime/memory-graph.ts";
import { GraphSession } from "../runtime/session.ts";
import type { TensorRef } from "../weights/tensor-ref.ts";
import type { Calibration } from "./calibration.ts";
import { configOfLayer, layerGraph, type Statistic } from "./layer-graph.ts";

/** One text to calibrate with, `[tokens]` each. */
export interface CalibrationSequence {
  readonly tokenIds: readonly number[];
  /** Expert of each token. */
  readonly experts: ArrayLike<number>;
}

export interface CalibrationOptions {
  readonly threads?: number | undefined;
  readonly statistic: Statistic;
}

/**
 * What the model's products take in on `sequences`. Computed when it is asked for, layer after layer, and kept.
 */
export function calibrate(
  model: Pick<Model, "config" | "experts" | "weights">,
  sequences: () => Promise<readonly CalibrationSequence[]>,
  options: CalibrationOptions,
): Calibration {
  const walk = new LayerWalk(model, sequences, options);
  return {
    inputMax: (product) => walk.statistic(`max.${product}`),
    inputSquares: (product) => walk.statistic(`squares.${product}`),
  };
}

class LayerWalk {
  readonly #model: Pick<Model, "config" | "experts" | "weights">;
  readonly #sequences: () => Promise<readonly CalibrationSequence[]>;
  readonly #options: CalibrationOptions;
  #parts: readonly { readonly sequence: CalibrationSequence; hidden: Float32Array }[] = [];
  #nextLayer = 0;
  readonly #statistics = new Map<string, Float32Array>();
  /** Requests wait for each other. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(
    model: Pick<Model, "config" | "experts" | "weights">,
    sequences: () => Promise<readonly CalibrationSequence[]>,
    options: CalibrationOptions,
  ) {
    this.#model = model;
    this.#sequences = sequences;
    this.#options = options;
  }

  statistic(name: string): Promise<Float32Array> {
    const result = this.#last.then(() => this.#find(name));
    this.#last = result.catch(() => undefined);
    return result;
  }

  async #find(name: string): Promise<Float32Array> {
    if (name === "max.head") return this.#headMax();
    const layer = Number(/\blayers\.(\d+)\./.exec(name)?.[1]);
    for (;;) {
      const found = this.#statistics.get(name);
      if (found) return found;
      if (!(layer >= this.#nextLayer && layer < this.#model.config.numLayers)) {
        throw new RangeError(`No layer takes down ${name}`);
      }
      await this.#advance();
    }
  }

  async #advance(): Promise<void> {
    const index = this.#nextLayer;
    if (index === 0) await this.#embed();
    const session = await this.#openLayer(index);
    try {
      for (const part of this.#parts) {
        const outputs = await session.run(this.#feeds(part));
        for (const [name, { data }] of Object.entries(outputs)) {
          if (name === "next_hidden") part.hidden = data as Float32Array;
          else merge(this.#statistics, name, data as Float32Array, name.startsWith("max.") ? Math.max : sum);
        }
      }
    } finally {
      await session.dispose();
    }
    this.#nextLayer = index + 1;
  }

  /** The largest magnitudes behind the last norm. */
  async #headMax(): Promise<Float32Array> {
    const { config, weights } = this.#model;
    while (this.#nextLayer < config.numLayers) await this.#advance();
    const scales = await weights.finalNorm.store.readFloats(weights.finalNorm.name);
    const largest = new Float32Array(config.hiddenSize);
    for (const { hidden } of this.#parts) {
      for (let start = 0; start < hidden.length; start += config.hiddenSize) {
        const row = hidden.subarray(start, start + config.hiddenSize);
        const meanSquare = row.reduce((total, value) => total + value * value, 0) / row.length;
        const rms = Math.sqrt(meanSquare + config.rmsNormEpsilon);
        for (const [i, scale] of scales.entries()) {
          largest[i] = Math.max(largest[i] as number, Math.abs(((row[i] as number) / rms) * scale));
        }
      }
    }
    return largest;
  }

  async #openLayer(index: number): Promise<GraphSession> {
    const { config, experts, weights } = this.#model;
    const layer = weights.layers[index];
    if (!layer) throw new RangeError(`Expected a layer below ${config.numLayers}, got ${index}`);
    const { statistic, threads } = this.#options;
    const graph = layerGraph(`layers.${index}`, layer, configOfLayer(config, index), experts, statistic);
    return GraphSession.load(await memoryGraph(graph), { threads });
  }

  #feeds({ sequence, hidden }: { sequence: CalibrationSequence; hidden: Float32Array }): Feeds {
    const { config, experts } = this.#model;
    const numTokens = sequence.tokenIds.length;
    const numExperts = experts.names.length;
    return {
      ...freshFeeds(configOfLayer(config, 0), [numTokens]),
      ...(numExperts > 1 ? dealToAllFeeds([sequence], numExperts) : {}),
      hidden: { data: hidden, dims: [numTokens, config.hiddenSize] },
    };
  }

  async #embed(): Promise<void> {
    const { embedding } = this.#model.weights;
    const parts: { sequence: CalibrationSequence; hidden: Float32Array }[] = [];
    for (const sequence of await this.#sequences()) {
      parts.push({ sequence, hidden: await embed(embedding, sequence.tokenIds) });
    }
    this.#parts = parts;
  }
}

async function embed({ store, name, shape }: TensorRef, tokenIds: readonly number[]): Promise<Float32Array> {
  const hiddenSize = shape[1] ?? 0;
  const hidden = new Float32Array(tokenIds.length * hiddenSize);
  for (const [index, id] of tokenIds.entries()) {
    hidden.set(await store.readFloats(name, { from: id, to: id + 1 }), index * hiddenSize);
  }
  return hidden;
}

function sum(a: number, b: number): number {
  return a + b;
}

function merge(
  into: Map<string, Float32Array>,
  name: string,
  values: Float32Array,
  combine: (a: number, b: number) => number,
): void {
  const known = into.get(name);
  if (!known) into.set(name, values);
  else for (let i = 0; i < values.length; i++) known[i] = combine(known[i] as number, values[i] as number);
}
