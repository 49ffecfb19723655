// A router in training: its parameters, the optimizer's state, and the graphs that run them.

import { seededRandom } from "@readme-moe/core";
import {
  type RouterConfig,
  ROUTER_RMS_NORM_EPSILON,
  type ReadMeContent,
  type SafetensorsInput,
} from "@readme-moe/model";
import { argmaxRoute } from "@readme-moe/router";
import { ADAM, adamRows, adamStep, clipGradients, zeroMoments, type RowGradients } from "../autodiff/adam.ts";
import { add, silu, linear, reshape } from "../autodiff/arithmetic.ts";
import { causalAttention, rmsNorm, rotary, rotaryTables } from "../autodiff/layer-operations.ts";
import { crossEntropy } from "../autodiff/losses.ts";
import { gradientName, Tape, type Tensor } from "../autodiff/tape.ts";
import type { Graph } from "../graphs/graph-builder.ts";
import { floatOutput, type GraphTensor } from "../graphs/session.ts";
import { SessionPool } from "../graphs/staged-session.ts";
import { pickRows } from "../linear-algebra/matrix.ts";
import { shuffled } from "../random.ts";
import type { RouterExample } from "./routes.ts";

const MAX_GRADIENT_NORM = 1;
/** Learning rate of the embedding, relative to the others: a token's row is in few batches. */
const EMBEDDING_RATE = 3;
/** Prediction pads texts to multiples of this, so that a few graphs serve all lengths. */
const LENGTH_STEP = 128;

/** Settings of a step's learning. */
interface Rates {
  readonly learningRate: number;
  readonly weightDecay: number;
}

export class RouterTrainer {
  readonly parameters: RouterParameters;
  readonly #config: RouterConfig;
  readonly #pool: SessionPool;
  readonly #shape: BatchShape;
  readonly #arrays;
  readonly #embedding;

  /**
   * @param parameters - of `routerShapes`, and `EMBEDDING`; training changes them in place
   * @param shape - of batches that are learned from
   */
  constructor(config: RouterConfig, parameters: RouterParameters, shape: BatchShape, threads: number | undefined) {
    this.parameters = parameters;
    this.#config = config;
    this.#shape = shape;
    this.#pool = new SessionPool({ threads });
    const trained = (name: string) => {
      const values = parameters.get(name) ?? new Float32Array(0);
      return { name, values, ...zeroMoments(values.length) };
    };
    this.#arrays = Array.from(routerShapes(config), ([name, dims]) => ({ ...trained(name), dims }));
    this.#embedding = { ...trained(EMBEDDING), steps: new Float32Array(config.vocabSize) };
  }

