// Sessions of a decoder's graphs. Layers whose weights have the same shapes share them, and so do all of their experts.

import { layerConfig, type ModelConfig } from "@readme-moe/model";
import { GraphSession } from "../../graphs/session.ts";
import type { Graph } from "../../graphs/graph-builder.ts";
import { attentionGraph, feedForwardGraph, keyOf, type WeightShapes } from "../graphs/half-graphs.ts";
import { crossEntropyGraph, distillationGraph } from "../graphs/loss-graph.ts";

export class GraphPool {
  readonly config: ModelConfig;
  readonly #sessions = new Map<string, Promise<GraphSession>>();
  readonly #sequenceTokens: number;
  readonly #threads: number | undefined;

  /** @param sequenceTokens - length of all sequences */
  constructor(config: ModelConfig, sequenceTokens: number, threads: number | undefined) {
    this.config = config;
    this.#sequenceTokens = sequenceTokens;
    this.#threads = threads;
  }

  attention(layer: number, weights: WeightShapes, hasGradients: boolean): Promise<GraphSession> {
    const { config } = this;
    const setting = { layer: layerConfig(config, layer), sequenceTokens: this.#sequenceTokens };
    const key = `attention ${hasGradients} ${JSON.stringify(setting)} ${keyOf(weights)}`;
    return this.#session(key, () => attentionGraph({ config, weights, hasGradients }, setting));
  }

  feedForward(weights: WeightShapes, hasGradients: boolean): Promise<GraphSession> {
    const { config } = this;
    const key = `feed-forward ${hasGradients} ${keyOf(weights)}`;
    return this.#session(key, () => feedForwardGraph({ config, weights, hasGradients }));
  }

  distillation(labelShare: number): Promise<GraphSession> {
    return this.#session(`distillation ${labelShare}`, () => distillationGraph(this.config, labelShare));
  }

  crossEntropy(): Promise<GraphSession> {
    return this.#session("cross-entropy", () => crossEntropyGraph(this.config));
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
