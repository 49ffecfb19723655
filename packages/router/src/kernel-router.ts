import {
  integerOption,
  ReadMeError,
  type PreGatingRouter,
  type Route,
  type RouteInput,
  type RouterState,
} from "@readme-moe/core";
import { describeRouter, kernelThreads, openCachedKernel, type Kernel, type KernelKind } from "@readme-moe/kernel";
import { resolveCacheFolder, type Model, type RouterConfig } from "@readme-moe/model";
import { KernelRouterState, MAX_ROWS, RouterCalls, RouterMemory } from "./router-memory.ts";
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
