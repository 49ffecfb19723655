import type { Kernel, KernelPages } from "../kernel.ts";
import { PagePool, type PagePoolOptions } from "./page-pool.ts";

/** Pages of one kernel, and the accounting of their use. */
export class KernelKv extends PagePool {
  readonly pages: KernelPages;
  readonly #kernel: Kernel;

  /**
   * @param isHalf - whether keys and values are stored in half precision
   * @throws {RangeError} when there is no memory for the pages
   */
  constructor(kernel: Kernel, options: PagePoolOptions, isHalf: boolean) {
    super(options);
    this.#kernel = kernel;
    this.pages = kernel.openPages(this.numPages, isHalf);
  }

  override dispose(): void {
    this.pages.close();
  }

  /** Checks that these are pages of a kernel. */
  isOf(kernel: Kernel): boolean {
    return this.#kernel === kernel;
  }
}
