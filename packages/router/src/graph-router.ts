import {
  integerOption,
  ReadMeError,
  type PreGatingRouter,
  type Route,
  type RouteInput,
  type RouterState,
} from "@readme-moe/core";
import {
  attentionRuns,
  openGraph,
  planAttention,
  resolveCacheFolder,
  type GraphSession,
  type KvShape,
  type Model,
  type RouterConfig,
} from "@readme-moe/model";
import { argmaxRoute } from "./choose.ts";
import { routerGraph } from "./router-graph.ts";
import { GraphRouterState, RouterMemory } from "./router-memory.ts";

/** Of `GraphRouter.open`: threads, and where its graph is kept. */
export interface RouterOptions {
  /** Where built graphs are kept. @default `README_MOE_CACHE`, else the platform's cache folder */
  readonly cacheFolder?: string | undefined;
  /** @default all cores */
  readonly threads?: number | undefined;
  /** Told once, with the reason, when the router's graph cannot be cached and stays in memory. */
  readonly onCacheFailure?: ((reason: string) => void) | undefined;
}

/** A model's own pre-gating router. Usable without the model: it reads token ids and nothing else. */
export class GraphRouter implements PreGatingRouter {
  readonly config: RouterConfig;
  readonly #session: GraphSession;
  readonly #memory: RouterMemory;

  private constructor(config: RouterConfig, session: GraphSession) {
    this.config = config;
    this.#session = session;
    const headSize = config.innerSize / config.numHeads;
    const shape: KvShape = { numLayers: config.numLayers, numKvHeads: config.numHeads, headSize };
    this.#memory = new RouterMemory(shape);
  }

  /** @throws {ReadMeError} `ERR_MODEL_INVALID` when the model has no router */
  static async open(
    model: Pick<Model, "path" | "router" | "fingerprint">,
    options: RouterOptions = {},
  ): Promise<GraphRouter> {
    if (!model.router)
      throw new ReadMeError("ERR_MODEL_INVALID", `${model.path}: has no router; name an expert instead`);
    const threads = options.threads === undefined ? undefined : integerOption("threads", options.threads, 1, 1024);
    const cacheFolder = resolveCacheFolder(options.cacheFolder);
    const session = await openGraph(routerGraph(model.router), await model.fingerprint(cacheFolder), {
      cacheFolder,
      threads,
      onCacheFailure: options.onCacheFailure,
    });
    return new GraphRouter(model.router.config, session);
  }

  get numExperts(): number {
    return this.config.numExperts;
  }

  start(): RouterState {
    return new GraphRouterState();
  }

  /**
   * @throws {TypeError | RangeError} on an empty list of tokens, an id outside the vocabulary, or a state given twice
   * @throws {ReadMeError} `ERR_CONTEXT_LENGTH` when a sequence outgrows the context; nothing is routed then
   */
  async route(inputs: readonly RouteInput[]): Promise<readonly Route[]> {
    const states = this.#check(inputs);
    const sequences = this.#memory.reserve(states, inputs);
    const routes: Route[] = [];
    for (const run of inputs.length > 0 ? attentionRuns(sequences) : []) {
      const { pool } = this.#memory;
      const plan = planAttention(run, sequences, pool);
      const outputs = await this.#session.run(plan.feeds);
      const logits = outputs["logits"]?.data as Float32Array;
      plan.order.forEach((place, index) => {
        const [first, end] = [plan.firstTokens[index] as number, plan.firstTokens[index + 1] as number];
        const { slot } = sequences[place] as (typeof sequences)[number];
        pool.append(slot, outputs["new_keys_values"]?.data as Float32Array, first, end);
        const own = logits.slice(first * this.numExperts, end * this.numExperts);
        routes[place] = { experts: argmaxRoute(own, this.numExperts), logits: own };
      });
    }
    return routes;
  }

  release(state: RouterState): void {
    if (state instanceof GraphRouterState) this.#memory.release(state);
  }

  async dispose(): Promise<void> {
    await this.#session.dispose();
  }

  #check(inputs: readonly RouteInput[]): readonly GraphRouterState[] {
    const { vocabSize, contextTokens } = this.config;
    if (new Set(inputs.map((input) => input.state)).size !== inputs.length) {
      throw new TypeError("Expected each state in `inputs` once, got one twice");
    }
    return inputs.map(({ state, tokenIds }) => {
      if (!(state instanceof GraphRouterState))
        throw new TypeError("Expected `state` to be made by this router's start()");
      if (tokenIds.length === 0) throw new RangeError("Expected `tokenIds` to hold at least one token, got none");
      for (let index = 0; index < tokenIds.length; index++) {
        integerOption(`tokenIds[${index}]`, tokenIds[index], 0, vocabSize - 1);
      }
      const asked = state.numTokens + tokenIds.length;
      if (asked <= contextTokens) return state;
      const message = `${asked} tokens do not fit the router's context of ${contextTokens}`;
      throw new ReadMeError("ERR_CONTEXT_LENGTH", message);
    });
  }
}
