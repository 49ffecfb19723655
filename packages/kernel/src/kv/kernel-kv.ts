// Pages of keys and values in a kernel's memory.

import type { Kernel, KernelPages } from "../kernel.ts";
import type { KeptTokens } from "./kv-memory.ts";
import { KV_PAGE_TOKENS, PagePool, type PagePoolOptions } from "./page-pool.ts";

/** Options of a `KernelKv`. */
export interface KernelKvOptions extends PagePoolOptions {
  /** Size of a head, which the kernel pads to a multiple of 16. */
  readonly headSize: number;
}

/** Pages of one kernel, and the accounting of their use. */
export class KernelKv extends PagePool {
  readonly pages: KernelPages;
  /** Size of a page in `readKept`, padding included, in bytes. */
  readonly pageBytes: number;
  readonly #kernel: Kernel;

  /**
   * @param headSize - of the model, which the kernel pads
   * @param isHalf - whether keys and values are stored in half precision
   * @throws {RangeError} when there is no memory for the pages
   */
  constructor(kernel: Kernel, { headSize, ...options }: KernelKvOptions, isHalf: boolean) {
    super(options);
    this.pageBytes = (options.bytesPerToken / headSize) * Math.ceil(headSize / 16) * 16 * KV_PAGE_TOKENS;
    this.#kernel = kernel;
    this.pages = kernel.openPages(this.numPages, isHalf);
  }

  /** Copies the pages of kept tokens, in the order of positions: `[pages, pageBytes]`. */
  readKept(kept: KeptTokens): Uint8Array {
    const pages = this.keptPages(kept);
    const bytes = new Uint8Array(pages.length * this.pageBytes);
    for (const [index, page] of pages.entries()) this.pages.read(page, this.#pageOf(bytes, index));
    return bytes;
  }

  /**
   * Keeps tokens that `readKept` has copied, in this memory or in another one of the same model and precision.
   *
   * @param from - first of their positions
   * @throws {RangeError} when they are no whole pages, or kept pages would exceed `prefixBytes`
   */
  writeKept(from: number, bytes: Uint8Array): KeptTokens {
    if (bytes.length % this.pageBytes !== 0) {
      throw new RangeError(`Expected whole pages of ${this.pageBytes} bytes, got ${bytes.length} bytes`);
    }
    const kept = this.keepFresh(from, bytes.length / this.pageBytes);
    for (const [index, page] of this.keptPages(kept).entries()) this.pages.write(page, this.#pageOf(bytes, index));
    return kept;
  }

  #pageOf(bytes: Uint8Array, index: number): Uint8Array {
    return bytes.subarray(index * this.pageBytes, (index + 1) * this.pageBytes);
  }

  override dispose(): void {
    this.pages.close();
  }

  /** Checks that these are pages of a kernel. */
  isOf(kernel: Kernel): boolean {
    return this.#kernel === kernel;
  }
}
