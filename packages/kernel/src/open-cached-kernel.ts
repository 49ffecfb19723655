import type { DecoderDescription } from "./description.ts";
import type { Kernel, KernelSizes } from "./kernel.ts";
import { openKernel, type KernelChoice } from "./open-kernel.ts";
import { packedWeights, type PackOptions } from "./pack/packed-weights.ts";

/** Options of `openCachedKernel`. */
export interface CachedKernelOptions extends PackOptions, KernelChoice {}

/** An open kernel, and the source of its weights. */
export interface CachedKernel {
  readonly kernel: Kernel;
  /** The packed file's path, or its bytes when the cache cannot be written. */
  readonly weights: string | Uint8Array;
}

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
  for (let mayRetry = true; ; mayRetry = false) {
    const weights = await packedWeights(description, options);
    options.onProgress?.({ stage: "loading", doneBytes: 0, ofBytes: 0 });
    try {
      return { kernel: openKernel(weights, sizes, options), weights };
    } catch (error) {
      // A cached file may be removed after it was checked and before it is mapped.
      if (error instanceof TypeError || typeof weights !== "string" || !mayRetry) throw error;
    }
  }
}
