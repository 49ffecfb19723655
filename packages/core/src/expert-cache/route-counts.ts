// Counts of routes, from which chances follow. All are small integers that are halved when they reach a limit, so older
// routes weigh less, and the tables never grow.

/** Shape of a mixture with a router in every layer. */
export interface RouteShape {
  readonly numLayers: number;
  readonly numExperts: number;
  /** Number of distinct experts that a layer chooses for a token. */
  readonly expertsPerToken: number;
}

/** Whether the token before used an expert in the same layer, as far as that is known. */
export const UNKNOWN_BEFORE = 0;
export const NOT_BEFORE = 1;
export const USED_BEFORE = 2;
const NUM_CONTEXTS = 3;

/** Number of classes of evidence, at equal distances of its square root: small chances differ more in ratio. */
const NUM_CLASSES = 16;
/** Counts are halved when they reach this. Some hundred tokens suffice to learn, and topics change within thousands. */
const MOST_COUNT = 1024;
/** Weight of an estimate from coarser counts, in tokens. */
const PRIOR_WEIGHT = 2;

/** Counts of which experts follow which, and of how often evidence was right. */
export class RouteCounts {
  readonly #shape: RouteShape;
  readonly #layersAhead: number;
  /** Number of tokens of each layer that were counted, `[numLayers]`. */
  readonly #tokens: Uint16Array;
  /** Tokens of each layer that used an expert, `[numLayers, numExperts]`. */
  readonly #uses: Uint16Array;
  /** Tokens with an expert in a layer, by distance to a later one, `[numLayers, layersAhead, numExperts]`. */
  readonly #sources: Uint16Array;
  /** Number of them that used another expert there, `[numLayers, layersAhead, numExperts, numExperts]`. */
  readonly #followers: Uint16Array;
  /** Experts by layer, distance (0: no earlier layer), context and class, and those of them that were used. */
  readonly #tries: Uint16Array;
  readonly #hits: Uint16Array;

  constructor(shape: RouteShape, layersAhead: number) {
    const { numLayers, numExperts } = shape;
    this.#shape = shape;
    this.#layersAhead = layersAhead;
    this.#tokens = new Uint16Array(numLayers);
    this.#uses = new Uint16Array(numLayers * numExperts);
    this.#sources = new Uint16Array(numLayers * layersAhead * numExperts);
    this.#followers = new Uint16Array(numLayers * layersAhead * numExperts * numExperts);
    this.#tries = new Uint16Array(numLayers * (layersAhead + 1) * NUM_CONTEXTS * NUM_CLASSES);
    this.#hits = new Uint16Array(this.#tries.length);
  }

  get bytes(): number {
    const tables = [this.#tokens, this.#uses, this.#sources, this.#followers, this.#tries, this.#hits];
    return tables.reduce((sum, { byteLength }) => sum + byteLength, 0);
  }

  /** Computes the share of a layer's tokens that use each expert. @param into - `[numExperts]` */
  shares(layer: number, into: Float64Array): void {
    const { numExperts, expertsPerToken } = this.#shape;
    const weight = (PRIOR_WEIGHT * expertsPerToken) / numExperts;
    const tokens = (this.#tokens[layer] ?? 0) + PRIOR_WEIGHT;
    for (let expert = 0; expert < numExperts; expert++) {
      into[expert] = ((this.#uses[layer * numExperts + expert] ?? 0) + weight) / tokens;
    }
  }

  /**
   * Adds the share of tokens with `source` in `layer` that use each expert `distance` layers later, times `weight`.
   *
   * @param shares - shares of the later layer
   * @param into - `[numExperts]`
   */
  addFollowers(at: Transition, weight: number, shares: Float64Array, into: Float64Array): void {
    const { numExperts } = this.#shape;
    const row = this.#rowOf(at);
    const scale = weight / ((this.#sources[row] ?? 0) + PRIOR_WEIGHT);
    for (let expert = 0; expert < numExperts; expert++) {
      const count = this.#followers[row * numExperts + expert] ?? 0;
      into[expert] = (into[expert] ?? 0) + scale * (count + PRIOR_WEIGHT * (shares[expert] ?? 0));
    }
  }

  /** Computes the chance of an expert with some evidence: how often such experts were used, from its share at first. */
  chance(at: Evidence): number {
    const index = this.#evidenceAt(at);
    return ((this.#hits[index] ?? 0) + PRIOR_WEIGHT * at.share) / ((this.#tries[index] ?? 0) + PRIOR_WEIGHT);
  }

  /** Counts whether an expert with some evidence was used. */
  countEvidence(at: Evidence, isUsed: boolean): void {
    const index = this.#evidenceAt(at);
    this.#tries[index] = (this.#tries[index] ?? 0) + 1;
    if (isUsed) this.#hits[index] = (this.#hits[index] ?? 0) + 1;
    if ((this.#tries[index] ?? 0) < MOST_COUNT) return;
    halve(this.#tries, index, index + 1);
    halve(this.#hits, index, index + 1);
  }

  /** Counts a token with `source` in a layer, and its experts in a later one. */
  countFollowers(at: Transition, experts: Uint16Array): void {
    const { numExperts } = this.#shape;
    const row = this.#rowOf(at);
    this.#sources[row] = (this.#sources[row] ?? 0) + 1;
    for (const expert of experts) {
      const index = row * numExperts + expert;
      this.#followers[index] = (this.#followers[index] ?? 0) + 1;
    }
    if ((this.#sources[row] ?? 0) < MOST_COUNT) return;
    halve(this.#sources, row, row + 1);
    halve(this.#followers, row * numExperts, (row + 1) * numExperts);
  }

  /** Counts the experts of a token in a layer. */
  countUses(layer: number, experts: Uint16Array): void {
    const { numExperts } = this.#shape;
    this.#tokens[layer] = (this.#tokens[layer] ?? 0) + 1;
    for (const expert of experts) {
      const index = layer * numExperts + expert;
      this.#uses[index] = (this.#uses[index] ?? 0) + 1;
    }
    if ((this.#tokens[layer] ?? 0) < MOST_COUNT) return;
    halve(this.#tokens, layer, layer + 1);
    halve(this.#uses, layer * numExperts, (layer + 1) * numExperts);
  }

  #rowOf({ layer, distance, source }: Transition): number {
    return (layer * this.#layersAhead + distance - 1) * this.#shape.numExperts + source;
  }

  #evidenceAt({ layer, distance, context, share }: Evidence): number {
    const kind = (layer * (this.#layersAhead + 1) + distance) * NUM_CONTEXTS + context;
    return kind * NUM_CLASSES + Math.min(NUM_CLASSES - 1, Math.floor(Math.sqrt(share) * NUM_CLASSES));
  }
}

/** An expert of a token, whose followers are counted. */
export interface Transition {
  readonly layer: number;
  /** Number of layers to the later one, from 1 up. */
  readonly distance: number;
  /** Expert in `layer`. */
  source: number;
}

/** Knowledge of an expert before its layer is routed. */
export interface Evidence {
  readonly layer: number;
  /** Distance of the layer whose experts it follows; 0 for none. */
  readonly distance: number;
  /** `UNKNOWN_BEFORE`, `NOT_BEFORE` or `USED_BEFORE`. */
  context: number;
  /** Share of tokens like this one that use it, in [0, 1]. */
  share: number;
}

function halve(counts: Uint16Array, from: number, to: number): void {
  for (let index = from; index < to; index++) counts[index] = (counts[index] ?? 0) >>> 1;
}
