// Pages of keys and values, and states, in a kernel's memory.

import type { Kernel, KernelPages } from "../kernel.ts";
import {
  type KeptState,
  type KeptTokens,
  kvBytesPerToken,
  type KvMemoryOptions,
  type KvPrecision,
  type KvShape,
  type KvSlot,
  paddedBytesPerToken,
  stateBytes,
} from "./kv-shape.ts";
import { STATES_OF_SLOT } from "./state-pool.ts";
import { KV_PAGE_TOKENS, PagePool, type StateSizes } from "./page-pool.ts";

/** Options of a `KernelKv`. */
export interface KernelKvOptions extends KvMemoryOptions {
  /** Sizes of the kernel's model. */
  readonly shape: KvShape;
  readonly precision: KvPrecision;
}

function statesOf(bytes: number, options: KvMemoryOptions): StateSizes | undefined {
  const { maxSequences = 16, drafts = 32, prefixBytes = 0 } = options;
  if (bytes === 0) return undefined;
  // Half of the memory for prefixes.
  return {
    stateBytes: bytes,
    capacity: STATES_OF_SLOT * maxSequences + drafts,
    numKept: Math.floor(prefixBytes / 2 / bytes),
  };
}

/** Pages of one kernel, and the accounting of their use. */
export class KernelKv extends PagePool {
  readonly pages: KernelPages;
  /** Size of a page in `readKept`, padding included, in bytes. */
  readonly pageBytes: number;
  readonly #kernel: Kernel;
  #copied: Uint8Array | undefined;

  /** @throws {RangeError} when there is no memory for the pages */
  constructor(kernel: Kernel, { shape, precision, ...options }: KernelKvOptions) {
    const bytesPerToken = kvBytesPerToken(shape, precision);
    super({ ...options, bytesPerToken, states: statesOf(stateBytes(shape), options) });
    this.pageBytes = paddedBytesPerToken(shape, precision) * KV_PAGE_TOKENS;
    this.#kernel = kernel;
    this.pages = kernel.openPages(this.numPages, precision, this.states.numStates);
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
   * @param to - their end, which may be within the last page
   * @throws {RangeError} when they are not the pages of so many positions
   */
  writeKept(from: number, to: number, bytes: Uint8Array): KeptTokens {
    const numPages = Math.ceil((to - from) / KV_PAGE_TOKENS);
    if (bytes.length !== numPages * this.pageBytes) {
      throw new RangeError(`Expected ${numPages} pages of ${this.pageBytes} bytes, got ${bytes.length} bytes`);
    }
    const kept = this.keepFresh(from, to - from);
    for (const [index, page] of this.keptPages(kept).entries()) this.pages.write(page, this.#pageOf(bytes, index));
    return kept;
  }

  /** Copies a kept state. */
  readState(kept: KeptState): Uint8Array {
    const bytes = new Uint8Array(kept.bytes);
    this.pages.read(this.numPages + this.states.numberOf(kept), bytes);
    return bytes;
  }

  /** Keeps a state that `readState` has copied, as `writeKept` keeps tokens. */
  writeState(position: number, bytes: Uint8Array): KeptState {
    const kept = this.states.keepFresh(position);
    this.pages.write(this.numPages + this.states.numberOf(kept), bytes);
    return kept;
  }

  /**
   * Fills the next positions of a slot, which begin a page and are reserved, with pages that `readKept` has copied.
   *
   * @throws {RangeError} when they are no whole pages, or do not fit
   */
  fill(slot: KvSlot, bytes: Uint8Array): void {
    const { pages, numTokens } = this.pageSlot(slot);
    const [first, numPages] = [numTokens / KV_PAGE_TOKENS, bytes.length / this.pageBytes];
    if (!Number.isInteger(first) || !Number.isInteger(numPages) || first + numPages > pages.length) {
      throw new RangeError(`Expected pages for a slot of ${pages.length} that has ${first}, got ${numPages}`);
    }
    for (let index = 0; index < numPages; index++) {
      this.pages.write(pages[first + index]!, this.#pageOf(bytes, index));
    }
    this.advance(slot, numPages * KV_PAGE_TOKENS);
  }

  #pageOf(bytes: Uint8Array, index: number): Uint8Array {
    return bytes.subarray(index * this.pageBytes, (index + 1) * this.pageBytes);
  }

  protected override copyPage(from: number, to: number): void {
    const bytes = (this.#copied ??= new Uint8Array(this.pageBytes));
    this.pages.read(from, bytes);
    this.pages.write(to, bytes);
  }

  override dispose(): void {
    this.pages.close();
  }

  /** Checks that these are pages of a kernel. */
  isOf(kernel: Kernel): boolean {
    return this.#kernel === kernel;
  }
}
