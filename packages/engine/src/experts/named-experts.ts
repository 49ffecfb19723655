// Steps whose rows name their experts: Read-ME's experts and loras. Where a unit is missing, the kernel runs a
// layer while units of later layers are read.

import {
  type ExpertRun,
  inEveryLayer,
  type Residency,
  unitBytes,
  type UpcomingUses,
  type UseForecast,
} from "@readme-moe/core";
import type { Kernel, KernelPages, StepResults } from "@readme-moe/kernel";
import { ExpertStore, type ExpertStoreOptions, type UnitSource } from "./expert-store.ts";

/** Part of a kernel that runs steps. */
export type StepKernel = Pick<Kernel, "step" | "beginStep" | "runLayers" | "endStep">;

export class NamedExperts {
  readonly store: ExpertStore;
  /** Whether these experts fit in memory at once; `undefined` if any do, layer by layer. */
  readonly fit: ((experts: ReadonlySet<number>) => boolean) | undefined;
  readonly #kernel: StepKernel;
  #upcoming: UpcomingUses | undefined;
  /** Experts of the calls of this step that have not begun. */
  #nextCalls: readonly (readonly number[])[] = [];
  #runs: ExpertRun[] = [];

  /** @throws {RangeError} if the budget is below the source's least one */
  constructor(kernel: StepKernel, source: UnitSource, options: ExpertStoreOptions) {
    this.#kernel = kernel;
    this.store = new ExpertStore(source, options);
    const bytesOf = (expert: number): number => unitBytes({ layer: 0, expert }, this.store.layout);
    this.fit =
      source.unitBytes &&
      ((experts) =>
        Array.from(experts).reduce((sum, expert) => sum + bytesOf(expert), 0) <= this.store.cache.budgetBytes);
  }

  /** Announces the distinct experts of the calls of a step, in order. */
  expectCalls(calls: readonly (readonly number[])[]): void {
    this.#nextCalls = calls.map((experts) => this.#withUnits(experts));
  }

  /** Runs one call of the kernel. @param experts - distinct experts of its rows, ascending */
  async step(pages: KernelPages, request: Int32Array, results: StepResults, experts: readonly number[]): Promise<void> {
    const { store } = this;
    const kernel = this.#kernel;
    const own = this.#withUnits(experts);
    const planned = this.#nextCalls[1] ?? this.#upcoming?.planned ?? [];
    this.#nextCalls = this.#nextCalls.slice(1);
    const run = { experts: own, planned };
    const { length: numLayers } = store.layout.layerBytes;
    if (store.has(own) && store.cache.ranWholeStep(own, planned)) {
      kernel.step(pages, request, results);
      store.passed(this.#usesAt(numLayers, run));
    } else if (numLayers === 1) {
      store.enter(this.#usesAt(0, run));
      await store.run(() => kernel.step(pages, request, results));
    } else {
      kernel.beginStep(pages, request, results);
      for (let layer = 0; layer < numLayers; layer++) {
        store.enter(this.#usesAt(layer, run));
        await store.run(() => kernel.runLayers(layer, layer + 1));
      }
      kernel.endStep();
    }
    // If nothing announces uses, nothing takes the runs either.
    if (this.#upcoming) this.#runs.push(run);
  }

  /** Reads an expert, and resolves when the kernel has it. @throws the error of reading it */
  async load(expert: number): Promise<void> {
    for (const layer of this.store.layout.layerBytes.keys()) {
      this.store.enter(this.#usesAt(layer, { experts: [expert], planned: [] }));
      await this.store.run(() => undefined);
    }
  }

  /** The residency as the planner sees it. */
  get residency(): Residency {
    const { store } = this;
    return {
      get missingBytes() {
        return store.cache.missingBytes();
      },
      streamed: {
        numExperts: store.layout.numExperts,
        get stats() {
          return store.stats;
        },
        get prefetchedExperts() {
          return store.cache.prefetchedExperts();
        },
        prepare: (upcoming) => {
          this.#upcoming = { ...upcoming, planned: this.#withUnits(upcoming.planned) };
        },
        rehearse: (work) => store.rehearse(work),
        takeRuns: () => this.#runs.splice(0),
        setBudget: (bytes) => store.setBudget(bytes),
      },
    };
  }

  /** Leaves out experts without weights of their own: the model without a lora. */
  #withUnits(experts: readonly number[]): readonly number[] {
    return experts.filter((expert) => unitBytes({ layer: 0, expert }, this.store.layout) > 0);
  }

  #usesAt(layer: number, { experts, planned }: ExpertRun): UseForecast {
    const { layout } = this.store;
    const laterSteps = this.#upcoming?.laterSteps;
    return { layer, running: inEveryLayer(layout, experts), planned: inEveryLayer(layout, planned), laterSteps };
  }
}
