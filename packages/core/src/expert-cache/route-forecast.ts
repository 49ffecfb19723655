// Chances of the experts of later layers, in mixtures with a router in every layer. They are learned from the routes of
// running sequences, within a fixed number of bytes.
//
// An expert of a layer has two kinds of evidence: whether the sequence's token before used it there, and how often it
// followed the experts of an earlier layer (as in the activation matrices of MoE-Infinity, arXiv 2401.14361). Counts of
// how often such evidence was right turn both into one chance, so chances are calibrated in every model.

import { integerOption } from "../options.ts";

/** Options of `RouteForecast`. */
export interface RouteForecastOptions extends RouteShape {
  /** Largest distance of layers whose experts are counted together, below `numLayers`. @default 1, or 0 of 1 layer */
  readonly layersAhead?: number | undefined;
  /** Number of sequences whose last token is remembered, the last used ones. @default 256 */
  readonly maxSequences?: number | undefined;
  /** Largest number of rows of a step that are learned from; the last rows of sequences come first. @default 32 */
  readonly maxRows?: number | undefined;
}

/** A row of the running step that is learned from. */
interface Row {
  /** Place of its sequence in the memory of last tokens. */
  readonly place: number;
  /** Whether it is its sequence's first one in the step, so that the token before it is remembered. */
  readonly isFirst: boolean;
  readonly isLast: boolean;
}

/** A row's experts in one layer: part of a table. */
interface Routed {
  readonly row: Row;
  /** Index of the row in `#current`. */
  readonly index: number;
}

const NONE = 0xffff;

/**
 * Learns routes and estimates the chances of later uses. Deterministic. Its tables are allocated at once.
 *
 * For each step: call `beginStep`, then `observe` for each layer in order, as soon as it is routed.
 */
export class RouteForecast {
  /**
   * Chance that the next run of a layer uses an expert, `[numLayers, numExperts]`, in [0, 1]: in layers that the
   * running step has before it, for any of its rows; in others, for the next tokens of its sequences. `observe`
   * changes it.
   */
  readonly chances: Float32Array;
  readonly bytes: number;
  readonly #shape: RouteShape;
  readonly #layersAhead: number;
  readonly #maxSequences: number;
  readonly #maxRows: number;
  readonly #counts: RouteCounts;
  /** Experts of each sequence's last token, `[maxSequences, numLayers, expertsPerToken]`. */
  readonly #last: Uint16Array;
  /** Experts of each row, `[maxRows, numLayers, expertsPerToken]`. */
  readonly #current: Uint16Array;
  /** Share of tokens that use each expert of a layer, `[numExperts]`. */
  readonly #shares: Float64Array;
  /** The same among tokens like one row's, `[numExperts]`. */
  readonly #evidence: Float64Array;
  /** Chance that no row uses an expert, `[numExperts]`. */
  readonly #unused: Float64Array;
  /** Places of sequences, the longest unused one first. */
  readonly #places = new Map<number, number>();
  readonly #rows = new Map<number, Routed>();
  /** Rows, and last rows of sequences, of the step for each one that is learned from. */
  #weights = { all: 1, last: 1 };

