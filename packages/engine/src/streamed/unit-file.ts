// Reads units of experts from the packed file of the kernel.

import { open, type FileHandle } from "node:fs/promises";
import { ReadMeError } from "@readme-moe/core";
import type { ExpertUnits } from "@readme-moe/kernel";
import type { UnitReader } from "./unit-memory.ts";

export class UnitFile implements UnitReader {
  readonly #path: string;
  readonly #handle: FileHandle;
  readonly #units: ExpertUnits;

  private constructor(path: string, handle: FileHandle, units: ExpertUnits) {
    this.#path = path;
    this.#handle = handle;
    this.#units = units;
  }

  /** Opens a file, which serves on when it is removed or replaced. */
  static async open(path: string, units: ExpertUnits): Promise<UnitFile> {
    return new UnitFile(path, await open(path), units);
  }

  get numExperts(): number {
    return this.#units.numExperts;
  }

  get numLayers(): number {
    return this.#units.layerBytes.length;
  }

  unitBytes(layer: number): number {
    return this.#units.layerBytes[layer] as number;
  }

  /**
   * Reads a unit to the beginning of `into`. A read that fails, or comes short, is tried once more.
   *
   * @throws {ReadMeError} `ERR_FILE_UNREADABLE`, naming the file, layer and expert
   */
  async read(layer: number, expert: number, into: Uint8Array): Promise<void> {
    const { start, bytes } = this.#units.rangeOf(layer, expert);
    for (let isLast = false; ; isLast = true) {
      try {
        const { bytesRead } = await this.#handle.read(into, 0, bytes, start);
        if (bytesRead === bytes) return;
        if (isLast) throw new Error(`${bytesRead} of ${bytes} bytes are there`);
      } catch (cause) {
        if (!isLast) continue;
        const reason = cause instanceof Error ? cause.message : String(cause);
        const message = `${this.#path}: layer ${layer} of expert ${expert} cannot be read: ${reason}`;
        throw new ReadMeError("ERR_FILE_UNREADABLE", message, { cause });
      }
    }
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}
