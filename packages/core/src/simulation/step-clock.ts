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

  #awaitLayer(uses: KnownUses): void {
    for (;;) {
      this.#completeReads();
      const { load, isReady } = this.#cache.plan(uses);
      this.#begin(load);
      if (isReady) return;
      const [first] = this.#reads;
      // Without overlap they are complete as soon as they begin.
      if (!first && load.length > 0) continue;
      if (!first) throw new Error(`Layer ${uses.layer} lacks units, and none is being read`);
      this.#waitUntil(first.endMs);
    }
  }

  #begin(units: readonly ExpertUnit[]): void {
    const { cost, overlapsReads } = this.#options;
    for (const unit of units) {
      const startMs = Math.max(this.#nowMs, this.#reads.at(-1)?.endMs ?? 0);
      this.#reads.push({ unit, endMs: startMs + unitBytes(unit, this.#layout) * cost.loadMsPerByte });
    }
    if (overlapsReads) return;
    this.#waitUntil(this.#reads.at(-1)?.endMs ?? this.#nowMs);
    this.#completeReads();
  }

  #waitUntil(ms: number): void {
    this.#stallMs += Math.max(0, ms - this.#nowMs);
    this.#nowMs = Math.max(this.#nowMs, ms);
  }

  #completeReads(): void {
    while (this.#reads[0] && this.#reads[0].endMs <= this.#nowMs)
      this.#cache.loaded((this.#reads.shift() as { unit: ExpertUnit }).unit);
  }
}
