import type { DecoderDescription } from "./description.ts";
import type { Kernel, KernelSizes } from "./kernel.ts";
import { openKernel, type KernelChoice } from "./open-kernel.ts";
import { packedWeights, type PackOptions } from "./pack/packed-weights.ts";

/** Options of `openCachedKernel`. */
export interface CachedKernelOptions extends PackOptions, KernelChoice {}

/** Open kernel and its weights. */
export interface CachedKernel {
  readonly kernel: Kernel;
  /** Path of the packed file, or its bytes if the cache cannot be written. */
  readonly weights: string | Uint8Array;
}

/**
 * Opens a described model: packs its weights, or maps the cached file.
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
      // A cached file may be removed between its check and its mapping.
      if (error instanceof TypeError || typeof weights !== "string" || !mayRetry) throw error;
    }
  }
}
