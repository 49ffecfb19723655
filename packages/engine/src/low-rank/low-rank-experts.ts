// Low-rank experts of a dense model that runs: their names, and their changes in the kernel.

import { ReadMeError, type ReadMeEvents } from "@readme-moe/core";
import type { Kernel } from "@readme-moe/kernel";
import { type Model, openLowRankExpert } from "@readme-moe/model";
import type { UnitMemoryOptions } from "../streamed/unit-memory.ts";
import { type ChangeMemory, ResidentChanges, StreamedChanges } from "./change-memory.ts";
import { ExpertNames, NO_EXPERT } from "./expert-names.ts";
import { cachedChange, changeKey, type ChangePacking, freshChange } from "./packed-changes.ts";

/** An expert that was added; payload of its event. */
export type AddedExpert = Parameters<ReadMeEvents["expert:added"]>[0];

export class LowRankExperts {
  readonly names: ExpertNames = new ExpertNames();
  /** Experts within a budget; `undefined` if all are in memory. */
  readonly streamed: StreamedChanges | undefined;
  readonly #memory: ChangeMemory;
  readonly #model: Model;
  readonly #packing: ChangePacking;
  /** Functions that compute the identity of each expert; expert 0 changes nothing. */
  readonly #identities = new Map<number, () => Promise<string>>([[0, async () => NO_EXPERT]]);

  private constructor(model: Model, packing: ChangePacking, memory: ResidentChanges | StreamedChanges) {
    this.#model = model;
    this.#packing = packing;
    this.#memory = memory;
    this.streamed = memory instanceof StreamedChanges ? memory : undefined;
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
    const memory =
      budgetBytes === undefined
        ? new ResidentChanges(kernel)
        : new StreamedChanges(kernel, { ...options, budgetBytes });
    return new LowRankExperts(model, packing, memory);
  }

  /**
   * Adds an expert, in pieces between which steps run.
   *
   * @param path - folder of an adapter
   * @throws {RangeError} if the name is taken, there are too many experts, or `expertCacheBytes` is below its size
   * @throws {TypeError | ReadMeError} as `openLowRankExpert`; if a tensor cannot be read, or holds NaN
   */
  async add(name: string, path: string): Promise<AddedExpert> {
    const startMs = performance.now();
    const index = this.names.reserve(name);
    try {
      const expert = await openLowRankExpert(path, name, this.#model);
      try {
        const change = this.streamed ? await cachedChange(expert, this.#packing) : freshChange(expert, this.#packing);
        await this.#memory.add(index, change);
        this.#identities.set(index, () => changeKey(expert, this.#packing));
        this.names.setUsable(index, true);
        return { name, index, bytes: change.numBytes, durationMs: performance.now() - startMs };
      } finally {
        await expert.close();
      }
    } catch (error) {
      this.names.free(index);
      throw error;
    }
  }

  /**
   * Returns a text that depends on everything that an expert computes; `undefined` when there is no such expert, or its
   * files have changed since it was added.
   */
  async identityOf(index: number): Promise<string | undefined> {
    return this.#identities
      .get(index)?.()
      .catch(() => undefined);
  }

  /** Removes an expert that no sequence uses any more. */
  remove(index: number): void {
    this.#memory.remove(index);
    this.#identities.delete(index);
    this.names.free(index);
  }
}

/** Makes the error of a model that cannot have low-rank experts. */
export function notDense({ path }: Pick<Model, "path">): ReadMeError {
  const message = `${path}: low-rank experts need a dense model, and this one has experts in its FFNs`;
  return new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
}
