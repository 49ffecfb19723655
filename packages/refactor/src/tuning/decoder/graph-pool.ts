// Sessions of a decoder's graphs: layers whose weights look alike, and all their experts, run through the same ones.

import type { ModelConfig } from "@readme-moe/model";
import { GraphSession, type Graph } from "@readme-moe/onnx";
import { attentionGradientGraph, attentionGraph, type BatchShape } from "../graphs/attention-graph.ts";
import { feedForwardGradientGraph, feedForwardGraph } from "../graphs/feed-forward-graph.ts";
import { keyOf, type WeightShapes } from "../graphs/graph-weights.ts";
import { crossEntropyGraph, distillationGraph } from "../graphs/loss-graph.ts";

export class GraphPool {
  readonly #sessions = new Map<string, Promise<GraphSession>>();
  readonly #config: ModelConfig;
  readonly #threads: number | undefined;
  readonly batch: BatchShape;

  /** @param batch - of all passes */
  constructor(config: ModelConfig, batch: BatchShape, threads: number | undefined) {
    this.#config = config;
    this.#threads = threads;
    this.batch = batch;
  }

  attention(layer: number, weights: WeightShapes, hasGradients: boolean): Promise<GraphSession> {
    const make = hasGradients ? attentionGradientGraph : attentionGraph;
    const key = `attention ${hasGradients} ${this.#config.slidingWindows[layer]} ${keyOf(weights)}`;
    return this.#session(key, () => make(this.#config, layer, this.batch, weights));
  }

  feedForward(weights: WeightShapes, hasGradients: boolean): Promise<GraphSession> {
    const make = hasGradients ? feedForwardGradientGraph : feedForwardGraph;
    return this.#session(`feed-forward ${hasGradients} ${keyOf(weights)}`, () => make(this.#config, weights));
  }

  distillation(labelShare: number): Promise<GraphSession> {
    return this.#session(`distillation ${labelShare}`, () => distillationGraph(this.#config, labelShare, true));
  }

  crossEntropy(): Promise<GraphSession> {
    return this.#session("cross-entropy", () => crossEntropyGraph(this.#config));
  }

  async dispose(): Promise<void> {
    for (const session of this.#sessions.values()) await (await session).dispose();
    this.#sessions.clear();
  }

  #session(key: string, make: () => Graph): Promise<GraphSession> {
    const known = this.#sessions.get(key);
    if (known) return known;
    const made = GraphSession.open(make(), { threads: this.#threads });
    this.#sessions.set(key, made);
    return made;
  }
}
