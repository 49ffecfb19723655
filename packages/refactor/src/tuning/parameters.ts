// Trained parameters, and the optimizer that updates them.

import { seededRandom } from "@readme-moe/core";
import type { Model, TensorRef } from "@readme-moe/model";
import { ADAM, adamStep, clipGradients, zeroMoments, type AdamMoments } from "../autodiff/adam.ts";
import { matchNeurons } from "../delta/neurons.ts";
import { matrix, type Matrix, Products } from "../linear-algebra/matrix.ts";
import { normals } from "../random.ts";
import type { Weight, DecoderWeights, LayerWeights, WeightGroup } from "./weights.ts";

/** Trained array. */
export interface Parameter extends Weight {
  /** Whether it is a norm or a bias. Vectors have no weight decay and their own learning rate. */
  readonly isVector: boolean;
}

/** Suffixes of the two factors of a weight's low-rank change. */
export const LEFT = ".left";
export const RIGHT = ".right";

export interface Rates {
  /** Learning rate of matrices. */
  readonly matrices: number;
  /** Learning rate of vectors. */
  readonly vectors: number;
  readonly weightDecay: number;
}

interface ParameterState extends AdamMoments {
  steps: number;
}

/** AdamW. A parameter without a gradient in a step, such as an expert without tokens, does not change. */
export class Optimizer {
  readonly #parameters: readonly Parameter[];
  readonly #states = new Map<string, ParameterState>();
  readonly #gradients = new Map<string, Float32Array>();
  readonly #composed: ReadonlyMap<string, ComposedWeight>;

  /** @param composed - weights made of the parameters, by which gradients are given */
  constructor(parameters: readonly Parameter[], composed: readonly ComposedWeight[] = []) {
    this.#parameters = parameters;
    this.#composed = new Map(composed.map((weight) => [weight.key, weight]));
  }

