// Steps whose experts come and go: the kernel runs a layer while units of later ones are read.

import type { Residency } from "@readme-moe/core";
import type { ExpertUnits, Kernel, KernelPages, StepResults } from "@readme-moe/kernel";
import { UnitFile } from "./unit-file.ts";
import { UnitMemory, type UnitMemoryOptions } from "./unit-memory.ts";

/** Experts of one kernel within a hard limit of bytes. */
export class ExpertStream {
  readonly memory: UnitMemory;
  readonly #file: UnitFile;
  readonly #kernel: Kernel;
  /** What the kernel was last given of each unit, by layer and expert. */
  readonly #placed: (Uint8Array | undefined)[] = [];

  private constructor(memory: UnitMemory, file: UnitFile, kernel: Kernel) {
    this.memory = memory;
    this.#file = file;
    this.#kernel = kernel;
  }

  /** @throws {RangeError} when the budget is too small for one layer of all experts */
  static async open(
    kernel: Kernel,
    path: string,
    units: ExpertUnits,
    options: UnitMemoryOptions,
  ): Promise<ExpertStream> {
    const file = await UnitFile.open(path, units);
    try {
      const newMemory = kernel.newUnit?.bind(kernel);
      return new ExpertStream(new UnitMemory(file, { ...options, newMemory }), file, kernel);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  get residency(): Residency {
    const { memory } = this;
    const { numExperts } = memory.layout;
    return {
      get missingBytes() {
        return memory.cache.missingBytes();
      },
      streamed: {
        numExperts,
        get stats() {
          return memory.stats;
        },
        get awaitedExperts() {
          return memory.cache.awaitedExperts();
        },
        prepare: (upcoming) => memory.prepare(upcoming),
        rehearse: (work) => memory.rehearse(work),
        takeRuns: () => memory.takeRuns(),
        setBudget: (bytes) => memory.setBudget(bytes),
      },
    };
  }

  /** Runs one step. @param experts - all that its rows have, distinct, ascending */
  async step(pages: KernelPages, request: Int32Array, results: StepResults, experts: readonly number[]): Promise<void> {
    const kernel = this.#kernel;
    const isWhole = this.memory.runWholeStep(experts, (layers) => {
      for (const [layer, units] of layers.entries()) this.#place(layer, units);
      kernel.step(pages, request, results);
    });
    if (isWhole) return;
    kernel.beginStep(pages, request, results);
    for (const layer of this.memory.layout.layerBytes.keys()) {
      this.memory.enterLayer(layer, experts);
      await this.memory.runLayer(async (units) => {
        this.#place(layer, units);
        kernel.runLayers(layer, layer + 1);
      });
    }
    kernel.endStep();
  }

  #place(layer: number, units: ReadonlyMap<number, Uint8Array>): void {
    for (const [expert, unit] of units) {
      const index = layer * this.memory.layout.numExperts + expert;
      if (this.#placed[index] === unit) continue;
      this.#kernel.placeUnit(layer, expert, unit);
      this.#placed[index] = unit;
    }
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}
