// When units will be used. With a pre-gating router the rest of the running step is exact, and so are the tokens of the
// next step that already exist; later uses are estimated from the order of the queue. In a mixture with a router in
// every layer only the running layer is exact, and the others have chances.

import { unitIndex, type ExpertLayout, type ExpertUnit } from "./cached-units.ts";

/** The distinct experts of one step by layer, `[numLayers][experts]`, each list in the order in which they run. */
export type StepUses = readonly (readonly number[])[];

/** Known and estimated uses of units; the basis of reads and evictions. */
export interface UseForecast {
  /** The layer that runs now, or as soon as its units are in memory; `numLayers` between two steps. */
  readonly layer: number;
  /** Uses of the running step. Layers before `layer` are done. */
  readonly running: StepUses;
  /** Certain uses of the next step. @default none */
  readonly planned?: StepUses | undefined;
  /**
   * Number of steps until an estimated use of each expert; 1 is the next step, `Infinity` is never. It counts
   * only if no certain use is known. Only evictions depend on it; nothing is read because of an estimate.
   * `[numExperts]`
   */
  readonly laterSteps?: ArrayLike<number> | undefined;
  /** Chances of units in a mixture with a router in every layer. Evictions and reads depend on them. @default none */
  readonly estimates?: UseEstimates | undefined;
}

/** Limits of the estimated uses that are read ahead. */
export interface ReadAheadOptions {
  /** Largest number of layers ahead for which units are read because of an estimate. 0 reads none. */
  readonly layersAhead: number;
  /** Least chance of a unit that is read because of an estimate, in [0, 1]. */
  readonly leastChance: number;
}

/** Reads likely units of the next layer. A read for a later one rarely gains what its wrong guesses cost. */
export const DEFAULT_READ_AHEAD: ReadAheadOptions = { layersAhead: 1, leastChance: 0.4 };

/** Estimated uses of a mixture's units, and what may be read because of them. Plain data. */
export interface UseEstimates extends ReadAheadOptions {
  /** Chance in [0, 1] that a layer's next run uses the unit, by `unitIndex`. Certain uses win. */
  readonly chances: ArrayLike<number>;
  /** Bytes that can be read while one layer runs. @default Infinity */
  readonly layerReadBytes?: number | undefined;
  /** Bytes of reads that are in progress. @default 0 */
  readonly pendingBytes?: number | undefined;
}

/** A certain use of a unit. */
export interface CertainUse extends ExpertUnit {
  /** Number of layers from now; 0 is the running layer. */
  readonly slot: number;
}

/** Lists all certain uses, nearest first. A unit that both the running and the next step need is listed twice. */
export function certainUses({ layer, running, planned }: UseForecast): readonly CertainUse[] {
  const uses: CertainUse[] = [];
  for (let slot = 0; slot < 2 * running.length - layer; slot++) {
    const at = (layer + slot) % running.length;
    const step = layer + slot < running.length ? running : planned;
    for (const expert of step?.[at] ?? []) uses.push({ layer: at, expert, slot });
  }
  return uses;
}

/** The next use of each unit, by `unitIndex`. */
export interface NextUses {
  /** Number of layers from now; `Infinity` if no known token needs the unit. */
  readonly slots: Float64Array;
  /** 1 if the use is certain, 0 if it is an estimate or there is none. */
  readonly isCertain: Uint8Array;
}

/**
 * Finds the next use of every unit, as far as it is known. Layers run in a cycle.
 * @param certain - the certain uses of the forecast
 */
export function nextUses(
  { layer, laterSteps, estimates }: UseForecast,
  layout: ExpertLayout,
  certain: readonly CertainUse[],
): NextUses {
  const numLayers = layout.layerBytes.length;
  const slots = new Float64Array(numLayers * layout.numExperts).fill(Infinity);
  const isCertain = new Uint8Array(slots.length);
  for (const use of certain) {
    const index = unitIndex(use, layout);
    if (isCertain[index]) continue;
    slots[index] = use.slot;
    isCertain[index] = 1;
  }
  if (estimates) {
    for (let index = 0; index < slots.length; index++) {
      if (!isCertain[index]) slots[index] = expectedSlot(index, layer, estimates.chances, layout);
    }
    return { slots, isCertain };
  }
  if (!laterSteps) return { slots, isCertain };
  for (let index = 0; index < slots.length; index++) {
    if (isCertain[index]) continue;
    const steps = laterSteps[index % layout.numExperts] ?? Infinity;
    slots[index] = steps * numLayers - layer + Math.floor(index / layout.numExperts);
  }
  return { slots, isCertain };
}

/**
 * Computes the expected next use of a unit, in layers from now. Its layer runs once in each step, and each run uses the
 * unit with the same chance, so the number of runs until then is geometric.
 *
 * @returns `Infinity` without a chance
 */
function expectedSlot(index: number, layer: number, chances: ArrayLike<number>, layout: ExpertLayout): number {
  const numLayers = layout.layerBytes.length;
  const chance = chances[index] ?? 0;
  if (!(chance > 0)) return Infinity;
  return (
    layersUntil(Math.floor(index / layout.numExperts), layer, numLayers) + numLayers * (1 / Math.min(1, chance) - 1)
  );
}

/**
 * Counts the layers from the running one to the next run of another, from 1 up. The running layer itself is a step
 * away, and between two steps the last layer counts as running.
 */
function layersUntil(at: number, layer: number, numLayers: number): number {
  const running = Math.min(layer, numLayers - 1);
  return ((at - running + 2 * numLayers - 1) % numLayers) + 1;
}

/** A unit that may be read because of an estimate. */
export interface EstimatedUse extends ExpertUnit {
  readonly chance: number;
  /** Number of layers until the unit's layer runs, from 1 up. */
  readonly away: number;
  /** Expected next use, in layers from now. */
  readonly slot: number;
}

/**
 * Lists the units whose chance is large enough for a read, the soonest expected first; none without estimates.
 * @param next - next uses of the same forecast
 */
export function estimatedUses(
  { layer, estimates }: UseForecast,
  { slots, isCertain }: NextUses,
  { numExperts, layerBytes }: ExpertLayout,
): readonly EstimatedUse[] {
  if (!estimates) return [];
  const { chances, layersAhead, leastChance } = estimates;
  const numLayers = layerBytes.length;
  const uses: EstimatedUse[] = [];
  const running = Math.min(layer, numLayers - 1);
  for (let away = 1; away <= Math.min(layersAhead, numLayers); away++) {
    const at = (running + away) % numLayers;
    for (let expert = 0; expert < numExperts; expert++) {
      const index = at * numExperts + expert;
      const chance = chances[index] ?? 0;
      if (isCertain[index] || chance <= 0 || chance < leastChance) continue;
      uses.push({ layer: at, expert, chance, away, slot: slots[index] ?? Infinity });
    }
  }
  return uses.sort((a, b) => a.slot - b.slot || a.away - b.away || a.expert - b.expert);
}

/** Converts a number of layers from now to a number of steps; 0 is the running step. */
export function stepsAhead(slot: number, { layer, running }: Pick<UseForecast, "layer" | "running">): number {
  return slot === Infinity ? Infinity : Math.floor((slot + layer) / running.length);
}
