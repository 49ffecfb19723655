// The time of simulated steps: layers run one after the other, and reads use one channel.

import {
  type ExpertCache,
  unitBytes,
  type ExpertLayout,
  type ExpertUnit,
  type StepUses,
  type UseEstimates,
  type UseForecast,
  predictStepMs,
  type CostModel,
  type StepWork,
} from "@readme-moe/core";

interface StepClockOptions {
  readonly cost: CostModel;
  /** Whether layers run while units are read. */
  readonly overlapsReads: boolean;
}

/** State of the channel that reads use, see `UseEstimates`. */
export type ReadChannel = Required<Pick<UseEstimates, "layerReadBytes" | "pendingBytes">>;

export class StepClock {
  readonly #cache: ExpertCache;
  readonly #layout: ExpertLayout;
  readonly #options: StepClockOptions;
  /** Reads in progress, in the order in which they end. */
  readonly #reads: { readonly unit: ExpertUnit; readonly endMs: number }[] = [];
  #nowMs = 0;
  #stallMs = 0;
  #waits = 0;

  constructor(cache: ExpertCache, layout: ExpertLayout, options: StepClockOptions) {
    this.#cache = cache;
    this.#layout = layout;
    this.#options = options;
  }

  get nowMs(): number {
    return this.#nowMs;
  }

  /** Part of `nowMs` in which no layer ran because units were missing. */
  get stallMs(): number {
    return this.#stallMs;
  }

  /** Number of uses whose unit was not read yet when its layer could have run. */
  get waits(): number {
    return this.#waits;
  }

  /** Runs the layers of a step; each takes the same computation time. */
  runStep(
    running: StepUses,
    work: Omit<StepWork, "missingBytes">,
    upcoming: Pick<UseForecast, "planned" | "laterSteps">,
  ): void {
    this.runLayers(running.length, work, (layer) => ({ ...upcoming, layer, running }));
  }

  /**
   * Runs the layers of a step whose uses become known layer by layer.
   * @param usesAt - returns what is known when a layer has been routed
   */
  runLayers(
    numLayers: number,
    work: Omit<StepWork, "missingBytes">,
    usesAt: (layer: number, channel: ReadChannel) => UseForecast,
  ): void {
    const { cost } = this.#options;
    const layerMs = predictStepMs(cost, { ...work, missingBytes: 0 }) / numLayers;
    for (let layer = 0; layer < numLayers; layer++) {
      const pendingMs = Math.max(0, (this.#reads.at(-1)?.endMs ?? 0) - this.#nowMs);
      const layerReadBytes = layerMs / cost.loadMsPerByte;
      const uses = usesAt(layer, { layerReadBytes, pendingBytes: pendingMs / cost.loadMsPerByte });
      this.#awaitLayer(uses);
      this.#nowMs += layerMs;
      this.#cache.ran(layer, uses.running[layer] ?? []);
    }
  }

  /** Plans each layer once, as an engine does, and waits only for the units that the layer runs with. */
  #awaitLayer(uses: UseForecast): void {
    const { evict, load } = this.#cache.enterLayer(uses);
    // The memory of a read in progress is free when the read has ended.
    for (const unit of evict) this.#awaitReads(({ layer, expert }) => layer === unit.layer && expert === unit.expert);
    this.#begin(load);
    // Units of this layer that only the next step needs may still be read.
    const experts = new Set(uses.running[uses.layer]);
    const isOwn = ({ layer, expert }: ExpertUnit): boolean => layer === uses.layer && experts.has(expert);
    this.#waits += this.#reads.filter(({ unit, endMs }) => endMs > this.#nowMs && isOwn(unit)).length;
    this.#awaitReads(this.#options.overlapsReads ? isOwn : () => true);
  }

  #begin(units: readonly ExpertUnit[]): void {
    const { cost } = this.#options;
    for (const unit of units) {
      const startMs = Math.max(this.#nowMs, this.#reads.at(-1)?.endMs ?? 0);
      this.#reads.push({ unit, endMs: startMs + unitBytes(unit, this.#layout) * cost.loadMsPerByte });
    }
  }

  #awaitReads(isWanted: (unit: ExpertUnit) => boolean): void {
    const endMs = this.#reads.findLast(({ unit }) => isWanted(unit))?.endMs ?? this.#nowMs;
    this.#stallMs += Math.max(0, endMs - this.#nowMs);
    this.#nowMs = Math.max(this.#nowMs, endMs);
    while (this.#reads[0] && this.#reads[0].endMs <= this.#nowMs) this.#reads.shift();
  }
}
