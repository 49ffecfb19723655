// Low-rank experts of one kernel: all of them in memory, or as many as a budget holds. A unit is a whole expert.

import type { Residency } from "@readme-moe/core";
import type { Kernel } from "@readme-moe/kernel";
import { UnitMemory, type UnitMemoryOptions, type UnitReader } from "../streamed/unit-memory.ts";
import { UnitPlaces } from "../streamed/unit-places.ts";
import { streamedResidency } from "../streamed/streamed-residency.ts";
import { MAX_LOW_RANK_EXPERTS } from "./expert-names.ts";
import type { PackedChange } from "./packed-changes.ts";

/** Memory of the experts of one kernel. */
export interface ChangeMemory {
  /** Makes an expert available. @param index - from 1 */
  add(index: number, change: PackedChange): Promise<void>;
  /** Removes an expert that no row of a later step has. */
  remove(index: number): void;
}

/** Slot of an expert's change in the kernel. */
function slotOf(expert: number): number {
  return expert - 1;
}

/** All experts in memory. */
export class ResidentChanges implements ChangeMemory {
  readonly #kernel: Kernel;
  // Its buffers begin on pages of the system, as the kernel needs them.
  readonly #places = new UnitPlaces(0, 0);
  readonly #memory = new Map<number, Uint8Array>();

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
  }

  async add(index: number, change: PackedChange): Promise<void> {
    const memory = this.#places.take(change.numBytes);
    try {
      await change.read(memory);
      this.#kernel.placeChange(slotOf(index), memory);
    } catch (error) {
      this.#places.release(memory);
      throw error;
    }
    this.#memory.set(index, memory);
  }

  remove(index: number): void {
    const memory = this.#memory.get(index);
    if (!memory) return;
    this.#kernel.placeChange(slotOf(index), undefined);
    this.#memory.delete(index);
    this.#places.release(memory);
  }
}

/** Reads experts by index. Expert 0 has no bytes. */
class ChangeReader implements UnitReader {
  readonly numExperts = MAX_LOW_RANK_EXPERTS + 1;
  readonly unitBytes = new Float64Array(this.numExperts);
  /** Bytes of the largest expert. The cache's layout shares this array, which changes with the experts. */
  readonly layerBytes: [number] = [1];
  readonly #changes = new Map<number, PackedChange>();

  /** Sets or removes an expert. */
  set(index: number, change: PackedChange | undefined): void {
    if (change) this.#changes.set(index, change);
    else this.#changes.delete(index);
    this.unitBytes[index] = change?.numBytes ?? 0;
    this.layerBytes[0] = Math.max(1, ...Array.from(this.#changes.values(), ({ numBytes }) => numBytes));
  }

  leastBudget(): { readonly bytes: number; readonly reason: string } {
    return { bytes: this.layerBytes[0], reason: "the size of the largest low-rank expert" };
  }

  async read(_layer: number, expert: number, into: Uint8Array): Promise<void> {
    await this.#changes.get(expert)?.read(into);
  }
}

/** Experts within a budget of bytes. Those that are not in memory are read when they are needed. */
export class StreamedChanges implements ChangeMemory {
  readonly units: UnitMemory;
  readonly residency: Residency;
  readonly #kernel: Kernel;
  readonly #reader = new ChangeReader();
  /** Memory of each expert that the kernel was given last. */
  readonly #placed = new Map<number, Uint8Array>();

  constructor(kernel: Kernel, options: UnitMemoryOptions) {
    this.#kernel = kernel;
    this.units = new UnitMemory(this.#reader, {
      ...options,
      onReleased: ({ expert }) => this.#unplace(expert),
    });
    this.residency = streamedResidency(this.units, withoutNone);
  }

  /** Whether these experts fit in memory at once. */
  fit(experts: ReadonlySet<number>): boolean {
    const { unitBytes } = this.#reader;
    const bytes = Array.from(experts).reduce((sum, expert) => sum + (unitBytes[expert] ?? 0), 0);
    return bytes <= this.units.cache.budgetBytes;
  }

  async add(index: number, change: PackedChange): Promise<void> {
    const { budgetBytes } = this.units.cache;
    if (change.numBytes > budgetBytes) {
      const expected = `at least ${change.numBytes} bytes, the size of this low-rank expert`;
      throw new RangeError(`Expected \`expertCacheBytes\` to be ${expected}, got \`${budgetBytes}\``);
    }
    this.#reader.set(index, change);
  }

  remove(index: number): void {
    this.units.forget(index);
    this.#reader.set(index, undefined);
  }

  /** Announces the experts of a step's calls, in order. */
  expectRuns(runs: readonly (readonly number[])[]): void {
    this.units.expectRuns(runs.map(withoutNone));
  }

  /** Calls `run` as soon as these experts are in memory. */
  async run(experts: readonly number[], run: () => void): Promise<void> {
    const own = withoutNone(experts);
    const isWhole = this.units.runWholeStep(own, ([layer]) => {
      this.#place(layer);
      run();
    });
    if (isWhole) return;
    this.units.enterLayer(0, own);
    await this.units.runLayer(async (layer) => {
      this.#place(layer);
      run();
    });
  }

  #place(experts: ReadonlyMap<number, Uint8Array> = new Map()): void {
    for (const [expert, memory] of experts) {
      if (this.#placed.get(expert) === memory) continue;
      this.#kernel.placeChange(slotOf(expert), memory);
      this.#placed.set(expert, memory);
    }
  }

  /** Removes an expert from the kernel, whose memory may hold another one next. */
  #unplace(expert: number): void {
    if (this.#placed.delete(expert)) this.#kernel.placeChange(slotOf(expert), undefined);
  }
}

/** Leaves out expert 0, the model without a change. */
function withoutNone(experts: readonly number[]): readonly number[] {
  return experts.filter((expert) => expert > 0);
}
