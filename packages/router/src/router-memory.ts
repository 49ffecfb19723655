// The sequences of a router in its kernel: their keys and values, and the calls that append tokens to them.

import { ReadMeError, type RouterState } from "@readme-moe/core";
import {
  encodeStep,
  GrowingAngles,
  type Kernel,
  KernelKv,
  type KernelPages,
  KV_BLOCK_TOKENS,
  KV_PAGE_TOKENS,
  kvBytesPerToken,
  type KvShape,
  type PageSlot,
  splitIntoSteps,
} from "@readme-moe/kernel";
import type { RouterConfig } from "@readme-moe/model";

/** Largest number of tokens in one call of the kernel. Longer sequences are split, which changes no bit. */
export const MAX_ROWS = 512;
// On most systems memory is only address space until it is written; on the others this is little.
const FIRST_BYTES = 2 ** 24;

/** A sequence of a router: its tokens, and its slot of keys and values. */
export class KernelRouterState implements RouterState {
  /** The memory that `slot` belongs to. */
  readonly memory: RouterMemory;
  readonly tokenIds: number[] = [];
  /** `undefined` before the first token, and after the release. */
  slot: PageSlot | undefined;

  constructor(memory: RouterMemory) {
    this.memory = memory;
  }

  get numTokens(): number {
    return this.tokenIds.length;
  }
}

/**
 * Keys and values of all sequences of a router. The router holds every sequence of the engine, also those that wait,
 * so this memory doubles as needed. Pages of the kernel cannot grow: all tokens are routed again into larger pages,
 * which gives the same bits. For the last layer that computes only keys and values.
 */
export class RouterMemory {
  readonly #kernel: Kernel;
  readonly #calls: RouterCalls;
  readonly #shape: KvShape;
  readonly #states = new Set<KernelRouterState>();
  #pages: KernelKv;

  constructor(
    kernel: Kernel,
    calls: RouterCalls,
    { numLayers, innerSize, numHeads }: RouterConfig,
    firstBytes: number = FIRST_BYTES,
  ) {
    this.#kernel = kernel;
    this.#calls = calls;
    // The kernel pads heads to whole vectors, so small heads take more than this.
    this.#shape = { numLayers, numKvHeads: numHeads, headSize: innerSize / numHeads };
    const firstTokens = Math.floor(firstBytes / kvBytesPerToken(this.#shape) / KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS;
    this.#pages = this.#open(Math.max(KV_BLOCK_TOKENS, firstTokens));
  }

  /** Number of positions that fit before this memory grows again. */
  get capacityTokens(): number {
    return this.#pages.capacityTokens;
  }

  /**
   * Appends tokens to sequences.
   *
   * @returns the logits of each sequence's tokens, `[tokens, numExperts]`
   * @throws {ReadMeError} `ERR_MEMORY` if there is no memory for them; nothing has changed then
   */
  append(
    sequences: readonly { readonly state: KernelRouterState; readonly tokenIds: ArrayLike<number> }[],
    numExperts: number,
  ): readonly Float32Array[] {
    const numNewPages = sequences.map(
      ({ state, tokenIds }) => pagesFor(state.numTokens + tokenIds.length) - pagesFor(state.numTokens),
    );
    this.#makeRoom(numNewPages.reduce((sum, count) => sum + count, 0) * KV_PAGE_TOKENS);
    const added = sequences.map(({ state, tokenIds }) => ({
      slot: this.#reserve(state, state.numTokens + tokenIds.length),
      tokenIds,
      logits: new Float32Array(tokenIds.length * numExperts),
    }));
    this.#calls.append(this.#pages, added);
    for (const { state, tokenIds } of sequences) for (const id of Array.from(tokenIds)) state.tokenIds.push(id);
    return added.map(({ logits }) => logits);
  }

  /** Drops a sequence's tokens from `numTokens` on. */
  rewind(state: KernelRouterState, numTokens: number): void {
    if (numTokens === 0) return this.release(state);
    if (state.slot) this.#pages.truncate(state.slot, numTokens);
    state.tokenIds.length = numTokens;
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
      return new KernelKv(this.#kernel, { capacityTokens, shape: this.#shape, precision: "fp32" });
    } catch (cause) {
      const message = `The router's keys and values of ${capacityTokens} tokens do not fit into memory`;
      throw new ReadMeError("ERR_MEMORY", message, { cause });
    }
  }

  #reserve(state: KernelRouterState, numTokens: number): PageSlot {
    this.#states.add(state);
    const slot = state.slot ?? admit(this.#pages, numTokens);
    this.#pages.reserve(slot, numTokens);
    state.slot = slot;
    return slot;
  }

  #makeRoom(newTokens: number): void {
    let { capacityTokens } = this.#pages;
    while (this.#pages.usedTokens + newTokens > capacityTokens) capacityTokens *= 2;
    if (capacityTokens > this.#pages.capacityTokens) this.#growTo(capacityTokens);
  }

  /** Moves all sequences into larger pages. Nothing changes if there is no memory for them. */
  #growTo(capacityTokens: number): void {
    const grown = this.#open(capacityTokens);
    const moved = Array.from(this.#states, (state) => {
      const { tokenIds } = state;
      return { state, tokenIds, slot: admit(grown, tokenIds.length) };
    });
    this.#calls.append(grown, moved);
    for (const { state, slot } of moved) state.slot = slot;
    this.#pages.dispose();
    this.#pages = grown;
  }
}

/** Tokens to append to a slot, which has room for them. */
export interface SlotTokens {
  readonly slot: PageSlot;
  readonly tokenIds: ArrayLike<number>;
  /** Output of logits, `[tokens, numExperts]`. @default they are not computed */
  readonly logits?: Float32Array | undefined;
}

/** Pages of keys and values, with the number of filled positions of each slot. */
export interface SlotPages {
  readonly pages: KernelPages;
  advance(slot: PageSlot, numTokens: number): void;
}

/** Runs tokens through a router's kernel. */
export class RouterCalls {
  readonly #config: RouterConfig;
  readonly #kernel: Kernel;
  readonly #candidateIds = new Int32Array(MAX_ROWS);
  readonly #logits = new Float32Array(2 * MAX_ROWS);
  readonly #sums = new Float64Array(2 * MAX_ROWS);
  readonly #fullLogits: Float32Array;
  readonly #angles: GrowingAngles;

