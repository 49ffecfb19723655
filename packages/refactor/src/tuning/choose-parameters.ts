// Chooses what a tuning trains, and adds it to the model's weights.

import { seededRandom } from "@readme-moe/core";
import { normals } from "../random.ts";
import { ComposedWeight, type WeightPart } from "./composed-weight.ts";
import type { DecoderWeights, LayerWeights, Weight, WeightGroup } from "./decoder/decoder-weights.ts";
import { LEFT, RIGHT, type Parameter } from "./parameters.ts";
import type { ExpertNeurons } from "./shared-neurons.ts";

export interface TrainableOptions {
  readonly method: "lora" | "full";
  /** Rank of the changes with the method `lora`. */
  readonly rank: number;
  /** Whether attention is trained, too. */
  readonly attention: boolean;
  readonly seed: number;
  /** Changes that experts have in common; absent where each learns from its own tokens alone. */
  readonly sharing?: Sharing | undefined;
}

/** Changes of the dense model's neurons, of which each expert takes those of its own neurons. */
export interface Sharing {
  readonly neurons: ExpertNeurons;
  /** Neurons of the dense model. */
  readonly intermediateSize: number;
  /** Rank of the changes with the method `lora`. */
  readonly rank: number;
}

/** Parameters of a tuning. */
export interface Trained {
  readonly parameters: readonly Parameter[];
  /** Weights that are put together from parameters. Graphs compute gradients by these. */
  readonly composed: readonly ComposedWeight[];
}

const LAYER_NORMS: ReadonlySet<string> = new Set(["norm", "output_norm"]);

/** Suffix of an expert's own part of a weight that also has a common one. */
const OWN = ".own";

/** Products whose outputs are neurons. That of `expert.down.weight` takes neurons in. */
const TO_NEURONS: ReadonlySet<string> = new Set(["expert.gate.weight", "expert.up.weight"]);
const FROM_NEURONS = "expert.down.weight";

/**
 * Lists the trained parameters in the order of layers. The method `lora` adds factors to the weights' groups. Their
 * products start as zero, and so do the changes that experts have in common.
 */
export function chooseParameters(weights: DecoderWeights, options: TrainableOptions): Trained {
  const chosen = new Choice(options);
  for (const [index, layer] of weights.layers.entries()) chosen.addLayer(index, layer);
  chosen.parameters.push({ ...weights.finalNorm, isVector: true });
  return chosen;
}

const NOTHING_SHARED: ReadonlyMap<string, readonly Weight[]> = new Map();

/** Change of one product that experts have in common: its two factors, or all its values. */
interface CommonChange {
  readonly parts: readonly Weight[];
  /** Dense neurons of the expert's rows or columns. */
  readonly neurons: Int32Array;
  readonly isFromNeurons: boolean;
}

class Choice implements Trained {
  readonly parameters: Parameter[] = [];
  readonly composed: ComposedWeight[] = [];
  readonly #options: TrainableOptions;
  readonly #random: () => number;

  constructor(options: TrainableOptions) {
    this.#options = options;
    this.#random = seededRandom(options.seed);
  }

