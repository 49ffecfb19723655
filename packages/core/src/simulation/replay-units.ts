import type { EvictionPolicy } from "../expert-cache/eviction-policy.ts";
import { chooseVictims } from "../expert-cache/choose-victims.ts";
import { unitIndex, type ExpertLayout, type ExpertUnit } from "../expert-cache/unit.ts";

/** What a replay came to: units wanted, those of them that were in memory, and bytes read for the others. */
export interface UnitReplay {
  readonly uses: number;
  readonly hits: number;
  readonly bytesRead: number;
}

/**
 * A cache on its own: one unit after the other is wanted, and is read when it is not there. The policy knows all that
 * comes. Pure.
 *
 * @param requests - the units, in the order in which they are wanted
 * @throws {RangeError} when one of them alone exceeds `budgetBytes`
 */
export function replayUnits(
  requests: readonly ExpertUnit[],
  layout: ExpertLayout,
  budgetBytes: number,
  policy: EvictionPolicy,
): UnitReplay {
  const indexes = requests.map((unit) => unitIndex(unit, layout));
  const following = nextRequests(indexes);
  const cached = new Map<number, CachedRequest>();
  const numUses = new Map<number, number>();
  let freeBytes = budgetBytes;
  let hits = 0;
  let bytesRead = 0;
  let numEvictions = 0;
  for (const [clock, index] of indexes.entries()) {
    const { layer, expert } = requests[clock] as ExpertUnit;
    const bytes = layout.layerBytes[layer] as number;
    if (bytes > budgetBytes) {
      throw new RangeError(
        `Expected \`budgetBytes\` to be at least ${bytes}, the size of a unit, got \`${budgetBytes}\``,
      );
    }
    if (cached.has(index)) hits++;
    else {
      if (bytes > freeBytes) {
        const victims =
          chooseVictims(candidatesAt(clock, cached, numUses), bytes - freeBytes, policy, numEvictions) ?? [];
        for (const victim of victims) {
          cached.delete(unitIndex(victim, layout));
          freeBytes += victim.bytes;
        }
        numEvictions += victims.length;
      }
      freeBytes -= bytes;
      bytesRead += bytes;
    }
    cached.set(index, { layer, expert, bytes, lastUse: clock, nextRequest: following[clock] as number });
    numUses.set(index, (numUses.get(index) ?? 0) + 1);
  }
  return { uses: requests.length, hits, bytesRead };
}

interface CachedRequest extends ExpertUnit {
  readonly bytes: number;
  readonly lastUse: number;
  readonly nextRequest: number;
}

function candidatesAt(
  clock: number,
  cached: ReadonlyMap<number, CachedRequest>,
  numUses: ReadonlyMap<number, number>,
): Parameters<EvictionPolicy>[0] {
  return Array.from(cached)
    .toSorted(([a], [b]) => a - b)
    .map(([index, { layer, expert, bytes, lastUse, nextRequest }]) => ({
      layer,
      expert,
      bytes,
      nextUse: nextRequest - clock,
      layersAway: 1,
      lastUse,
      idleSteps: clock - lastUse - 1,
      numUses: numUses.get(index) as number,
    }));
}

/** For each request, where the same unit is wanted again; `Infinity` when never. */
function nextRequests(indexes: readonly number[]): readonly number[] {
  const seen = new Map<number, number>();
  const following = indexes.map(() => Infinity);
  for (let at = indexes.length - 1; at >= 0; at--) {
    following[at] = seen.get(indexes[at] as number) ?? Infinity;
    seen.set(indexes[at] as number, at);
  }
  return following;
}
