// What is known of the future. Routes are decided before the model runs, so the rest of the running step is exact, and
// so are those tokens of the next step that exist already; what comes after is an estimate from the order of the queue.

import type { ExpertLayout, ExpertUnit } from "./unit.ts";
import { unitIndex } from "./unit.ts";

/** The distinct experts of one step by layer, `[numLayers][experts]`, each list in the order in which they run. */
export type StepUses = readonly (readonly number[])[];

/** Which units are needed when, as far as routes and queue tell. What reads and evictions are decided by. */
export interface KnownUses {
  /** The layer that runs now, or as soon as its units are there; `numLayers` between two steps. */
  readonly layer: number;
  /** The running step. Layers before `layer` are over. */
  readonly running: StepUses;
  /** Uses of the next step that are sure; absent where none are. */
  readonly planned?: StepUses | undefined;
  /**
   * Of each expert, in how many steps it is expected where nothing sooner is sure: 1 is the next step, `Infinity` is
   * never. Only eviction looks at it; nothing is read because of an estimate. `[numExperts]`
   */
  readonly laterSteps?: ArrayLike<number> | undefined;
}

/** A known use: in how many layers from now, 0 being the one that runs. */
export interface SureUse extends ExpertUnit {
  readonly slot: number;
}

/** All sure uses, nearest first. A unit that the running and the planned step need is there twice. */
export function sureUses({ layer, running, planned }: KnownUses): readonly SureUse[] {
  const uses: SureUse[] = [];
  for (let slot = 0; slot < 2 * running.length - layer; slot++) {
    const at = (layer + slot) % running.length;
    const step = layer + slot < running.length ? running : planned;
    for (const expert of step?.[at] ?? []) uses.push({ layer: at, expert, slot });
  }
  return uses;
}

/** When each unit is used next, by `unitIndex`. */
export interface NextUses {
  /** In layers from now; `Infinity` when nobody is known to need it. */
  readonly slots: Float64Array;
  /** 1 where the use is sure, 0 where it is an estimate or there is none. */
  readonly isSure: Uint8Array;
}

/**
 * Belady's knowledge of every unit, as far as it goes. Layers are used cyclically.
 * @param sure - the sure uses among `uses`
 */
export function nextUses({ layer, laterSteps }: KnownUses, layout: ExpertLayout, sure: readonly SureUse[]): NextUses {
  const numLayers = layout.layerBytes.length;
  const slots = new Float64Array(numLayers * layout.numExperts).fill(Infinity);
  const isSure = new Uint8Array(slots.length);
  for (const use of sure) {
    const index = unitIndex(use, layout);
    if (isSure[index]) continue;
    slots[index] = use.slot;
    isSure[index] = 1;
  }
  if (!laterSteps) return { slots, isSure };
  for (let index = 0; index < slots.length; index++) {
    if (isSure[index]) continue;
    const steps = laterSteps[index % layout.numExperts] ?? Infinity;
    slots[index] = steps * numLayers - layer + Math.floor(index / layout.numExperts);
  }
  return { slots, isSure };
}

/** In how many steps a use is that many layers ahead: 0 is the running step. */
export function stepsAhead(slot: number, { layer, running }: Pick<KnownUses, "layer" | "running">): number {
  return slot === Infinity ? Infinity : Math.floor((slot + layer) / running.length);
}
