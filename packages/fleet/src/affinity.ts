// Keys of jobs that are cheaper together: those with one main expert, or of a dense model those that begin alike.

import { createHash } from "node:crypto";
import { expertKey, prefixKey, type EngineInfo } from "@readme-moe/core";

/** Number of queues of a model without experts. */
const PREFIX_BUCKETS = 8;

/** Tokens of a prompt by which its bucket is chosen: system prompts are longer, greetings are shorter. */
const PREFIX_TOKENS = 32;

/** More experts share queues. */
const MAX_EXPERT_QUEUES = 64;

type Shape = Pick<EngineInfo, "experts" | "expertKind">;

/** Lists the affinities of a model's jobs. */
export function affinitiesOf({ experts, expertKind }: Shape): readonly string[] {
  return expertKind === "ffn" && experts.length > 1
    ? Array.from({ length: Math.min(experts.length, MAX_EXPERT_QUEUES) }, (_, expert) => expertKey(expert))
    : Array.from({ length: PREFIX_BUCKETS }, (_, bucket) => prefixKey(bucket));
}

/** Finds the affinity of a prompt by its tokens and the expert of each. */
export function affinityOf(
  { tokenIds, experts }: { readonly tokenIds: ArrayLike<number>; readonly experts: ArrayLike<number> },
  shape: Shape,
): string {
  const affinities = affinitiesOf(shape);
  if (shape.expertKind === "ffn" && shape.experts.length > 1) {
    return affinities[mainExpert(experts) % affinities.length] ?? "";
  }
  const beginning = Int32Array.from({ length: Math.min(tokenIds.length, PREFIX_TOKENS) }, (_, at) => tokenIds[at] ?? 0);
  const [byte = 0] = createHash("sha256").update(beginning).digest();
  return affinities[byte % affinities.length] ?? "";
}

/** Finds the expert with most tokens; the lower one of two with as many. */
function mainExpert(experts: ArrayLike<number>): number {
  const counts = new Map<number, number>();
  for (const expert of Array.from(experts)) counts.set(expert, (counts.get(expert) ?? 0) + 1);
  const [main] = [...counts].toSorted(([a, countA], [b, countB]) => countB - countA || a - b);
  return main?.[0] ?? 0;
}
