// Low-rank experts of a dense model that runs: their names, and their changes in the kernel.

import type { Kernel } from "@readme-moe/kernel";
import { type Model, openLowRankExpert } from "@readme-moe/model";
import type { UnitMemoryOptions } from "../streamed/unit-memory.ts";
import { type ChangeMemory, ResidentChanges, StreamedChanges } from "./change-memory.ts";
import { ExpertNames } from "./expert-names.ts";
import { cachedChange, type ChangePacking, freshChange } from "./packed-changes.ts";

/** An expert that was added. */
export interface AddedExpert {
  readonly index: number;
  /** Size in memory. */
  readonly numBytes: number;
}

export class LowRankExperts {
  readonly names: ExpertNames = new ExpertNames();
  readonly changes: ChangeMemory;
  readonly #model: Model;
  readonly #packing: ChangePacking;

  private constructor(model: Model, changes: ChangeMemory, packing: ChangePacking) {
    this.#model = model;
    this.changes = changes;
    this.#packing = packing;
  }

  /** Opens memory for experts, limited to `expertCacheBytes` if it is given. */
  static open(
    kernel: Kernel,
    model: Model,
    packing: ChangePacking,
    {
      expertCacheBytes: budgetBytes,
      ...options
    }: Omit<UnitMemoryOptions, "budgetBytes"> & { readonly expertCacheBytes?: number | undefined },
  ): LowRankExperts {
    const changes =
      budgetBytes === undefined
        ? new ResidentChanges(kernel)
        : new StreamedChanges(kernel, { ...options, budgetBytes });
    return new LowRankExperts(model, changes, packing);
  }

  /**
   * Adds an expert, in pieces between which steps run.
   *
   * @param path - folder of an adapter
   * @throws {RangeError} if the name is taken, there are too many experts, or `expertCacheBytes` is below its size
   * @throws {TypeError | ReadMeError} as `openLowRankExpert`; if a tensor cannot be read, or holds NaN
   */
  async add(name: string, path: string): Promise<AddedExpert> {
    const index = this.names.reserve(name);
    try {
      const expert = await openLowRankExpert(path, name, this.#model);
      try {
        const change = this.changes.units
          ? await cachedChange(expert, this.#packing)
          : freshChange(expert, this.#packing);
        await this.changes.add(index, change);
        this.names.setUsable(index, true);
        return { index, numBytes: change.numBytes };
      } finally {
        await expert.close();
      }
    } catch (error) {
      this.names.free(index);
      throw error;
    }
  }

  /** Removes an expert that no sequence uses any more. */
  remove(index: number): void {
    this.changes.remove(index);
    this.names.free(index);
  }
}
