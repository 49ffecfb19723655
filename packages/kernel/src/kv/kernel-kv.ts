// Pages of keys and values in a kernel's memory.

import type { Kernel, KernelPages } from "../kernel.ts";
import type { KeptTokens, KvMemoryOptions } from "./kv-memory.ts";
import { kvBytesPerToken, type KvPrecision, type KvShape } from "./kv-shape.ts";
import { KV_PAGE_TOKENS, PagePool } from "./page-pool.ts";

/** Options of a `KernelKv`. */
export interface KernelKvOptions extends KvMemoryOptions {
  /** Sizes of the kernel's model. */
  readonly shape: KvShape;
  readonly precision: KvPrecision;
}

/** Pages of one kernel, and the accounting of their use. */
export class KernelKv extends PagePool {
  readonly pages: KernelPages;
  /** Size of a page in `readKept`, padding included, in bytes. */
  readonly pageBytes: number;
  readonly #kernel: Kernel;

  /** @throws {RangeError} when there is no memory for the pages */
  constructor(kernel: Kernel, { shape, precision, ...options }: KernelKvOptions) {
    super({ ...options, bytesPerToken: kvBytesPerToken(shape, precision) });
    // The kernel pads heads to whole vectors.
    const padded = { ...shape, headSize: Math.ceil(shape.headSize / 16) * 16 };
    this.pageBytes = kvBytesPerToken(padded, precision) * KV_PAGE_TOKENS;
    this.#kernel = kernel;
    this.pages = kernel.openPages(this.numPages, precision);
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