  /** All arrays that a step changes, by name. */
  get state(): ReadonlyMap<string, Float32Array> {
    const state = new Map<string, Float32Array>([["row_steps", this.#embedding.steps]]);
    for (const { name, values, first, second } of [this.#embedding, ...this.#arrays]) {
      state.set(`parameter:${name}`, values).set(`first:${name}`, first).set(`second:${name}`, second);
    }
    return state;
  }

  /** Learns from one batch. @param step - counts from 1 @returns the batch's loss, see `crossEntropy` */
  async learn({ tokenIds, targets }: RouterBatch, step: number, rates: Rates): Promise<number> {
    const { numExperts, embeddingSize } = this.#config;
    const session = await this.#pool.get("training", () => trainingGraph(this.#config, this.#shape));
    const outputs = await session.run({
      ...this.#feeds(tokenIds),
      targets: { data: targets, dims: [tokenIds.length, numExperts] },
    });
    const gradients = this.#arrays.map(({ name }) => floatOutput(outputs, gradientName(name)));
    const embedding = sumByToken(tokenIds, floatOutput(outputs, gradientName(EMBEDDED)), embeddingSize);
    clipGradients([...gradients, embedding.gradient], MAX_GRADIENT_NORM);
    const options = { ...ADAM, ...rates };
    gradients.forEach((gradient, index) => {
      const array = this.#arrays[index]!;
      const weightDecay = array.dims.length > 1 ? rates.weightDecay : 0;
      adamStep({ ...array, step }, gradient, { ...options, weightDecay });
    });
    adamRows(this.#embedding, embedding, { ...options, learningRate: rates.learningRate * EMBEDDING_RATE });
    return Number(outputs["loss"]?.data[0]);
  }

  /** Returns the expert of each token of one text. */
  async route(tokenIds: Int32Array): Promise<Uint16Array> {
    return argmaxRoute(await this.logits(tokenIds), this.#config.numExperts);
  }

  /** Returns the logits of one text, `[tokens, numExperts]`. */
  async logits(tokenIds: Int32Array): Promise<Float32Array> {
    const length = Math.ceil(tokenIds.length / LENGTH_STEP) * LENGTH_STEP;
    const make = (): Graph => predictionGraph(this.#config, { sequences: 1, tokens: length });
    const session = await this.#pool.get(`prediction ${length}`, make);
    const padded = new Int32Array(length);
    padded.set(tokenIds);
    const outputs = await session.run(this.#feeds(padded));
    return floatOutput(outputs, "logits").slice(0, tokenIds.length * this.#config.numExperts);
  }

  dispose = (): Promise<void> => this.#pool.dispose();

  #feeds(tokenIds: Int32Array): Record<string, GraphTensor> {
    const { embeddingSize } = this.#config;
    const embedded = pickRows(this.#embedding.values, tokenIds, embeddingSize);
    return {
      [EMBEDDED]: { data: embedded, dims: [tokenIds.length, embeddingSize] },
      ...Object.fromEntries(this.#arrays.map(({ name, values, dims }) => [name, { data: values, dims }])),
    };
  }
}

/** Adds up the gradients of rows with the same id; ids are in the order of their first row. */
function sumByToken(tokenIds: Int32Array, rows: Float32Array, width: number): RowGradients {
  const places = new Map<number, number>();
  for (const id of tokenIds) if (!places.has(id)) places.set(id, places.size);
  const gradient = new Float32Array(places.size * width);
  tokenIds.forEach((id, row) => {
    const start = places.get(id)! * width;
    for (let i = 0; i < width; i++) gradient[start + i]! += rows[row * width + i]!;
  });
  return { ids: Int32Array.from(places.keys()), gradient };
}

// The router's network, as @readme-moe/router serves it: its shape, its training graph over sequences of equal length,
// and its form in a Read-ME folder.

/** Sizes of a router, named as in `RouterConfig`. */
export type RouterArchitecture = Pick<
  RouterConfig,
  "embeddingSize" | "innerSize" | "numHeads" | "numLayers" | "normalizer" | "ropeTheta"
>;

/** Table 1 of the Read-ME paper. */
export const PAPER_ARCHITECTURE: RouterArchitecture = {
  embeddingSize: 512,
  innerSize: 512,
  numHeads: 4,
  numLayers: 1,
  normalizer: 1,
  ropeTheta: 10000,
};

/** Smaller than the paper's, and more accurate on unseen text. */
export const DEFAULT_ARCHITECTURE: RouterArchitecture = {
  embeddingSize: 128,
  innerSize: 128,
  numHeads: 4,
  numLayers: 1,
  normalizer: Math.sqrt(128 / 4),
  ropeTheta: 10000,
};

export type RouterParameters = ReadonlyMap<string, Float32Array>;

/** Number and length of the sequences of a batch. */
interface BatchShape {
  readonly sequences: number;
  readonly tokens: number;
}

/** Name of the embedding among the parameters. */
export const EMBEDDING = "embed.weight";
/** Input of a graph for the embeddings of a batch's tokens. */
const EMBEDDED = "embedded";

/** Returns the shapes of all parameters except the embedding, named and ordered as in a Read-ME folder. */
export function routerShapes(config: RouterConfig): ReadonlyMap<string, readonly number[]> {
  const { embeddingSize, innerSize, numExperts, numLayers } = config;
  const shapes = new Map<string, readonly number[]>();
  const addLinear = (name: string, out: number, size: number): void => {
    shapes.set(`${name}.weight`, [out, size]).set(`${name}.bias`, [out]);
  };
  for (let layer = 0; layer < numLayers; layer++) {
    shapes.set(`input_layernorm_${layer}.weight`, [embeddingSize]);
    for (const name of ["q_proj", "k_proj", "v_proj"]) addLinear(`${name}_${layer}`, innerSize, embeddingSize);
    addLinear(`o_proj_${layer}`, embeddingSize, innerSize);
    shapes.set(`post_attention_layernorm_${layer}.weight`, [embeddingSize]);
    addLinear(`proj_1_${layer}`, innerSize, embeddingSize);
    addLinear(`proj_2_${layer}`, embeddingSize, innerSize);
  }
  shapes.set("out_layernorm.weight", [embeddingSize]);
  addLinear("proj_out", numExperts, embeddingSize);
  return shapes;
}

/**
 * Builds the graph of a training step. Inputs: all parameters of `routerShapes`; `EMBEDDED` `[rows, embeddingSize]`,
 * the embeddings of the batch's tokens, so that the table is not copied; `targets` `[rows, numExperts]`, see
 * `crossEntropy`. Outputs: see `Tape.build`.
 */
function trainingGraph(config: RouterConfig, batch: BatchShape): Graph {
  const tape = new Tape("router-training");
  const logits = routerLogits(tape, config, batch, (name, shape) => tape.parameter(name, shape));
  const targets = tape.data("targets", "float32", [batch.sequences * batch.tokens, config.numExperts]);
  return tape.build(crossEntropy(tape, logits, targets));
}

/** Builds a graph with the inputs of `trainingGraph` without targets; the output is `logits` `[rows, numExperts]`. */
function predictionGraph(config: RouterConfig, batch: BatchShape): Graph {
  const tape = new Tape("router-prediction");
  const logits = routerLogits(tape, config, batch, (name, shape) => tape.data(name, "float32", shape));
  tape.graph.output("logits", logits.value, "float32", logits.shape);
  return tape.graph.build();
}

type Weights = (name: string, shape: readonly number[]) => Tensor;

function routerLogits(tape: Tape, config: RouterConfig, batch: BatchShape, weights: Weights): Tensor {
  const shapes = routerShapes(config);
  const weight = (name: string): Tensor => weights(name, shapes.get(name)!);
  const apply = (name: string, x: Tensor): Tensor => linear(tape, x, weight(`${name}.weight`), weight(`${name}.bias`));
  const norm = (name: string, x: Tensor): Tensor =>
    rmsNorm(tape, x, weight(`${name}.weight`), { epsilon: ROUTER_RMS_NORM_EPSILON });

  const rows = batch.sequences * batch.tokens;
  let x = weights(EMBEDDED, [rows, config.embeddingSize]);
  const { numHeads } = config;
  const headSize = config.innerSize / numHeads;
  const scale = 1 / config.normalizer;
  const sizes = { tokens: batch.tokens, numHeads, numKvHeads: numHeads, headSize, scale };
  const rope = { type: "default", theta: config.ropeTheta } as const;
  const tables = rotaryTables(tape, { set: 0, rope, rotatedSize: headSize, tokens: batch.tokens });
  for (let layer = 0; layer < config.numLayers; layer++) {
    const normed = norm(`input_layernorm_${layer}`, x);
    const rotated = (name: string): Tensor => {
      const flat = reshape(tape, apply(name, normed), [batch.sequences, batch.tokens, config.innerSize]);
      return reshape(tape, rotary(tape, flat, tables), [rows, config.innerSize]);
    };
    const [query, key] = [rotated(`q_proj_${layer}`), rotated(`k_proj_${layer}`)];
    const joined = causalAttention(tape, { query, key, value: apply(`v_proj_${layer}`, normed) }, sizes);
    x = add(tape, x, apply(`o_proj_${layer}`, joined));
    const expanded = silu(tape, apply(`proj_1_${layer}`, norm(`post_attention_layernorm_${layer}`, x)));
    x = add(tape, x, apply(`proj_2_${layer}`, expanded));
  }
  return apply("proj_out", norm("out_layernorm", x));
}

/** Returns the tensors of a Read-ME folder's router file, in its order. */
export function routerTensors(config: RouterConfig, parameters: RouterParameters): readonly SafetensorsInput[] {
  const shapes = new Map([[EMBEDDING, [config.vocabSize, config.embeddingSize]], ...routerShapes(config)]);
  return Array.from(shapes, ([name, shape]) => {
    const values = parameters.get(name)!;
    const bytes = async (): Promise<Uint8Array> => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    return { name, type: "F32", shape, bytes };
  });
}

/** Returns the router's section of a Read-ME folder's config.json. */
export function routerSection(config: RouterConfig): NonNullable<ReadMeContent["readme"]["router"]> {
  return {
    embedding_size: config.embeddingSize,
    inner_size: config.innerSize,
    num_heads: config.numHeads,
    num_layers: config.numLayers,
    normalizer: config.normalizer,
    rope_theta: config.ropeTheta,
    context_tokens: config.contextTokens,
    activation: "silu",
  };
}

// Batches of a router's training: crops of examples, the same for the same seed and step.

/**
 * Token ids `[sequences · tokens]` and targets `[sequences · tokens, numExperts]`. Rows beyond the end of a short
 * example have targets of zero.
 */
interface RouterBatch {
  readonly tokenIds: Int32Array;
  readonly targets: Float32Array;
}

interface BatchOptions {
  readonly shape: BatchShape;
  readonly numExperts: number;
  /** Share of the tokens that are replaced by tokens drawn from all examples. */
  readonly replacedShare: number;
  readonly seed: number;
}

/** Part of an example, about as long as a crop. An example is drawn as often as it has parts. */
interface Stretch {
  /** Tokens and targets of the whole example. */
  readonly tokenIds: Int32Array;
  readonly targets: Float32Array;
  readonly start: number;
  readonly end: number;
}

export class RouterBatches {
  readonly #options: BatchOptions;
  readonly #stretches: readonly Stretch[];
  #order: readonly Stretch[] = [];
  #epoch = -1;

  /** @param targets - of each example, see `routerTargets` */
  constructor(examples: readonly RouterExample[], targets: readonly Float32Array[], options: BatchOptions) {
    this.#options = options;
    const length = options.shape.tokens;
    this.#stretches = examples.flatMap(({ tokenIds }, index) => {
      const count = Math.max(1, Math.round(tokenIds.length / length));
      const cut = (place: number): number => Math.floor((tokenIds.length * place) / count);
      const example = { tokenIds, targets: targets[index]! };
      return Array.from({ length: count }, (_, place) => ({ ...example, start: cut(place), end: cut(place + 1) }));
    });
  }

  /**
   * Crops the stretches of a step; each epoch has a new order. A crop begins at a random place near its stretch.
   *
   * @param step - from 0
   */
  batch(step: number): RouterBatch {
    const { shape, numExperts, replacedShare, seed } = this.#options;
    const random = seededRandom(mix(seed, step));
    const tokenIds = new Int32Array(shape.sequences * shape.tokens);
    const targets = new Float32Array(tokenIds.length * numExperts);
    for (let row = 0; row < shape.sequences; row++) {
      const stretch = this.#stretchAt(step * shape.sequences + row);
      const { length } = stretch.tokenIds;
      const spare = Math.max(0, length - shape.tokens);
      const middle = Math.floor((stretch.start + stretch.end - shape.tokens) / 2);
      const jitter = Math.floor((random() - 0.5) * shape.tokens);
      const from = Math.min(spare, Math.max(0, middle + jitter));
      const to = Math.min(length, from + shape.tokens);
      tokenIds.set(stretch.tokenIds.subarray(from, to), row * shape.tokens);
      targets.set(stretch.targets.subarray(from * numExperts, to * numExperts), row * shape.tokens * numExperts);
    }
    if (replacedShare > 0) {
      for (let i = 0; i < tokenIds.length; i++) if (random() < replacedShare) tokenIds[i] = this.#anyToken(random);
    }
    return { tokenIds, targets };
  }

  #stretchAt(index: number): Stretch {
    const count = this.#stretches.length;
    const epoch = Math.floor(index / count);
    if (epoch !== this.#epoch) {
      this.#epoch = epoch;
      this.#order = shuffled(this.#stretches, mix(~this.#options.seed, epoch));
    }
    return this.#order[index - epoch * count]!;
  }

  #anyToken(random: () => number): number {
    const { tokenIds } = this.#stretches[Math.floor(random() * this.#stretches.length)]!;
    return tokenIds[Math.floor(random() * tokenIds.length)]!;
  }
}

/** Mixes a seed with a step, so that the random numbers of consecutive steps are independent. */
function mix(seed: number, step: number): number {
  let mixed = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(step + 1, 0xc2b2ae35);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0x27d4eb2f);
  return (mixed ^ (mixed >>> 13)) >>> 0;
}
