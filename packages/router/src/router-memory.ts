import { ReadMeError, type RouterState } from "@readme-moe/core";
import { type Kernel, KernelKv, KV_BLOCK_TOKENS, KV_PAGE_TOKENS, type PageSlot } from "@readme-moe/kernel";
import type { RouterConfig } from "@readme-moe/model";
import type { RouterSteps } from "./router-steps.ts";

// Nothing but address space until it is written on most systems, and little where a system gives memory at once.
const FIRST_BYTES = 2 ** 24;

/** A sequence that a router knows: its tokens, and the router's own keys and values of them. */
export class KernelRouterState implements RouterState {
  /** The memory that `slot` is in, or will be. */
  readonly memory: RouterMemory;
  readonly tokenIds: number[] = [];
  /** `undefined` before the first token, and after the last. */
  slot: PageSlot | undefined;

  constructor(memory: RouterMemory) {
    this.memory = memory;
  }

  get numTokens(): number {
    return this.tokenIds.length;
  }
}

/**
 * Keys and values of all sequences that a router knows. A router has to know every sequence that waits, so this memory
 * doubles as needed. Pages of the kernel do not grow: tokens are routed once more into larger ones, which gives the
 * same bits, and of the last layer computes keys and values alone.
 */
export class RouterMemory {
  readonly #kernel: Kernel;
  readonly #steps: RouterSteps;
  readonly #bytesPerToken: number;
  readonly #states = new Set<KernelRouterState>();
  #pages: KernelKv;

  constructor(
    kernel: Kernel,
    steps: RouterSteps,
    { numLayers, innerSize }: RouterConfig,
    firstBytes: number = FIRST_BYTES,
  ) {
    this.#kernel = kernel;
    this.#steps = steps;
    // The kernel fills heads up to whole vectors, so that small ones take more.
    this.#bytesPerToken = 2 * numLayers * innerSize * 4;
    const firstTokens = Math.floor(firstBytes / this.#bytesPerToken / KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS;
    this.#pages = this.#open(Math.max(KV_BLOCK_TOKENS, firstTokens));
  }

  /** Positions that there is room for before this memory grows again. */
  get capacityTokens(): number {
    return this.#pages.capacityTokens;
  }

  /**
   * Appends tokens to each of some sequences.
   *
   * @returns their logits, `[tokens, numExperts]` each
   * @throws {ReadMeError} `ERR_MEMORY` when there is no memory for them; nothing has changed then
   */
  append(
    sequences: readonly { readonly state: KernelRouterState; readonly tokenIds: ArrayLike<number> }[],
    numExperts: number,
  ): readonly Float32Array[] {
    const ends = sequences.map(({ state, tokenIds }) => state.numTokens + tokenIds.length);
    this.#makeRoom(sequences.map(({ state }, index) => pagesFor(ends[index] as number) - pagesFor(state.numTokens)));
    const added = sequences.map(({ state, tokenIds }, index) => ({
      slot: this.#reserve(state, ends[index] as number),
      tokenIds,
      logits: new Float32Array(tokenIds.length * numExperts),
    }));
    this.#steps.append(this.#pages, added);
    for (const { state, tokenIds } of sequences) {
      for (let index = 0; index < tokenIds.length; index++) state.tokenIds.push(tokenIds[index] as number);
    }
    return added.map(({ logits }) => logits);
  }

  release(state: KernelRouterState): void {
    if (state.slot) this.#pages.release(state.slot);
    state.slot = undefined;
    state.tokenIds.length = 0;
    this.#states.delete(state);
  }

  dispose(): void {
    this.#pages.dispose();
  }

  #open(capacityTokens: number): KernelKv {
    try {
      return new KernelKv(this.#kernel, { capacityTokens, bytesPerToken: this.#bytesPerToken }, false);
    } catch (cause) {
      const message = `The router's keys and values of ${capacityTokens} tokens do not fit into memory`;
      throw new ReadMeError("ERR_MEMORY", message, { cause });
    }
  }

  #reserve(state: KernelRouterState, numTokens: number): PageSlot {
    if (state.slot) this.#pages.reserve(state.slot, numTokens);
    else state.slot = this.#pages.admit(numTokens);
    this.#states.add(state);
    return state.slot as PageSlot;
  }

  #makeRoom(numNewPages: readonly number[]): void {
    const newTokens = numNewPages.reduce((sum, count) => sum + count * KV_PAGE_TOKENS, 0);
    let { capacityTokens } = this.#pages;
    while (this.#pages.usedTokens + newTokens > capacityTokens) capacityTokens *= 2;
    if (capacityTokens > this.#pages.capacityTokens) this.#growTo(capacityTokens);
  }

  /** Moves everybody into larger pages; everything is as it was where there is no memory for them. */
  #growTo(capacityTokens: number): void {
    const grown = this.#open(capacityTokens);
    const states = Array.from(this.#states);
    const moved = states.map(({ tokenIds }) => ({ slot: grown.admit(tokenIds.length) as PageSlot, tokenIds }));
    this.#steps.append(grown, moved);
    for (const [index, state] of states.entries()) state.slot = moved[index]?.slot;
    this.#pages.dispose();
    this.#pages = grown;
  }
}

function pagesFor(numTokens: number): number {
  return Math.ceil(numTokens / KV_PAGE_TOKENS);
}
