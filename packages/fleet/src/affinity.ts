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

/** Tells whether a model's jobs differ by their experts. */
function isMixture({ experts, expertKind }: Shape): boolean {
  return expertKind === "ffn" && experts.length > 1;
}

/** Lists the affinities of a model's jobs. */
export function affinitiesOf(shape: Shape): readonly string[] {
  return isMixture(shape)
    ? Array.from({ length: Math.min(shape.experts.length, MAX_EXPERT_QUEUES) }, (_, expert) => expertKey(expert))
    : Array.from({ length: PREFIX_BUCKETS }, (_, bucket) => prefixKey(bucket));
}

/** A prompt whose affinity is asked for. */
interface PlacedPrompt {
  readonly tokenIds: ArrayLike<number>;
  /** Expert of each token. */
  readonly experts: ArrayLike<number>;
  /** Prompts of different salts have no cached beginning in common. */
  readonly cacheSalt?: string | undefined;
}

export function affinityOf({ tokenIds, experts, cacheSalt = "" }: PlacedPrompt, shape: Shape): string {
  const affinities = affinitiesOf(shape);
  const counts = countExperts(experts, shape);
  if (counts) return affinities[counts.indexOf(Math.max(...counts)) % affinities.length] ?? "";
  const beginning = Int32Array.from({ length: Math.min(tokenIds.length, PREFIX_TOKENS) }, (_, at) => tokenIds[at] ?? 0);
  const [byte = 0] = createHash("sha256").update(beginning).update(cacheSalt).digest();
  return affinities[byte % affinities.length] ?? "";
}

/** Counts a prompt's tokens by expert; nothing for a dense model. */
export function countExperts(experts: ArrayLike<number>, shape: Shape): readonly number[] | undefined {
  if (!isMixture(shape)) return undefined;
  const counts = shape.experts.map(() => 0);
  for (const expert of Array.from(experts)) counts[expert] = (counts[expert] ?? 0) + 1;
  return counts;
}

/** Returns the share of each expert in counts of tokens; nothing if there are none. */
export function sharesOf(counts: readonly number[] | undefined): readonly number[] | undefined {
  const sum = counts?.reduce((total, count) => total + count, 0) ?? 0;
  return sum > 0 ? counts?.map((count) => count / sum) : undefined;
}