  /** @throws {TypeError | RangeError} naming the option */
  constructor(options: RouteForecastOptions) {
    const numLayers = integerOption("numLayers", options.numLayers, 1);
    const numExperts = integerOption("numExperts", options.numExperts, 1, NONE);
    const expertsPerToken = integerOption("expertsPerToken", options.expertsPerToken, 1, numExperts);
    const { layersAhead = Math.min(1, numLayers - 1), maxSequences = 256, maxRows = 32 } = options;
    this.#shape = { numLayers, numExperts, expertsPerToken };
    this.#layersAhead = integerOption("layersAhead", layersAhead, 0, numLayers - 1);
    this.#maxSequences = integerOption("maxSequences", maxSequences, 1, 2 ** 16);
    this.#maxRows = integerOption("maxRows", maxRows, 1, this.#maxSequences);
    this.#counts = new RouteCounts(this.#shape, layersAhead);
    this.chances = new Float32Array(numLayers * numExperts);
    this.#last = new Uint16Array(maxSequences * numLayers * expertsPerToken).fill(NONE);
    this.#current = new Uint16Array(maxRows * numLayers * expertsPerToken).fill(NONE);
    this.#shares = new Float64Array(numExperts);
    this.#evidence = new Float64Array(numExperts);
    this.#unused = new Float64Array(numExperts);
    const tables = [this.chances, this.#last, this.#current, this.#shares, this.#evidence, this.#unused];
    this.bytes = tables.reduce((sum, { byteLength }) => sum + byteLength, this.#counts.bytes);
  }

  /**
   * Begins a step.
   * @param sequences - number of each row's sequence; rows of one sequence are adjacent, in the order of their tokens
   */
  beginStep(sequences: ArrayLike<number>): void {
    const { numRows, numLast, chosen } = chooseRows(sequences, this.#maxRows);
    this.#rows.clear();
    this.#current.fill(NONE);
    for (const [index, at] of chosen.entries()) {
      const sequence = sequences[at] ?? 0;
      const [isFirst, isLast] = [sequences[at - 1] !== sequence, sequences[at + 1] !== sequence];
      this.#rows.set(at, { index, row: { place: this.#placeOf(sequence), isFirst, isLast } });
    }
    const chosenLast = Array.from(this.#rows.values()).filter(({ row }) => row.isLast).length;
    this.#weights = { all: numRows / Math.max(1, chosen.length), last: numLast / Math.max(1, chosenLast) };
  }

  /**
   * Learns the routes of a layer of the running step, and updates the chances of this layer and of the next ones.
   *
   * @param routes - distinct experts of each routed row, `[rows, expertsPerToken]`
   * @param rows - rows of the step that were routed, in rising order
   */
  observe(layer: number, routes: ArrayLike<number>, rows: ArrayLike<number>): void {
    const { numLayers, expertsPerToken } = this.#shape;
    const routed: Routed[] = [];
    for (let place = 0; place < rows.length; place++) {
      const one = this.#rows.get(rows[place] ?? -1);
      if (!one) continue;
      routed.push(one);
      const at = (one.index * numLayers + layer) * expertsPerToken;
      for (let rank = 0; rank < expertsPerToken; rank++) {
        this.#current[at + rank] = routes[place * expertsPerToken + rank] ?? NONE;
      }
    }
    for (const one of routed) this.#learn(layer, one);
    for (const { row, index } of routed) {
      if (row.isLast) this.#lastOf(row, layer).set(this.#currentOf(index, layer));
    }
    this.#estimate(layer, routed);
  }

  #learn(layer: number, { row, index }: Routed): void {
    const own = this.#currentOf(index, layer);
    const before = row.isFirst ? known(this.#lastOf(row, layer)) : undefined;
    for (let distance = 0; distance <= this.#layersAhead; distance++) {
      const sources = this.#sourcesOf(layer, distance, row, index);
      if (distance > 0 && !sources) continue;
      this.#gather(layer, distance, sources);
      const at = { layer, distance, context: UNKNOWN_BEFORE, share: 0 };
      for (let expert = 0; expert < this.#evidence.length; expert++) {
        at.context = contextOf(before, expert);
        at.share = this.#evidence[expert] ?? 0;
        this.#counts.countEvidence(at, own.includes(expert));
      }
    }
    const { numLayers } = this.#shape;
    for (let distance = 1; distance <= this.#layersAhead; distance++) {
      const from = (layer - distance + numLayers) % numLayers;
      for (const source of this.#sourcesOf(layer, distance, row, index) ?? []) {
        this.#counts.countFollowers({ layer: from, distance, source }, own);
      }
    }
    this.#counts.countUses(layer, own);
  }

  /** Finds the row's experts some layers earlier; before the first layer these are its sequence's last token's. */
  #sourcesOf(layer: number, distance: number, row: Row, index: number): Uint16Array | undefined {
    if (distance === 0) return undefined;
    const from = layer - distance;
    if (from >= 0) return known(this.#currentOf(index, from));
    return row.isFirst ? known(this.#lastOf(row, from + this.#shape.numLayers)) : undefined;
  }

  /** Computes the evidence of each expert of a layer: its share among tokens with these experts, or among all. */
  #gather(layer: number, distance: number, sources: Uint16Array | undefined): void {
    const { numLayers } = this.#shape;
    this.#counts.shares(layer, this.#shares);
    if (!sources) {
      this.#evidence.set(this.#shares);
      return;
    }
    this.#evidence.fill(0);
    const from = (layer - distance + numLayers) % numLayers;
    for (const source of sources) {
      this.#counts.addFollowers({ layer: from, distance, source }, 1 / sources.length, this.#shares, this.#evidence);
    }
  }

  /** Updates the chances of the layers that follow, and of this layer's next run, which is a token later. */
  #estimate(layer: number, routed: readonly Routed[]): void {
    const { numLayers } = this.#shape;
    const last = routed.filter(({ row }) => row.isLast);
    this.#combine(layer, 0, last, this.#weights.last);
    for (let distance = 1; distance <= this.#layersAhead; distance++) {
      const target = layer + distance;
      const isNextToken = target >= numLayers;
      const [rows, weight] = isNextToken ? [last, this.#weights.last] : [routed, this.#weights.all];
      this.#combine(target % numLayers, distance, rows, weight);
    }
  }

  /** Sets a layer's chances that any row uses an expert. @param weight - rows of the step for each of `rows` */
  #combine(layer: number, distance: number, rows: readonly Routed[], weight: number): void {
    const { numLayers, numExperts } = this.#shape;
    const from = (layer - distance + numLayers) % numLayers;
    const isNextToken = layer <= from;
    this.#unused.fill(1);
    const at = { layer, distance, context: UNKNOWN_BEFORE, share: 0 };
    for (const { row, index } of rows) {
      this.#gather(layer, distance, distance === 0 ? undefined : this.#currentOf(index, from));
      // The token before a next token is the row's own.
      const before = isNextToken || row.isFirst ? known(this.#lastOf(row, layer)) : undefined;
      for (let expert = 0; expert < numExperts; expert++) {
        at.context = contextOf(before, expert);
        at.share = this.#evidence[expert] ?? 0;
        this.#unused[expert] = (this.#unused[expert] ?? 1) * (1 - Math.min(1, this.#counts.chance(at)));
      }
    }
    for (let expert = 0; expert < numExperts; expert++) {
      const unused = this.#unused[expert] ?? 1;
      this.chances[layer * numExperts + expert] = 1 - (weight === 1 ? unused : unused ** weight);
    }
  }

  #currentOf(index: number, layer: number): Uint16Array {
    return this.#expertsAt(this.#current, index, layer);
  }

  #lastOf({ place }: Row, layer: number): Uint16Array {
    return this.#expertsAt(this.#last, place, layer);
  }

  #expertsAt(table: Uint16Array, place: number, layer: number): Uint16Array {
    const { numLayers, expertsPerToken } = this.#shape;
    const start = (place * numLayers + layer) * expertsPerToken;
    return table.subarray(start, start + expertsPerToken);
  }

  /** Finds a sequence's place, or gives it that of the sequence that was unused for longest. */
  #placeOf(sequence: number): number {
    let place = this.#places.get(sequence);
    if (place === undefined) {
      place = this.#places.size;
      if (place === this.#maxSequences) {
        const [[oldest, freed] = [0, 0]] = this.#places;
        this.#places.delete(oldest);
        place = freed;
      }
      const { numLayers, expertsPerToken } = this.#shape;
      const size = numLayers * expertsPerToken;
      this.#last.fill(NONE, place * size, (place + 1) * size);
    }
    this.#places.delete(sequence);
    this.#places.set(sequence, place);
    return place;
  }
}

