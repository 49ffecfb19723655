import type { KvPool, KvRange } from "../kv/kv-pool.ts";
import type { GraphTensor } from "./session.ts";

/** A range of slots as `KvPool.range` gives it. */
type PastRange = Pick<KvRange, "start" | "end" | "dims">;

type PastFeeds = Readonly<Record<string, GraphTensor>>;

interface Past {
  readonly range: PastRange;
  readonly feeds: PastFeeds;
}

/** Of each pool and group, the last one. */
const known = new WeakMap<KvPool, Map<string, Past>>();

/**
 * `<group>.past_keys.<layer>` and `<group>.past_values.<layer>` of all layers. The same tensors as at the last call as long as
 * the range is the same: it nearly always is, and making hundreds of tensors took a twentieth of a small model's step.
 */
export function pastFeeds(group: string, pool: KvPool, range: PastRange): PastFeeds {
  const ofPool = known.get(pool) ?? new Map<string, Past>();
  known.set(pool, ofPool);
  const last = ofPool.get(group);
  if (last && isSame(last.range, range)) return last.feeds;
  const feeds: Record<string, GraphTensor> = {};
  for (let layer = 0; layer < pool.shape.numLayers; layer++) {
    const { keys, values } = pool.view(range, layer);
    feeds[`${group}.past_keys.${layer}`] = { data: keys, dims: range.dims, isLasting: true };
    feeds[`${group}.past_values.${layer}`] = { data: values, dims: range.dims, isLasting: true };
  }
  ofPool.set(group, { range, feeds });
  return feeds;
}

function isSame(a: PastRange, b: PastRange): boolean {
  return a.start === b.start && a.end === b.end && a.dims.every((size, axis) => size === b.dims[axis]);
}
