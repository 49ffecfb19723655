import type { FeedForwardRefs, Model } from "@readme-moe/model";

/** How many weights a model has, and how many of them a token uses. */
export interface ParameterCounts {
  readonly total: number;
  /** Everything that a token passes: backbone, shared rows and one expert. */
  readonly active: number;
  readonly backbone: number;
  /** Of one expert, all layers. */
  readonly per_expert: number;
  readonly router: number;
}

export function parameterCounts({ weights, router }: Pick<Model, "weights" | "router">): ParameterCounts {
  const { layers, embedding, head } = weights;
  const experts = layers.reduce((sum, layer) => sum + count(layer.experts), 0);
  const perExpert = layers.reduce((sum, layer) => sum + count(layer.experts[0] as FeedForwardRefs), 0);
  const backbone = count(weights) - experts - (head === embedding ? count(head) : 0);
  const routerCount = router ? count({ ...router, config: undefined }) : 0;
  return {
    total: backbone + experts + routerCount,
    active: backbone + perExpert + routerCount,
    backbone,
    per_expert: perExpert,
    router: routerCount,
  };
}

/** Elements of all tensors that a tree of references holds. */
function count(refs: unknown): number {
  if (typeof refs !== "object" || refs === null) return 0;
  if ("store" in refs && "shape" in refs) {
    return (refs.shape as readonly number[]).reduce((product, size) => product * size, 1);
  }
  return Object.values(refs).reduce((sum: number, inner) => sum + count(inner), 0);
}