/** Returns experts that were recorded; `undefined` if none were. */
function known(experts: Uint16Array): Uint16Array | undefined {
  return experts[0] === NONE ? undefined : experts;
}

function contextOf(before: Uint16Array | undefined, expert: number): number {
  if (!before) return UNKNOWN_BEFORE;
  return before.includes(expert) ? USED_BEFORE : NOT_BEFORE;
}

/** Chooses up to `most` rows, in rising order: last rows of sequences first, evenly spread. */
function chooseRows(sequences: ArrayLike<number>, most: number) {
  const [last, others]: [number[], number[]] = [[], []];
  for (let row = 0; row < sequences.length; row++) {
    (sequences[row] === sequences[row + 1] ? others : last).push(row);
  }
  const chosen = spread(last, most);
  const rows = [...chosen, ...spread(others, most - chosen.length)].sort((a, b) => a - b);
  return { numRows: sequences.length, numLast: last.length, chosen: rows };
}

function spread(rows: readonly number[], most: number): readonly number[] {
  if (rows.length <= most) return rows;
  return Array.from({ length: most }, (_, index) => rows[Math.floor((index * rows.length) / most)] ?? 0);
}

/** Shape of a mixture with a router in every layer. */
export interface RouteShape {
  readonly numLayers: number;
  readonly numExperts: number;
  /** Number of distinct experts that a layer chooses for a token. */
  readonly expertsPerToken: number;
}

/** Whether the token before used an expert in the same layer, as far as that is known. */
const UNKNOWN_BEFORE = 0;
const NOT_BEFORE = 1;
const USED_BEFORE = 2;
const NUM_CONTEXTS = 3;

/** Number of classes of evidence, at equal distances of its square root: small chances differ more in ratio. */
const NUM_CLASSES = 16;
/** Counts are halved when they reach this. Some hundred tokens suffice to learn, and topics change within thousands. */
const MOST_COUNT = 1024;
/** Weight of an estimate from coarser counts, in tokens. */
const PRIOR_WEIGHT = 2;

/** Counts of which experts follow which, and of how often evidence was right. */
class RouteCounts {
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
interface Transition {
  readonly layer: number;
  /** Number of layers to the later one, from 1 up. */
  readonly distance: number;
  source: number;
}

/** Knowledge of an expert before its layer is routed. */
interface Evidence {
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
