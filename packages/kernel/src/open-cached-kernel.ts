import { open, type FileHandle } from "node:fs/promises";
import { isWholeData } from "@readme-moe/model";
import type { DecoderDescription } from "./description.ts";
import type { Kernel, KernelSizes } from "./kernel.ts";
import { openKernel, packIntoMemory, type KernelChoice } from "./open-kernel.ts";
import { layOut, packedPieces } from "./pack/packed-file.ts";
import { packedWeights, type PackOptions } from "./pack/packed-weights.ts";

/** Options of `openCachedKernel`. */
export interface CachedKernelOptions extends PackOptions, KernelChoice {
  /**
   * Packs weights into memory, without a file in the cache: for those that are only put into another order. With
   * `expertsFromByte`, units of experts are left out.
   */
  readonly inMemory?: boolean | undefined;
}

/** An open kernel, and the source of its weights. */
export interface CachedKernel {
  readonly kernel: Kernel;
  /** The packed file's path; `undefined` when the weights are in memory alone. */
  readonly path: string | undefined;
}

/** A packed file that a kernel has mapped. */
interface UsedFile {
  readonly path: string;
  readonly handle: FileHandle;
  readonly size: number;
  /** Time of its last change that is known to be none of its content. */
  mtimeMs: number;
}

/** Packed files that kernels of this thread have mapped, with all their weights. */
const used = new Set<UsedFile>();

/**
 * Opens a described model: packs its weights, or maps the cached file of them.
 *
 * @throws {ReadMeError} when a tensor cannot be read, or the kernel cannot be opened
 */
export async function openCachedKernel(
  description: DecoderDescription,
  sizes: KernelSizes,
  options: CachedKernelOptions,
): Promise<CachedKernel> {
  if (options.inMemory === true) {
    const layout = layOut(description, sizes.expertsFromByte === undefined);
    const onProgress = (doneBytes: number, ofBytes: number): void =>
      options.onProgress?.({ stage: "building", doneBytes, ofBytes });
    const choice = { ...options, threads: sizes.threads };
    const weights = await packIntoMemory(layout.numBytes, packedPieces(description, onProgress, layout), choice);
    return { kernel: openKernel(weights, sizes, options), path: undefined };
  }
  for (let mayRetry = true; ; mayRetry = false) {
    const weights = await packedWeights(description, options);
    options.onProgress?.({ stage: "loading", doneBytes: 0, ofBytes: 0 });
    const file = typeof weights === "string" ? await useFile(weights) : undefined;
    try {
      const kernel = openKernel(weights, sizes, options);
      // WebAssembly has copied the file; reads of streamed experts report what is missing.
      const isMapped = kernel.info.kind === "native" && sizes.expertsFromByte === undefined;
      if (!isMapped) await leaveFile(file);
      const path = typeof weights === "string" ? weights : undefined;
      return { kernel: file && isMapped ? usingFile(kernel, file) : kernel, path };
    } catch (error) {
      await leaveFile(file);
      // A cached file may be removed after it was checked and before it is mapped.
      if (error instanceof TypeError || typeof weights !== "string" || !mayRetry) throw error;
    }
  }
}

/**
 * Finds a packed file that was cut or overwritten since a kernel of this thread mapped it: its weights are others now,
 * and reading what was cut ends the process. Files that were removed or replaced live on.
 *
 * @returns its path, if there is one
 */
export async function changedPackedFile(): Promise<string | undefined> {
  for (const file of used) {
    const { size, mtimeMs } = await file.handle.stat().catch(() => file);
    if (size !== file.size) return file.path;
    if (mtimeMs !== file.mtimeMs && !(await isWholeData(file.path))) return file.path;
    file.mtimeMs = mtimeMs;
  }
  return undefined;
}

/** Opens a file before a kernel does. @returns nothing if it is gone, which the kernel says */
async function useFile(path: string): Promise<UsedFile | undefined> {
  const handle = await open(path).catch(() => undefined);
  if (!handle) return undefined;
  const { size, mtimeMs } = await handle.stat();
  const file = { path, handle, size, mtimeMs };
  used.add(file);
  return file;
}

async function leaveFile(file: UsedFile | undefined): Promise<void> {
  if (file && used.delete(file)) await file.handle.close();
}

/** Leaves the file when the kernel is closed. */
function usingFile(kernel: Kernel, file: UsedFile): Kernel {
  const close = kernel.close.bind(kernel);
  return Object.assign(kernel, {
    close: async () => {
      await close();
      await leaveFile(file);
    },
  });
}