  /** Adds to the gradient of the next step. The optimizer owns `gradient` afterwards. */
  add(key: string, gradient: Float32Array): void {
    const composed = this.#composed.get(key);
    if (composed) {
      composed.addGradient(gradient, (part) => this.#sumOf(part));
      return;
    }
    const sum = this.#gradients.get(key);
    if (!sum) this.#gradients.set(key, gradient);
    else for (let i = 0; i < sum.length; i++) sum[i]! += gradient[i]!;
  }

  /** Returns the gradient of the next step so far; `undefined` when there is none. */
  gradient(key: string): Float32Array | undefined {
    return this.#gradients.get(key);
  }

  /** Discards the gradients of the next step. */
  clear(): void {
    this.#gradients.clear();
  }

  /** Updates the parameters. @returns the gradient's norm before it was clipped to `maxNorm` */
  step(rates: Rates, maxNorm: number): number {
    const norm = clipGradients([...this.#gradients.values()], maxNorm);
    for (const { key, values, isVector } of this.#parameters) {
      const gradient = this.#gradients.get(key);
      if (!gradient) continue;
      const state = this.#states.get(key) ?? { ...zeroMoments(values.length), steps: 0 };
      state.steps++;
      this.#states.set(key, state);
      adamStep({ ...state, values, step: state.steps }, gradient, {
        ...ADAM,
        learningRate: isVector ? rates.vectors : rates.matrices,
        weightDecay: isVector ? 0 : rates.weightDecay,
      });
    }
    this.clear();
    return norm;
  }

  /** Returns the sum of a parameter's gradients so far. */
  #sumOf({ key, values }: Weight): Float32Array {
    const sum = this.#gradients.get(key) ?? new Float32Array(values.length);
    this.#gradients.set(key, sum);
    return sum;
  }

  /** All arrays that steps change, by name. */
  get tensors(): ReadonlyMap<string, Float32Array> {
    const tensors = new Map(this.#parameters.map(({ key, values }) => [key, values]));
    for (const [key, { first, second }] of this.#states) {
      tensors.set(`${key}:first`, first).set(`${key}:second`, second);
    }
    return tensors;
  }

  get steps(): Readonly<Record<string, number>> {
    return Object.fromEntries([...this.#states].map(([key, { steps }]) => [key, steps]));
  }

  /** Prepares `tensors` for the values of a checkpoint with these steps. */
  restoreSteps(counts: Readonly<Record<string, number>>): void {
    for (const { key, values } of this.#parameters) {
      const steps = counts[key];
      if (steps !== undefined) this.#states.set(key, { ...zeroMoments(values.length), steps });
    }
  }
}

// Chooses what a tuning trains, and adds it to the model's weights.

interface TrainableOptions {
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

// Weights that are put together from several trained arrays whenever they are read, so that arrays which many weights
// have in common are kept, trained and written once.

/** Array `[rows, columns]` that is added to a block of a weight. */
export interface WeightPart {
  readonly weight: Weight;
  /** Row of the array that each row of the block takes; all in their own order where absent. */
  readonly rows?: Int32Array | undefined;
  /** Column of the array that each column of the block takes. */
  readonly columns?: Int32Array | undefined;
  /** The block's first row. @default 0 */
  readonly row?: number;
  /** The block's first column. @default 0 */
  readonly column?: number;
}

export class ComposedWeight implements Weight {
  readonly key: string;
  readonly shape: readonly [rows: number, columns: number];
  readonly #parts: readonly WeightPart[];
  #values: Float32Array | undefined;

  constructor(key: string, shape: readonly [rows: number, columns: number], parts: readonly WeightPart[]) {
    this.key = key;
    this.shape = shape;
    this.#parts = parts;
  }

  /** Adds up the parts as they are now. The array is overwritten when it is read again. */
  get values(): Float32Array {
    const values = (this.#values ??= new Float32Array(this.shape[0] * this.shape[1]));
    values.fill(0);
    for (const part of this.#parts) {
      const from = part.weight.values;
      this.#eachRow(part, (at, own, { width, columns }) => {
        if (columns) for (let i = 0; i < width; i++) values[at + i]! += from[own + columns[i]!]!;
        else for (let i = 0; i < width; i++) values[at + i]! += from[own + i]!;
      });
    }
    return values;
  }

  /**
   * Adds a gradient of this weight to those of its parts.
   *
   * @param sumOf - gradient of a part so far, zeros at first
   */
  addGradient(gradient: Float32Array, sumOf: (weight: Weight) => Float32Array): void {
    for (const part of this.#parts) {
      const sum = sumOf(part.weight);
      this.#eachRow(part, (at, own, { width, columns }) => {
        if (columns) for (let i = 0; i < width; i++) sum[own + columns[i]!]! += gradient[at + i]!;
        else for (let i = 0; i < width; i++) sum[own + i]! += gradient[at + i]!;
      });
    }
  }

  /** Calls `use` with the start of each row of a part's block, in this weight and in the part. */
  #eachRow(
    { weight, rows, columns, row = 0, column = 0 }: WeightPart,
    use: (at: number, own: number, block: { readonly width: number; readonly columns: Int32Array | undefined }) => void,
  ): void {
    const [height = 0, size = 0] = weight.shape;
    const block = { width: columns?.length ?? size, columns };
    const count = rows?.length ?? height;
    for (let i = 0; i < count; i++) {
      use((row + i) * this.shape[1] + column, (rows ? rows[i]! : i) * size, block);
    }
  }
}

// Neurons of the dense model that experts have in common. They have one change that the tokens of all experts train.

/** The dense model's neuron of each row of the experts, `[layers][experts]`. */
type ExpertNeurons = readonly (readonly Int32Array[])[];

/**
 * Finds the dense neuron of each row. Rows may have been tuned before: they differ from their own neuron far less than
 * from all others.
 *
 * @throws {RangeError} for experts that are wider than the dense FFN
 */
export async function findExpertNeurons(
  { student, teacher }: { readonly student: GatesOfLayers; readonly teacher: GatesOfLayers },
  { threads, signal }: { readonly threads?: number | undefined; readonly signal?: AbortSignal | undefined },
): Promise<ExpertNeurons> {
  const products = await Products.open(threads);
  try {
    const layers: Int32Array[][] = [];
    for (const [index, experts] of student.entries()) {
      const dense = await teacher[index]![0]!();
      const own: Int32Array[] = [];
      for (const expert of experts) {
        signal?.throwIfAborted();
        const neurons = await matchNeurons(products, await expert(), dense);
        if (!neurons) throw new RangeError(`Expected experts of at most ${dense.rows} neurons, got wider ones`);
        own.push(neurons);
      }
      layers.push(own);
    }
    return layers;
  } finally {
    await products.dispose();
  }
}

/** Returns the share of the experts' rows whose neuron another expert of the layer has, too. */
export function shareInCommon(neurons: ExpertNeurons): number {
  let [common, all] = [0, 0];
  for (const experts of neurons) {
    const counts = new Map<number, number>();
    for (const own of experts) for (const neuron of own) counts.set(neuron, (counts.get(neuron) ?? 0) + 1);
    for (const own of experts) {
      all += own.length;
      common += own.filter((neuron) => counts.get(neuron)! > 1).length;
    }
  }
  return common / all;
}

/** Reads gates' weights `[neurons, hiddenSize]`, by layer and expert. */
export type GatesOfLayers = readonly (readonly (() => Promise<Matrix>)[])[];

export function gatesOf({ weights }: Pick<Model, "weights">): GatesOfLayers {
  return weights.layers.map(({ experts }) =>
    experts.map(
      ({ gate: { weight } }) =>
        () =>
          readMatrix(weight),
    ),
  );
}

async function readMatrix({ store, name, shape: [rows = 0, columns = 0] }: TensorRef): Promise<Matrix> {
  return matrix(rows, columns, await store.readFloats(name));
}
