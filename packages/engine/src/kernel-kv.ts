import { PagePool, type Kernel, type KernelPages, type PagePoolOptions } from "@readme-moe/kernel";
import type { KvPrecision } from "@readme-moe/model";

/** Pages of one kernel, and who uses which. */
export class KernelKv extends PagePool {
  readonly pages: KernelPages;
  readonly #kernel: Kernel;

  constructor(kernel: Kernel, options: PagePoolOptions, precision: KvPrecision) {
    super(options);
    this.#kernel = kernel;
    this.pages = kernel.openPages(this.numPages, precision === "fp16");
  }

  override dispose(): void {
    this.pages.close();
  }

  /** Whether these are pages of that kernel. */
  isOf(kernel: Kernel): boolean {
    return this.#kernel === kernel;
  }
}
