// Units in files: those of the packed file's experts, and loras.

import { open, type FileHandle } from "node:fs/promises";
import { messageOf, ReadMeError } from "@readme-moe/core";
import type { ExpertUnits, Kernel, StoredUnits } from "@readme-moe/kernel";
import type { UnitSource } from "./expert-store.ts";

/** Fills memory from a place of a file on. @throws {Error} if the file ends before */
export async function readAt(handle: FileHandle, into: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < into.length;) {
    const { bytesRead } = await handle.read(into, done, into.length - done, position + done);
    if (bytesRead === 0) throw new Error(`${done} of ${into.length} bytes are there`);
    done += bytesRead;
  }
}

/** Makes the error of a unit that cannot be read. */
export function unreadable(path: string, what: string, cause: unknown): ReadMeError {
  const reason = messageOf(cause);
  return new ReadMeError("ERR_FILE_UNREADABLE", `${path}: ${what} cannot be read: ${reason}`, { cause });
}

/** Units of the experts that were packed with a kernel's model. */
export class UnitFile implements UnitSource {
  readonly numExperts: number;
  readonly layerBytes: readonly number[];
  readonly newMemory: UnitSource["newMemory"];
  readonly #kernel: Pick<Kernel, "placeUnit">;
  readonly #path: string;
  readonly #readOnce: UnitSource["read"];
  readonly #handle: FileHandle | undefined;

  private constructor(
    kernel: Pick<Kernel, "placeUnit" | "newUnit">,
    { numExperts, layerBytes }: ExpertUnits,
    { path, read }: Pick<StoredUnits, "path" | "read">,
    handle?: FileHandle,
  ) {
    this.numExperts = numExperts;
    this.layerBytes = layerBytes;
    this.newMemory = kernel.newUnit?.bind(kernel);
    this.#kernel = kernel;
    this.#path = path;
    this.#readOnce = read;
    this.#handle = handle;
  }

  /**
   * Opens a packed file of the kernel, or takes the model's own file, which the model closes. Reads continue to work
   * after the file is removed or replaced.
   *
   * @param from - absent when there is no packed file
   * @throws {ReadMeError} `ERR_WRITE_FAILED` then
   */
  static async open(kernel: Kernel, units: ExpertUnits, from: string | StoredUnits | undefined): Promise<UnitFile> {
    if (from === undefined) {
      const message = "Streamed experts are read from the cache folder, which cannot be written";
      throw new ReadMeError("ERR_WRITE_FAILED", message);
    }
    if (typeof from !== "string") return new UnitFile(kernel, units, { path: from.path, read: from.read.bind(from) });
    const handle = await open(from);
    const read = async (layer: number, expert: number, into: Uint8Array): Promise<void> => {
      const { start, bytes } = units.rangeOf(layer, expert);
      await readAt(handle, into.subarray(0, bytes), start);
    };
    return new UnitFile(kernel, units, { path: from, read }, handle);
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
        if (isLast) throw unreadable(this.#path, `layer ${layer} of expert ${expert}`, cause);
      }
    }
  }

  place(layer: number, expert: number, unit: Uint8Array | undefined): void {
    this.#kernel.placeUnit(layer, expert, unit);
  }

  async close(): Promise<void> {
    await this.#handle?.close();
  }
}
