// Properties that follow from the kind of a model.

import type { Model } from "./model.ts";

/**
 * Tells whether a model is a checkpoint as its authors published it. All its tokens have the same
 * expert, and low-rank experts can be used over it.
 */
export function isPublished({ kind }: Pick<Model, "kind">): boolean {
  return kind === "dense" || kind === "mixture" || kind === "pooling";
}

/** Describes a model that is not dense, for messages: "a mixture of 8 experts in each layer (mixtral)". */
export function describeMixture({ kind, config, experts }: Pick<Model, "kind" | "config" | "experts">): string {
  const { mixture, modelType, pooling } = config;
  if (pooling) return `a model that gives ${pooling.kind === "score" ? "scores" : "embeddings"} (${modelType})`;
  if (mixture) return `a mixture of ${mixture.numExperts} experts in each layer (${modelType})`;
  return `a mixture of ${experts.names.length} experts (${kind})`;
}
