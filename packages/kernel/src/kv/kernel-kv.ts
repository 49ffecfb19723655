import type { Kernel, KernelPages } from "../kernel.ts";
import { PagePool, type PagePoolOptions } from "./page-pool.ts";

/** Pages of one kernel, and who uses which. */
export class KernelKv extends PagePool {
  readonly pages: KernelPages;
  readonly #kernel: Kernel;

  /** @param isHalf - whether keys and values are kept in half precision @throws {RangeError} when there is no memory for them */
  constructor(kernel: Kernel, options: PagePoolOptions, isHalf: boolean) {
    super(options);
    this.#kernel = kernel;
    this.pages = kernel.openPages(this.numPages, isHalf);
  }

  override dispose(): void {
    this.pages.close();
  }

  /** Whether these are pages of that kernel. */
  isOf(kernel: Kernel): boolean {
    return this.#kernel === kernel;
  }
}
