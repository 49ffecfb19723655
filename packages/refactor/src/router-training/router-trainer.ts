// A router in training: its parameters, the optimizer's state, and the graphs that run them.

import type { RouterConfig } from "@readme-moe/model";
import { GraphSession, type GraphTensor } from "../graphs/session.ts";
import { argmaxRoute } from "@readme-moe/router";
import { ADAM, adamRows, adamStep, clipGradients, zeroMoments, type RowGradients } from "../autodiff/adam.ts";
import { gradientName } from "../autodiff/tape.ts";
import type { RouterBatch } from "./router-batches.ts";
import {
  EMBEDDED,
  EMBEDDING,
  predictionGraph,
  routerShapes,
  trainingGraph,
  type BatchShape,
  type RouterParameters,
} from "./router-network.ts";

const MAX_GRADIENT_NORM = 1;
/** Learning rate of the embedding, relative to the others: a token's row is in few batches. */
const EMBEDDING_RATE = 3;
/** Prediction pads texts to multiples of this, so that a few graphs serve all lengths. */
const LENGTH_STEP = 128;

/** Settings of a step's learning. */
export interface Rates {
  readonly learningRate: number;
  /** Weight decay of matrices and the embedding. */
  readonly weightDecay: number;
}

export class RouterTrainer {
  readonly parameters: RouterParameters;
  readonly #config: RouterConfig;
  readonly #threads: number | undefined;
  readonly #training: GraphSession;
  readonly #predictions = new Map<number, GraphSession>();
  readonly #arrays;
  readonly #embedding;

  private constructor(
    config: RouterConfig,
    parameters: RouterParameters,
    training: GraphSession,
    threads: number | undefined,
  ) {
    this.parameters = parameters;
    this.#config = config;
    this.#training = training;
    this.#threads = threads;
    const trained = (name: string) => {
      const values = parameters.get(name) ?? new Float32Array(0);
      return { name, values, ...zeroMoments(values.length) };
    };
    this.#arrays = Array.from(routerShapes(config), ([name, dims]) => ({ ...trained(name), dims }));
    this.#embedding = { ...trained(EMBEDDING), steps: new Float32Array(config.vocabSize) };
  }

  /** @param parameters - of `routerShapes`, and `EMBEDDING`; training changes them in place */
  static async open(
    config: RouterConfig,
    parameters: RouterParameters,
    shape: BatchShape,
    threads: number | undefined,
  ): Promise<RouterTrainer> {
    const training = await GraphSession.open(trainingGraph(config, shape), { threads });
    return new RouterTrainer(config, parameters, training, threads);
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
    const outputs = await this.#training.run({
      ...this.#feeds(tokenIds),
      targets: { data: targets, dims: [tokenIds.length, numExperts] },
    });
    const gradients = this.#arrays.map(({ name }) => floats(outputs, gradientName(name)));
    const embedding = sumByToken(tokenIds, floats(outputs, gradientName(EMBEDDED)), embeddingSize);
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
    let session = this.#predictions.get(length);
    if (!session) {
      const graph = predictionGraph(this.#config, { sequences: 1, tokens: length });
      session = await GraphSession.open(graph, { threads: this.#threads });
      this.#predictions.set(length, session);
    }
    const padded = new Int32Array(length);
    padded.set(tokenIds);
    const outputs = await session.run(this.#feeds(padded));
    return floats(outputs, "logits").slice(0, tokenIds.length * this.#config.numExperts);
  }

  async dispose(): Promise<void> {
    for (const session of [this.#training, ...this.#predictions.values()]) await session.dispose();
  }

  #feeds(tokenIds: Int32Array): Record<string, GraphTensor> {
    const { embeddingSize } = this.#config;
    const table = this.#embedding.values;
    const embedded = new Float32Array(tokenIds.length * embeddingSize);
    tokenIds.forEach((id, row) => {
      embedded.set(table.subarray(id * embeddingSize, (id + 1) * embeddingSize), row * embeddingSize);
    });
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

function floats(outputs: Readonly<Record<string, GraphTensor>>, name: string): Float32Array {
  return outputs[name]?.data as Float32Array;
}