  addLayer(index: number, { attention, common, experts }: LayerWeights): void {
    this.#addGroup(attention, this.#options.attention);
    this.#addGroup(common, true);
    const { sharing } = this.#options;
    const [first] = experts;
    const shared = sharing && first && experts.length > 1 ? this.#addShared(first, sharing) : NOTHING_SHARED;
    for (const [which, expert] of experts.entries()) {
      const neurons = sharing?.neurons[index]?.[which] ?? new Int32Array();
      this.#addGroup(expert, true, (name) => {
        const parts = shared.get(name);
        return parts && { parts, neurons, isFromNeurons: name === FROM_NEURONS };
      });
    }
  }

  #addGroup(group: WeightGroup, isTrained: boolean, commonOf?: (name: string) => CommonChange | undefined): void {
    for (const [name, weight] of Array.from(group)) {
      // Norms of layers are always trained; norms of heads only with attention.
      if (!isTrained && !LAYER_NORMS.has(name)) continue;
      if (weight.shape.length === 1) this.parameters.push({ ...weight, isVector: true });
      else if (this.#options.method === "full") group.set(name, this.#whole(weight, commonOf?.(name)));
      else {
        const product = name.replace(/\.weight$/, "");
        const [left, right] = this.#factors(weight, commonOf?.(name));
        group.set(product + LEFT, left).set(product + RIGHT, right);
      }
    }
  }

  /** Trains a weight itself. */
  #whole(weight: Weight, common: CommonChange | undefined): Weight {
    const [shared] = common?.parts ?? [];
    if (!common || !shared) {
      this.parameters.push({ ...weight, isVector: false });
      return weight;
    }
    const own = { ...weight, key: weight.key + OWN };
    this.parameters.push({ ...own, isVector: false });
    const axis = common.isFromNeurons ? "columns" : "rows";
    return this.#compose(weight.key, weight.shape, [{ weight: own }, { weight: shared, [axis]: common.neurons }]);
  }

  /** Trains factors of a weight's change. Common ranks are in front of its own. */
  #factors({ key, shape }: Weight, common: CommonChange | undefined): readonly [left: Weight, right: Weight] {
    const [left, right] = this.#newFactors(common ? key + OWN : key, shape, this.#options.rank);
    const [sharedLeft, sharedRight] = common?.parts ?? [];
    if (!common || !sharedLeft || !sharedRight) return [left, right];
    const [out = 0, size = 0] = shape;
    const [rank, all] = [rankOf(sharedLeft), rankOf(sharedLeft) + rankOf(left)];
    const { neurons, isFromNeurons } = common;
    return [
      this.#compose(
        key + LEFT,
        [all, size],
        [
          { weight: sharedLeft, columns: isFromNeurons ? neurons : undefined },
          { weight: left, row: rank },
        ],
      ),
      this.#compose(
        key + RIGHT,
        [out, all],
        [
          { weight: sharedRight, rows: isFromNeurons ? undefined : neurons },
          { weight: right, column: rank },
        ],
      ),
    ];
  }

  /** Adds a layer's common changes, by the names of their products. */
  #addShared(expert: WeightGroup, sharing: Sharing): ReadonlyMap<string, readonly Weight[]> {
    const { intermediateSize, rank } = sharing;
    const shared = new Map<string, readonly Weight[]>();
    for (const [name, { key: ownKey, shape: ownShape }] of expert) {
      const isFromNeurons = name === FROM_NEURONS;
      if (!isFromNeurons && !TO_NEURONS.has(name)) continue;
      const [out = 0, size = 0] = ownShape;
      const shape = isFromNeurons ? [out, intermediateSize] : [intermediateSize, size];
      const key = ownKey.replace(/^\w+/, "shared");
      if (this.#options.method === "lora") shared.set(name, this.#newFactors(key, shape, rank));
      else {
        const weight = { key, shape, values: new Float32Array(intermediateSize * (isFromNeurons ? out : size)) };
        this.parameters.push({ ...weight, isVector: false });
        shared.set(name, [weight]);
      }
    }
    return shared;
  }

  #newFactors(key: string, shape: readonly number[], maxRank: number): readonly [left: Weight, right: Weight] {
    const [out = 0, size = 0] = shape;
    const rank = Math.min(maxRank, out, size);
    const values = normals(rank * size, 1 / Math.sqrt(size), this.#random);
    const left = { key: key + LEFT, shape: [rank, size], values };
    const right = { key: key + RIGHT, shape: [out, rank], values: new Float32Array(out * rank) };
    this.parameters.push({ ...left, isVector: false }, { ...right, isVector: false });
    return [left, right];
  }

  #compose(key: string, [rows = 0, columns = 0]: readonly number[], parts: readonly WeightPart[]): Weight {
    const weight = new ComposedWeight(key, [rows, columns], parts);
    this.composed.push(weight);
    return weight;
  }
}

function rankOf({ shape: [rank = 0] }: Weight): number {
  return rank;
}
