// A model's own router in its kernel: its sequences, their keys and values, and the calls that append tokens to them.

import {
  integerOption,
  type PreGatingRouter,
  ReadMeError,
  type Route,
  type RouteInput,
  type RouterState,
} from "@readme-moe/core";
import {
  describeRouter,
  encodeStep,
  GrowingAngles,
  type Kernel,
  type KernelKind,
  KernelKv,
  type KernelPages,
  kernelThreads,
  KV_BLOCK_TOKENS,
  KV_PAGE_TOKENS,
  kvBytesPerToken,
  type KvShape,
  openCachedKernel,
  type PageSlot,
  splitIntoSteps,
} from "@readme-moe/kernel";
import { type Model, resolveCacheFolder, type RouterConfig } from "@readme-moe/model";
import { argmaxRoute } from "./routes.ts";

/** Options of `KernelRouter.open`. */
export interface RouterOptions {
  /** Folder of packed weights. @default `README_MOE_CACHE`, else the platform's cache folder */
  readonly cacheFolder?: string | undefined;
  /** Number of threads, of which a router uses at most two. @default all cores, within the control group's share */
  readonly threads?: number | undefined;
  /** Build of the kernel. @default `README_MOE_KERNEL`, else the addon if there is one that loads */
  readonly kernel?: KernelKind | undefined;
  /** Called once, with the reason, if the router's weights cannot be cached and stay in memory. */
  readonly onCacheFailure?: ((reason: string) => void) | undefined;
}

// Changes when other weights are packed for the same router.
const VERSION = 1;
// Products are small. After a call, threads spin for a while, on cores that the model's step is about to use.
const MOST_THREADS = 2;

/**
 * A model's own pre-gating router, in the kernel. It works without the model, because its only input are token ids. A
 * token's logits depend only on the token and those before it: they are the same bits in any pieces and in any batch.
 */
export class KernelRouter implements PreGatingRouter {
  readonly config: RouterConfig;
  readonly #kernel: Kernel;
  readonly #memory: RouterMemory;

  private constructor(config: RouterConfig, kernel: Kernel) {
    this.config = config;
    this.#kernel = kernel;
    this.#memory = new RouterMemory(kernel, new RouterCalls(config, kernel), config);
  }

  /**
   * Opens the router of a model: packs its weights, or maps the packed file of the cache.
   *
   * @throws {ReadMeError} `ERR_MODEL_INVALID` if the model has no router; if its weights cannot be read, or the kernel
   *   cannot be opened
   */
  static async open(
    model: Pick<Model, "path" | "router" | "fingerprint">,
    options: RouterOptions = {},
  ): Promise<KernelRouter> {
    if (!model.router)
      throw new ReadMeError("ERR_MODEL_INVALID", `${model.path}: has no router; name an expert instead`);
    const threads = Math.min(MOST_THREADS, kernelThreads(options.threads));
    const cacheFolder = resolveCacheFolder(options.cacheFolder);
    const { config } = model.router;
    const key = ["router", await model.fingerprint(cacheFolder), VERSION].join(" ");
    const sizes = { threads, maxRows: MAX_ROWS, maxPositions: config.contextTokens };
    const { kernel: kind, onCacheFailure } = options;
    const { kernel } = await openCachedKernel(describeRouter(model.router), sizes, {
      kernel: kind,
      key,
      cacheFolder,
      modelPath: model.path,
      onCacheFailure,
    });
    return new KernelRouter(config, kernel);
  }

  get numExperts(): number {
    return this.config.numExperts;
  }

  /** Largest number of tokens in one call of the kernel. */
  get chunkTokens(): number {
    return MAX_ROWS;
  }

  start(): RouterState {
    return new KernelRouterState(this.#memory);
  }

  /**
   * Routes tokens. Blocks its thread.
   *
   * @throws {TypeError | RangeError} on an empty list of tokens, an id outside the vocabulary, or a repeated state
   * @throws {ReadMeError} `ERR_CONTEXT_LENGTH` if a sequence exceeds the context; nothing is routed then
   */
  async route(inputs: readonly RouteInput[]): Promise<readonly Route[]> {
    const sequences = this.#check(inputs);
    const logits = this.#memory.append(sequences, this.numExperts);
    return logits.map((own) => ({ experts: argmaxRoute(own, this.numExperts), logits: own }));
  }

  /**
   * Takes back the last tokens of a sequence.
   * @throws {TypeError} on another router's state; {RangeError} if the sequence has fewer tokens
   */
  rewind(state: RouterState, numTokens: number): void {
    if (!this.#isOwn(state)) throw new TypeError("Expected `state` to be made by this router's start()");
    integerOption("numTokens", numTokens, 0, state.numTokens);
    this.#memory.rewind(state, numTokens);
  }

  release(state: RouterState): void {
    if (this.#isOwn(state)) this.#memory.release(state);
  }

  async dispose(): Promise<void> {
    this.#memory.dispose();
    await this.#kernel.close();
  }

  #isOwn(state: RouterState): state is KernelRouterState {
    return state instanceof KernelRouterState && state.memory === this.#memory;
  }

  #check(inputs: readonly RouteInput[]): readonly (RouteInput & { readonly state: KernelRouterState })[] {
    const { vocabSize, contextTokens } = this.config;
    if (new Set(inputs.map((input) => input.state)).size !== inputs.length) {
      throw new TypeError("Expected each state in `inputs` once, got one twice");
    }
    return inputs.map(({ state, tokenIds }) => {
      if (!this.#isOwn(state)) throw new TypeError("Expected `state` to be made by this router's start()");
      if (tokenIds.length === 0) throw new RangeError("Expected `tokenIds` to hold at least one token, got none");
      for (let index = 0; index < tokenIds.length; index++) {
        integerOption(`tokenIds[${index}]`, tokenIds[index], 0, vocabSize - 1);
      }
      const asked = state.numTokens + tokenIds.length;
      if (asked <= contextTokens) return { state, tokenIds };
      const message = `${asked} tokens do not fit the router's context of ${contextTokens}`;
      throw new ReadMeError("ERR_CONTEXT_LENGTH", message);
    });
  }
}

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
    const { numExperts } = this.#config;
    let numFullRows = 0;
    const rows = parts.map(({ slot, tokenIds, logits }) => {
      const logitsOf = Array.from({ length: logits ? tokenIds.length : 0 }, (_, row) => row);
      const fullPlaces = logitsOf.map(() => numFullRows++);
      return { tokenIds, position: slot.numTokens, pages: slot.pages, logitsOf, fullPlaces };
    });
    const request = encodeStep(rows, 1, numFullRows);
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
