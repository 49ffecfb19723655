import type { Kernel, KernelPages } from "../kernel.ts";
import { PagePool, type PagePoolOptions } from "./page-pool.ts";

/** Pages of one kernel and their allocation. */
export class KernelKv extends PagePool {
  readonly pages: KernelPages;
  readonly #kernel: Kernel;

  /** @param isHalf - keeps keys and values in half precision @throws {RangeError} when there is not enough memory */
  constructor(kernel: Kernel, options: PagePoolOptions, isHalf: boolean) {
    super(options);
    this.#kernel = kernel;
    this.pages = kernel.openPages(this.numPages, isHalf);
  }

  override dispose(): void {
    this.pages.close();
  }

  /** Tells whether the pages belong to a kernel. */
  isOf(kernel: Kernel): boolean {
    return this.#kernel === kernel;
  }
}
