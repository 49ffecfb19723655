// Units of experts in memory, of models whose experts are known before a step runs and are the same in all layers. Slow
// reads delay a layer and change nothing else.

import { inEveryLayer, type ExpertRun, type UpcomingUses, type UseForecast } from "@readme-moe/core";
import { UnitStore } from "./unit-store.ts";

export type { UnitMemoryOptions, UnitReader } from "./unit-store.ts";

/** Units of such experts. A call of the kernel is a run through all layers. */
export class UnitMemory extends UnitStore {
  #upcoming: UpcomingUses | undefined;
  /** Experts of the remaining runs of this step. */
  #nextRuns: readonly (readonly number[])[] = [];
  #runs: ExpertRun[] = [];
  #run: ExpertRun = { experts: [], planned: [] };

  /** Announces the uses that follow the step that begins. */
  prepare(upcoming: UpcomingUses): void {
    this.#upcoming = upcoming;
  }

  /** Announces the distinct experts of the runs of this step, in order. */
  expectRuns(runs: readonly (readonly number[])[]): void {
    this.#nextRuns = runs;
  }

  /** Returns the runs that have ended since the last call. */
  takeRuns(): readonly ExpertRun[] {
    return this.#runs.splice(0);
  }

  /**
   * Runs all layers at once, if all units that this run and the next one need are in memory.
   *
   * @param run - receives the weights of each expert, by layer
   * @returns whether it ran; otherwise nothing has changed
   */
  runWholeStep(experts: readonly number[], run: (layers: readonly ReadonlyMap<number, Uint8Array>[]) => void): boolean {
    const nextRuns = this.#nextRuns.slice(1);
    const planned = nextRuns[0] ?? this.#upcoming?.planned ?? [];
    const layers: ReadonlyMap<number, Uint8Array>[] = [];
    for (const layer of this.layout.layerBytes.keys()) {
      const units = this.weights(layer, experts);
      if (!units) return false;
      layers.push(units);
    }
    if (!this.cache.ranWholeStep(experts, planned)) return false;
    this.#nextRuns = nextRuns;
    run(layers);
    this.passed(this.#usesAt(this.layout.layerBytes.length, { experts, planned }));
    this.#ended({ experts, planned });
    return true;
  }

  /**
   * Decides what is evicted and read for this layer, and for later ones as far as there is room, and begins the reads.
   * @param experts - experts of the run, distinct, ascending, the same in all layers
   */
  enterLayer(layer: number, experts: readonly number[]): void {
    if (layer === 0) this.#nextRuns = this.#nextRuns.slice(1);
    const planned = this.#nextRuns[0] ?? this.#upcoming?.planned ?? [];
    this.#run = { experts, planned };
    this.enter(this.#usesAt(layer, this.#run));
  }

  /**
   * Runs the layer that was entered as soon as its units are in memory. Reads for later layers continue meanwhile.
   *
   * @param run - receives the weights of each of the layer's experts, which stay in memory until it settles
   * @throws the error of reading a unit of this layer, or of `run`
   */
  async runLayer(run: (units: ReadonlyMap<number, Uint8Array>) => Promise<void>): Promise<void> {
    const nextLayer = await this.run(run);
    if (nextLayer === this.layout.layerBytes.length) this.#ended(this.#run);
  }

  #ended(run: ExpertRun): void {
    // If nothing announces uses, nothing takes the runs either.
    if (this.#upcoming) this.#runs.push(run);
  }

  #usesAt(layer: number, { experts, planned }: ExpertRun): UseForecast {
    const { layout } = this;
    const laterSteps = this.#upcoming?.laterSteps;
    return { layer, running: inEveryLayer(layout, experts), planned: inEveryLayer(layout, planned), laterSteps };
  }
}
