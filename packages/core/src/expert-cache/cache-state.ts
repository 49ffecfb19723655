import { type ExpertLayout, unitBytes, type ExpertUnit } from "./unit.ts";

/** A unit that takes memory. */
export interface CachedUnit extends ExpertUnit {
  /** Its read was begun and is not complete: it takes its bytes already, and cannot be evicted. */
  readonly isLoading: boolean;
  /** Whether a layer has run with it since it was read; evicting it before would waste the read. */
  readonly wasUsed: boolean;
}

/** What the planner decides on; plain data. */
export interface ExpertCacheState {
  /** Limit on bytes of units in memory, reads in flight included. */
  readonly budgetBytes: number;
  readonly units: readonly CachedUnit[];
  /** Layers that have run so far. */
  readonly clock: number;
  /** Of every unit, in memory or not, by `unitIndex`: how many layers have run with it. */
  readonly numUses: ArrayLike<number>;
  /** Of every unit, by `unitIndex`: `clock` before the layer that last ran with it; -1 when none has. */
  readonly lastUses: ArrayLike<number>;
  /** So far; numbers the draws of a random policy. */
  readonly numEvictions: number;
}

/** Bytes of a state's units, reads in flight included. */
export function usedBytes({ units }: Pick<ExpertCacheState, "units">, layout: ExpertLayout): number {
  return units.reduce((sum, unit) => sum + unitBytes(unit, layout), 0);
}
