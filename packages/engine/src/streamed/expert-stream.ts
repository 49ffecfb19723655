// Steps with streamed experts: the kernel runs a layer while units of later layers are read.

import { open, type FileHandle } from "node:fs/promises";
import { ReadMeError, type Residency } from "@readme-moe/core";
import type { ExpertUnits, Kernel, KernelPages, StepResults, StoredUnits } from "@readme-moe/kernel";
import { streamedResidency, UnitMemory, type UnitMemoryOptions, type UnitReader } from "./unit-store.ts";
import { PlacedUnits } from "./unit-places.ts";

/** Reads units of experts from a file. */
export class UnitFile implements UnitReader {
  readonly #path: string;
  readonly #units: ExpertUnits;
  readonly #readOnce: UnitReader["read"];
  readonly #handle: FileHandle | undefined;

  private constructor(path: string, units: ExpertUnits, readOnce: UnitReader["read"], handle?: FileHandle) {
    this.#path = path;
    this.#units = units;
    this.#readOnce = readOnce;
    this.#handle = handle;
  }

  /**
   * Opens a packed file of the kernel, or takes the model's own file, which the model closes. Reads continue to work
   * after the file is removed or replaced.
   *
   * @param from - absent when there is no packed file
   * @throws {ReadMeError} `ERR_WRITE_FAILED` then
   */
  static async open(from: string | StoredUnits | undefined, units: ExpertUnits): Promise<UnitFile> {
    if (from === undefined) {
      const message = "Streamed experts are read from the cache folder, which cannot be written";
      throw new ReadMeError("ERR_WRITE_FAILED", message);
    }
    if (typeof from !== "string") return new UnitFile(from.path, units, from.read.bind(from));
    const handle = await open(from);
    const readOnce = async (layer: number, expert: number, into: Uint8Array): Promise<void> => {
      const { start, bytes } = units.rangeOf(layer, expert);
      const { bytesRead } = await handle.read(into, 0, bytes, start);
      if (bytesRead !== bytes) throw new Error(`${bytesRead} of ${bytes} bytes are there`);
    };
    return new UnitFile(from, units, readOnce, handle);
  }

  get numExperts(): number {
    return this.#units.numExperts;
  }

  get layerBytes(): readonly number[] {
    return this.#units.layerBytes;
  }

  /**
   * Reads a unit to the beginning of `into`. Tries once more if the read fails or is incomplete.
   * @throws {ReadMeError} `ERR_FILE_UNREADABLE`, naming the file, layer and expert
   */
  async read(layer: number, expert: number, into: Uint8Array): Promise<void> {
    for (let isLast = false; ; isLast = true) {
      try {
        return await this.#readOnce(layer, expert, into);
      } catch (cause) {
        if (!isLast) continue;
        const reason = cause instanceof Error ? cause.message : String(cause);
        const message = `${this.#path}: layer ${layer} of expert ${expert} cannot be read: ${reason}`;
        throw new ReadMeError("ERR_FILE_UNREADABLE", message, { cause });
      }
    }
  }

  async close(): Promise<void> {
    await this.#handle?.close();
  }
}

/** Streamed experts of one kernel, within a hard limit of bytes. */
export class ExpertStream {
  readonly memory: UnitMemory;
  readonly #file: UnitFile;
  readonly #kernel: Kernel;
  readonly #placed: PlacedUnits;

  /** @throws {RangeError} if the budget is too small for one layer of all experts */
  constructor(kernel: Kernel, file: UnitFile, options: UnitMemoryOptions) {
    this.#file = file;
    this.#kernel = kernel;
    this.#placed = new PlacedUnits(kernel);
    this.memory = new UnitMemory(file, {
      ...options,
      newMemory: kernel.newUnit?.bind(kernel),
      onReleased: ({ layer, expert }) => this.#placed.remove(layer, expert),
    });
  }

  get residency(): Residency {
    return streamedResidency(this.memory);
  }

  /** Runs one call of the kernel. @param experts - distinct experts of its tokens, ascending */
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
    for (const [expert, unit] of units) this.#placed.place(layer, expert, unit);
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}
