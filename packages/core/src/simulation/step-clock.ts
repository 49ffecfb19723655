// How long a step takes: its layers one after the other, and reads through one channel.

import { predictStepMs, type CostModel, type StepWork } from "../scheduling/cost-model.ts";
import type { ExpertCache } from "../expert-cache/expert-cache.ts";
import type { KnownUses, StepUses } from "../expert-cache/known-uses.ts";
import { unitBytes, type ExpertLayout, type ExpertUnit } from "../expert-cache/unit.ts";

export interface StepClockOptions {
  readonly cost: CostModel;
  /** Whether layers run while units are read. */
  readonly overlapsReads: boolean;
}

export class StepClock {
  readonly #cache: ExpertCache;
  readonly #layout: ExpertLayout;
  readonly #options: StepClockOptions;
  /** Reads under way, in the order in which they end. */
  readonly #reads: { readonly unit: ExpertUnit; readonly endMs: number }[] = [];
  #nowMs = 0;
  #stallMs = 0;

  constructor(cache: ExpertCache, layout: ExpertLayout, options: StepClockOptions) {
    this.#cache = cache;
    this.#layout = layout;
    this.#options = options;
  }

  get nowMs(): number {
    return this.#nowMs;
  }

  /** Of `nowMs`, when nothing ran because units were missing. */
  get stallMs(): number {
    return this.#stallMs;
  }

  /**
   * Computation takes the same time in each layer.
   * @param known - of the step; its `layer` is left out
   */
  runStep(
    running: StepUses,
    work: Omit<StepWork, "missingBytes">,
    known: Pick<KnownUses, "planned" | "laterSteps">,
  ): void {
    const layerMs = predictStepMs(this.#options.cost, { ...work, missingBytes: 0 }) / running.length;
    for (const [layer, experts] of running.entries()) {
      this.#awaitLayer({ ...known, layer, running });
      this.#nowMs += layerMs;
      this.#cache.ran(layer, experts);
    }
  }

  /** As an engine does: one plan for each layer, then only its own reads are waited for. */
  #awaitLayer(uses: KnownUses): void {
    const { evict, load } = this.#cache.enterLayer(uses);
    // The place of a read that is still under way is free when it is over.
    for (const unit of evict) this.#awaitReads(({ layer, expert }) => layer === unit.layer && expert === unit.expert);
    this.#begin(load);
    this.#awaitReads(({ layer }) => layer === uses.layer);
    this.#cache.allLoaded();
  }

  #begin(units: readonly ExpertUnit[]): void {
    const { cost, overlapsReads } = this.#options;
    for (const unit of units) {
      const startMs = Math.max(this.#nowMs, this.#reads.at(-1)?.endMs ?? 0);
      this.#reads.push({ unit, endMs: startMs + unitBytes(unit, this.#layout) * cost.loadMsPerByte });
    }
    if (!overlapsReads) this.#awaitReads(() => true);
  }

  #awaitReads(isWanted: (unit: ExpertUnit) => boolean): void {
    const endMs = this.#reads.findLast(({ unit }) => isWanted(unit))?.endMs ?? this.#nowMs;
    this.#stallMs += Math.max(0, endMs - this.#nowMs);
    this.#nowMs = Math.max(this.#nowMs, endMs);
    while (this.#reads[0] && this.#reads[0].endMs <= this.#nowMs) this.#reads.shift();
  }
}
