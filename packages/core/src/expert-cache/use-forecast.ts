// When units will be used. Routes are decided before the model runs, so the rest of the running step is exact, and so
// are the tokens of the next step that already exist. Later uses are estimated from the order of the queue.

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
  { layer, laterSteps }: UseForecast,
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
  if (!laterSteps) return { slots, isCertain };
  for (let index = 0; index < slots.length; index++) {
    if (isCertain[index]) continue;
    const steps = laterSteps[index % layout.numExperts] ?? Infinity;
    slots[index] = steps * numLayers - layer + Math.floor(index / layout.numExperts);
  }
  return { slots, isCertain };
}

/** Converts a number of layers from now to a number of steps; 0 is the running step. */
export function stepsAhead(slot: number, { layer, running }: Pick<UseForecast, "layer" | "running">): number {
  return slot === Infinity ? Infinity : Math.floor((slot + layer) / running.length);
}
