// Units of the expert cache. A unit is one layer of one expert; it is read and evicted as a whole.

/** One layer of one expert. */
export interface ExpertUnit {
  /** Layer in `[0, numLayers)`. */
  readonly layer: number;
  /** Expert in `[0, numExperts)`. */
  readonly expert: number;
}

/** The units of a model and their sizes. */
export interface ExpertLayout {
  readonly numExperts: number;
  /** Bytes of one expert in each layer, `[numLayers]`. */
  readonly layerBytes: readonly number[];
  /** Bytes of each unit, by `unitIndex`, where experts have different sizes. @default `layerBytes` of its layer */
  readonly unitBytes?: ArrayLike<number> | undefined;
}

/** Numbers units layer by layer, and within a layer expert by expert. */
export function unitIndex({ layer, expert }: ExpertUnit, { numExperts }: Pick<ExpertLayout, "numExperts">): number {
  return layer * numExperts + expert;
}

/** Returns the bytes of a unit. */
export function unitBytes(unit: ExpertUnit, layout: ExpertLayout): number {
  return layout.unitBytes?.[unitIndex(unit, layout)] ?? layout.layerBytes[unit.layer] ?? 0;
}

/** Sums the bytes of one expert over all layers. @param expert - any where experts have the same size */
export function expertBytes(layout: ExpertLayout, expert = 0): number {
  return layout.layerBytes.reduce((sum, _, layer) => sum + unitBytes({ layer, expert }, layout), 0);
}

/** Repeats a list of experts for every layer of a step. */
export function inEveryLayer({ layerBytes }: ExpertLayout, experts: readonly number[]): readonly (readonly number[])[] {
  return layerBytes.map(() => experts);
}

/** A unit that occupies memory, or whose read has begun. */
export interface CachedUnit extends ExpertUnit {
  /** Whether a layer has run with it since it was read; evicting it before that wastes the read. */
  readonly wasUsed: boolean;
  /** Whether it was read because of an estimate. @default false */
  readonly isEstimated?: boolean | undefined;
}

/** State of the expert cache that decisions depend on; plain data. */
export interface ExpertCacheState {
  /** Limit of the bytes of units in memory, reads in progress included. */
  readonly budgetBytes: number;
  readonly units: readonly CachedUnit[];
  /** Number of layers that have run so far. */
  readonly numLayersRun: number;
  /** Number of layers that have run with each unit, by `unitIndex`. It survives eviction. */
  readonly numUses: ArrayLike<number>;
  /**
   * Time of each unit's last use, by `unitIndex`: the number of layers that had run before; -1 if never used. It
   * survives eviction.
   */
  readonly lastUses: ArrayLike<number>;
  /** Number of evictions so far; numbers the draws of a random policy. */
  readonly numEvictions: number;
}

/** Sums the bytes of a state's units, reads in progress included. */
export function usedBytes({ units }: Pick<ExpertCacheState, "units">, layout: ExpertLayout): number {
  return units.reduce((sum, unit) => sum + unitBytes(unit, layout), 0);
}
