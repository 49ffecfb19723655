import {
  integerOption,
  ReadMeError,
  type PreGatingRouter,
  type Route,
  type RouteInput,
  type RouterState,
} from "@readme-moe/core";
import {
  attentionFeeds,
  cachedGraph,
  GraphSession,
  KvCache,
  resolveCacheFolder,
  type KvShape,
  type Model,
  type RouterConfig,
  type StepTokens,
} from "@readme-moe/model";
import { argmaxRoute } from "./choose.ts";
import { routerGraph } from "./router-graph.ts";

export interface RouterOptions {
  /** Where built graphs are kept. @default `README_MOE_CACHE`, else the platform's cache folder */
  readonly cacheFolder?: string | undefined;
  /** @default all cores */
  readonly threads?: number | undefined;
}

/** The router's own keys and values of one sequence, so that a new token costs one token. */
class GraphRouterState implements RouterState {
  readonly cache: KvCache;

  constructor(shape: KvShape) {
    this.cache = new KvCache(shape);
  }

  get numTokens(): number {
    return this.cache.numTokens;
  }
}

/** A model's own pre-gating router. Usable without the model: it reads token ids and nothing else. */
export class GraphRouter implements PreGatingRouter {
  readonly config: RouterConfig;
  readonly #session: GraphSession;
  readonly #kvShape: KvShape;

  private constructor(config: RouterConfig, session: GraphSession) {
    this.config = config;
    this.#session = session;
    const headSize = config.innerSize / config.numHeads;
    this.#kvShape = { numLayers: config.numLayers, numKvHeads: config.numHeads, headSize };
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
    const graph = await cachedGraph(routerGraph(model.router), await model.fingerprint(cacheFolder), cacheFolder);
    return new GraphRouter(model.router.config, await GraphSession.load(graph, { threads }));
  }

  get numExperts(): number {
    return this.config.numExperts;
  }

  start(): GraphRouterState {
    return new GraphRouterState(this.#kvShape);
  }

  /**
   * @throws {TypeError | RangeError} on an empty list of tokens, an id outside the vocabulary, or a state given twice
   * @throws {ReadMeError} `ERR_CONTEXT_LENGTH` when a sequence outgrows the context; nothing is routed then
   */
  async route(inputs: readonly RouteInput[]): Promise<readonly Route[]> {
    if (inputs.length === 0) return [];
    const sequences = this.#check(inputs);
    const outputs = await this.#session.run(attentionFeeds(sequences, this.#kvShape));
    const logits = outputs["logits"]?.data as Float32Array;
    const newKeysValues = outputs["new_keys_values"]?.data as Float32Array;
    let first = 0;
    return sequences.map(({ cache, tokenIds }) => {
      const end = first + tokenIds.length;
      cache.append(newKeysValues, first, end);
      const own = logits.slice(first * this.numExperts, end * this.numExperts);
      first = end;
      return { experts: argmaxRoute(own, this.numExperts), logits: own };
    });
  }

  async dispose(): Promise<void> {
    await this.#session.dispose();
  }

  #check(inputs: readonly RouteInput[]): readonly StepTokens[] {
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
      if (asked <= contextTokens) return { cache: state.cache, tokenIds };
      const message = `${asked} tokens do not fit the router's context of ${contextTokens}`;
      throw new ReadMeError("ERR_CONTEXT_LENGTH", message);
    });
  }
}
