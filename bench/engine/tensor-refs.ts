import type { ModelWeights, TensorRef } from "@readme-moe/model";

/** Lists each tensor of a model once, under the name in its store; tied tensors are one. */
export function tensorRefs(weights: ModelWeights): readonly TensorRef[] {
  return Array.from(new Map(Array.from(refsIn(weights), (ref) => [ref.name, ref])).values());
}

function* refsIn(refs: unknown): Generator<TensorRef> {
  if (typeof refs !== "object" || refs === null) return;
  if ("store" in refs && "shape" in refs) yield refs as TensorRef;
  else for (const inner of Object.values(refs)) yield* refsIn(inner);
}