  constructor(config: RouterConfig, kernel: Kernel) {
    this.#config = config;
    this.#kernel = kernel;
    const { ropeTheta: theta, innerSize, numHeads, contextTokens } = config;
    const ropes = [{ type: "default", theta } as const];
    this.#angles = new GrowingAngles(kernel, { ropes, rotatedSize: innerSize / numHeads, contextTokens });
    this.#fullLogits = new Float32Array(MAX_ROWS * config.numExperts);
  }

  /** Appends all tokens, those of several sequences in one call. Blocks its thread. */
  append(memory: SlotPages, sequences: readonly SlotTokens[]): void {
    for (const { slot, tokenIds } of sequences) this.#angles.reach(slot.numTokens + tokenIds.length);
    const whole = sequences.map((sequence) => ({ ...sequence, tokenIds: Array.from(sequence.tokenIds) }));
    const lengths = whole.map(({ tokenIds }) => tokenIds.length);
    for (const pieces of splitIntoSteps(lengths, MAX_ROWS)) {
      const parts = pieces.flatMap(({ sequence: index, from, to }) => {
        const sequence = whole[index];
        return sequence ? { ...sequence, from, tokenIds: sequence.tokenIds.slice(from, to) } : [];
      });
      this.#run(memory, parts);
    }
  }

  #run(memory: SlotPages, parts: readonly (SlotTokens & { readonly from: number })[]): void {
    const { vocabSize, numExperts, contextTokens } = this.#config;
    let numFullRows = 0;
    const rows = parts.map(({ slot, tokenIds, logits }) => {
      const logitsOf = Array.from({ length: logits ? tokenIds.length : 0 }, (_, row) => row);
      const fullPlaces = logitsOf.map(() => numFullRows++);
      return { tokenIds, position: slot.numTokens, pages: slot.pages, logitsOf, fullPlaces };
    });
    const sizes = { vocabSize, numLogits: numExperts, maxRows: MAX_ROWS, maxPositions: contextTokens };
    const request = encodeStep(rows, 1, { ...sizes, numPages: memory.pages.numPages, numFullRows });
    this.#kernel.step(memory.pages, request, {
      candidateIds: this.#candidateIds,
      logits: this.#logits,
      sums: this.#sums,
      fullLogits: this.#fullLogits.subarray(0, numFullRows * numExperts),
    });
    let done = 0;
    for (const { slot, tokenIds, logits, from } of parts) {
      memory.advance(slot, tokenIds.length);
      if (!logits) continue;
      const count = tokenIds.length * numExperts;
      logits.set(this.#fullLogits.subarray(done, done + count), from * numExperts);
      done += count;
    }
  }
}

/** Admits a sequence into pages that have room for it. */
function admit(pages: KernelKv, numTokens: number): PageSlot {
  const slot = pages.admit(numTokens);
  if (slot) return slot;
  throw new Error(`The router's memory has no room for ${numTokens} tokens`);
}

function pagesFor(numTokens: number): number {
  return Math.ceil(numTokens / KV_PAGE_TOKENS);
}
